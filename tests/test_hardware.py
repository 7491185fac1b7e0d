import pytest

from impasto import hardware


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
