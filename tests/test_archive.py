import errno
import os
import zipfile

import pytest
import torch

from impasto import archive
from impasto.archive import check_sums, check_weights, load_archive
from impasto.errors import UnreadableError, UserError

SHORT = "it takes more memory than there is"


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "net.pth"
    torch.save({"weight": torch.arange(4000.0)}, path)
    return path


def test_an_archive_gives_its_tensors(saved):
    loaded = load_archive(saved)
    assert torch.equal(loaded["weight"], torch.arange(4000.0))
    check_sums(saved)
    check_weights(loaded, saved)


@pytest.mark.parametrize("shorter", [1, 3000, 15000])
def test_a_part_of_an_archive_is_damaged(saved, shorter):
    saved.write_bytes(saved.read_bytes()[:-shorter])
    with pytest.raises(UserError, match=r"net.pth' is damaged") as error:
        load_archive(saved)
    assert not isinstance(error.value, UnreadableError)
    with pytest.raises(UserError, match=r"net.pth' is damaged: its checksums are wrong"):
        check_sums(saved)


def test_a_flipped_bit_is_found(saved):
    content = bytearray(saved.read_bytes())
    content[content.index(torch.arange(3000.0, 3001.0).numpy().tobytes())] ^= 1
    saved.write_bytes(content)
    load_archive(saved)  # which torch does not see
    with pytest.raises(UserError, match=r"is damaged: its checksums are wrong, first in .*data/0"):
        check_sums(saved)


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (OSError(errno.EIO, os.strerror(errno.EIO)), UnreadableError, f"cannot be read: {os.strerror(errno.EIO)}"),
        (MemoryError(), UnreadableError, f"cannot be read: {SHORT}"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: …"), UnreadableError, f"cannot be read: {SHORT}"),
        (RuntimeError("unable to mmap 4096 bytes"), UnreadableError, "cannot be read: unable to mmap 4096 bytes"),
        (OSError(errno.EINVAL, os.strerror(errno.EINVAL)), UserError, "is damaged"),
        (RuntimeError("PytorchStreamReader failed"), UserError, "is damaged"),
    ],
)
def test_a_failing_system_is_told_from_a_damaged_file(saved, monkeypatch, error, kind, said):
    """What is damaged is set aside by a run that goes on; what the system withholds is not."""

    def fail(*args, **options):
        raise error

    monkeypatch.setattr(torch, "load", fail)
    monkeypatch.setattr(zipfile.ZipFile, "testzip", fail)
    for read in (load_archive, check_sums):
        with pytest.raises(UserError) as raised:
            read(saved)
        assert type(raised.value) is kind
        assert str(raised.value).startswith(f"{str(saved)!r} {said}")


def test_what_is_not_mapped_does_not_change_with_its_file(saved):
    before = torch.load(saved, weights_only=True)
    loaded = load_archive(saved, mapped=False)
    with saved.open("r+b") as file:
        file.write(bytes(saved.stat().st_size))
    assert all(torch.equal(loaded[name], tensor) for name, tensor in before.items())


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match=r"there is no checkpoint '.*nowhere.pth'"):
        load_archive(tmp_path / "nowhere.pth")


def test_archives_unpack_to_no_more_than_they_are(saved):
    with zipfile.ZipFile(saved) as source:
        parts = {entry.filename: source.read(entry) for entry in source.infolist()}
    with zipfile.ZipFile(saved, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in parts.items():
            packed.writestr(name, bytes(10**7) if name.endswith("data/0") else content)
    assert archive.unpacked_size(saved) > 10**7 > saved.stat().st_size
    with pytest.raises(UserError, match="claims more weights than it holds"):
        load_archive(saved)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("a word", "its 'weight' is no tensor of weights"),
        (torch.ones(3, dtype=torch.int64), "its 'weight' is no tensor of weights"),
        (torch.ones(3).to_sparse(), "its 'weight' is no tensor of weights"),
        (torch.ones(3, device="meta"), "its 'weight' is no tensor of weights"),
        (torch.ones(1).expand(10**12), "claims more weights than it holds"),
    ],
)
def test_weights_are_plain_tensors_that_the_file_has_room_for(saved, value, said):
    with pytest.raises(UserError, match=said):
        check_weights({"weight": value}, saved)
