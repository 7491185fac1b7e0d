"""Memory: the C library's allocator, set up for tensors, what is free, and the ways to say that it is too little."""

import ctypes
import gc
import platform
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from impasto.limits import GROUPS, OWN, control_groups

if TYPE_CHECKING:  # it takes seconds
    import torch

# of glibc's malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


# of control groups, v2 and v1: the limit (v1's largest number is none), what is used, and in memory.stat what is files'
GROUP_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
EXTENDED = 16  # px, by which the default network extends each side: a row of pixels is worked on as 17

# of torch.OutOfMemoryError, of the CPU's allocators, and of the libraries behind both
SHORTAGE = r"out.of.memory|(not enough|allocate) memory|ALLOC(ATION)?_FAILED|could not (create|execute) a primitive"


def is_shortage(error: Exception) -> bool:
    """Whether torch, which has a class for it on GPUs alone, says that memory does not suffice."""
    return re.search(SHORTAGE, str(error), re.IGNORECASE) is not None


_keeps = False


def keep_freed_memory() -> None:
    """Make freed memory stay with the process, for the next tensor; does nothing where the C library is not glibc.

    By default glibc maps every large tensor anew and unmaps it when freed, so that each step touches gigabytes of
    pages for the first time: a third to a half of the time of a training step or a forward pass on a CPU.
    The process then holds on to what it once used, so this is for commands, not for importing programs.
    """
    global _keeps
    if platform.libc_ver()[0] == "glibc":
        _keeps = True
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # as an unsigned number, the largest
        libc.mallopt(M_TOP_PAD, 64 << 20)  # bytes: fewer calls to the kernel


def give_freed_memory_back() -> None:
    """Return to the system what `keep_freed_memory` has kept, as far as it is in one piece."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


_sharers = 1


def share_memory(processes: int) -> None:
    """Count on only this part of the CPU's memory from now on, as so many processes stylize on this machine."""
    global _sharers
    _sharers = processes


def free_memory(device: "torch.device") -> int:
    """Bytes that this process can still take on the device: on a CPU, within the limits set to it as well."""
    if device.type == "cuda":
        import torch

        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return _free_main_memory() // _sharers


def _free_main_memory() -> int:
    return min([psutil.virtual_memory().available, *_below_address_limit(), *_below_group_limits()])


class Room:
    """Whether a pass fits into the machine's memory, asked before it is tried: the system would end the process.

    Where `keep_freed_memory` has what one has taken stay with the process, as much is not asked for again.
    """

    def __init__(self) -> None:
        self.held = 0

    def take(self, needed: int) -> None:
        """Raise `MemoryError` where so many bytes are neither held nor free."""
        if needed > self.held and needed - self.held > _free_main_memory():
            raise MemoryError
        if _keeps:
            self.held = max(self.held, needed)


def _below_address_limit() -> list[int]:
    """What `ulimit -v` leaves."""
    if not hasattr(psutil, "RLIMIT_AS"):  # not on Linux
        return []
    process = psutil.Process()
    limit, _ = process.rlimit(psutil.RLIMIT_AS)
    return [] if limit < 0 else [max(limit - process.memory_info().vms, 0)]


def _below_group_limits(root: Path = GROUPS, own: Path = OWN) -> list[int]:
    """What containers and batch systems leave."""
    room = []
    for group in control_groups("memory", root, own):
        for limit_file, used_file, files in GROUP_FILES:
            with suppress(OSError):  # none here
                limit, used = ((group / name).read_text().strip() for name in (limit_file, used_file))
                statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                if limit != "max":
                    # files that the system keeps in memory count as used, but it gives them up
                    room.append(max(int(limit) - int(used) + int(statistics[files]), 0))
    return room
