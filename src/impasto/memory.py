"""Memory: the C library's allocator, set up for tensors, and the ways to say that there is too little."""

import ctypes
import gc
import platform
import re

# of glibc's malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


# of torch.OutOfMemoryError, of the CPU's allocators, and of the libraries behind both
SHORTAGE = r"out.of.memory|(not enough|allocate) memory|ALLOC(ATION)?_FAILED|could not (create|execute) a primitive"


def is_shortage(error: Exception) -> bool:
    """Whether torch, which has a class for it on GPUs alone, says that memory does not suffice."""
    return re.search(SHORTAGE, str(error), re.IGNORECASE) is not None


def keep_freed_memory() -> None:
    """Make freed memory stay with the process, for the next tensor; does nothing where the C library is not glibc.

    By default glibc maps every large tensor anew and unmaps it when freed, so that each step touches gigabytes of
    pages for the first time: a third to a half of the time of a training step or a forward pass on a CPU.
    The process then holds on to what it once used, so this is for commands, not for importing programs.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # as an unsigned number, the largest
        libc.mallopt(M_TOP_PAD, 64 << 20)  # bytes: fewer calls to the kernel


def give_freed_memory_back() -> None:
    """Return to the system what `keep_freed_memory` has kept, as far as it is in one piece."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
