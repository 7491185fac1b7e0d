import platform
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from impasto import memory
from impasto.memory import free_memory, is_shortage

FAULTS = """
import resource
from impasto.memory import keep_freed_memory
{call}
import torch
from impasto.models.transformer_net import TransformerNet
net, content = TransformerNet(depth=0).to(memory_format=torch.channels_last), torch.rand(1, 3, 512, 512)
with torch.inference_mode():
    for _ in range(2): net(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(2): net(content)
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


def test_free_memory_heeds_every_limit(monkeypatch, tmp_path):
    assert 0 < free_memory(torch.device("cpu")) <= psutil.virtual_memory().total
    group = tmp_path / "job" / "step"
    group.mkdir(parents=True)
    for folder, limit in ((group, "max"), (group.parent, 9000)):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text("5000\n")
        (folder / "memory.stat").write_text("anon 4000\ninactive_file 700\n")
    own = tmp_path / "own"
    own.write_text("4:memory:/elsewhere\n0::/job/step\n")
    assert memory._below_group_limits(tmp_path, own) == [4700]
    assert memory._below_group_limits(tmp_path, Path("absent")) == []
    old = tmp_path / "memory" / "slurm" / "job"  # of v1
    old.mkdir(parents=True)
    for folder, limit in ((old, 0x7FFFFFFFFFFFF000), (old.parent, 8000)):
        (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
        (folder / "memory.usage_in_bytes").write_text("5000\n")
        (folder / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 600\n")
    own.write_text("4:cpu,cpuacct:/elsewhere\n5:memory:/slurm/job\n")
    assert min(memory._below_group_limits(tmp_path, own)) == 3600
    monkeypatch.setattr(memory, "_below_address_limit", lambda: [1234])
    assert free_memory(torch.device("cpu")) == 1234


def test_a_limit_of_addresses_is_heeded():
    script = (
        "import resource, torch; from impasto import memory;"
        "resource.setrlimit(resource.RLIMIT_AS, (64 << 30, -1)); print(memory._below_address_limit()[0])"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert 32 << 30 < int(answer) < 64 << 30
