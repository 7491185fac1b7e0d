import platform
import subprocess
import sys

import pytest

from impasto.memory import is_shortage

FAULTS = """
import resource
from impasto.memory import keep_freed_memory
{call}
import torch
from impasto.models.transformer_net import TransformerNet
net, content = TransformerNet().to(memory_format=torch.channels_last), torch.rand(1, 3, 512, 512)
with torch.inference_mode():
    for _ in range(4): net(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3): net(content)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(call: str) -> int:
    script = FAULTS.format(call=call)
    return int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library's allocator")
def test_a_pass_touches_no_new_pages():
    assert page_faults("keep_freed_memory()") < page_faults("pass") / 5


@pytest.mark.parametrize(
    ("said", "short"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB", True),
        ("MPS backend out of memory (MPS allocated: 1 GB)", True),
        ("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes", True),
        ("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("could not create a primitive", True),
        ("CUDA error: an illegal memory access was encountered", False),
        ("unsupported memory format option Contiguous", False),
    ],
)
def test_a_lack_of_memory_is_told_from_other_errors(said, short):
    assert is_shortage(RuntimeError(said)) is short
