import pytest
import torch

from impasto import hardware
from impasto.errors import UserError


@pytest.mark.parametrize(
    ("ours", "wanted", "theirs"),
    [
        (None, [0], "0"),
        (None, [1, 3], "1,3"),
        ("4,5,6,7", [1, 3], "5,7"),
        ("GPU-8932f937,GPU-46a4b2f1", [1], "GPU-46a4b2f1"),
    ],
)
def test_gpus_are_named_among_those_that_we_see(monkeypatch, ours, wanted, theirs):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if ours:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ours)
    assert hardware.visible(wanted) == theirs


def test_a_gpu_beyond_those_that_we_see_is_named(monkeypatch):
    """As the machine's own numbers are, where a scheduler gave two of its GPUs."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    with pytest.raises(UserError, match="this process sees no GPU 2: of CUDA_VISIBLE_DEVICES=2,3 the first is 0"):
        hardware.visible([2, 3])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert hardware.choose_device("cuda:1") == torch.device("cuda:1")
    assert hardware.choose_device(torch.device("cuda:1")) == torch.device("cuda:1")
    with pytest.raises(UserError, match="device=cuda:2 was asked for, but the last GPU is cuda:1"):
        hardware.choose_device("cuda:2")


@pytest.mark.parametrize(("cores", "said", "expected"), [(2, None, [2]), (64, None, []), (2, "8", []), (65, None, [])])
def test_a_containers_quota_is_heeded(monkeypatch, cores, said, expected):
    """Of 64 threads, with which two cores' time would be gone at once in each period."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    threads = []
    monkeypatch.setattr(hardware, "cores", lambda: cores)
    monkeypatch.setattr(hardware.torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(hardware.torch, "set_num_threads", threads.append)
    hardware.heed_quota()
    assert threads == expected
