import platform
import resource
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from impasto.memory import keep_freed_memory
{call}
for _ in range(3): torch.zeros(40_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5): torch.zeros(40_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(call: str) -> int:
    script = FAULTS.format(call=call)
    return int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library's allocator")
def test_a_freed_tensor_is_not_mapped_anew():
    pages = 5 * 160_000_000 // resource.getpagesize()
    assert page_faults("pass") > pages / 2
    assert page_faults("keep_freed_memory()") < pages / 100
