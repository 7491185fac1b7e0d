import errno
import json
import os
import stat
from contextlib import nullcontext
from unittest.mock import Mock

import pytest

from impasto.errors import UserError
from impasto.files import check_place, whole_file, write_text


def test_a_whole_file_appears_with_ordinary_permissions(tmp_path):
    with whole_file(tmp_path / "deep" / "a.txt") as temporary:
        temporary.write_text("whole")
        assert not (tmp_path / "deep" / "a.txt").exists()
    assert (tmp_path / "deep" / "a.txt").read_text() == "whole"
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "deep" / "a.txt").stat().st_mode) == 0o666 & ~umask


def test_a_file_system_without_permissions_takes_files(tmp_path, monkeypatch):
    """As some of Windows' disks under Linux."""
    monkeypatch.setattr("pathlib.Path.chmod", Mock(side_effect=PermissionError(1, "Operation not permitted")))
    with whole_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
    assert (tmp_path / "a.txt").read_text() == "whole"


def test_names_that_are_no_utf_8_can_be_told_of(tmp_path):
    """As those of photos from old archives, in a card."""
    name = os.fsdecode(b"caf\xe9.jpg")
    write_text(tmp_path / "a.json", json.dumps({"café": name}, ensure_ascii=False))
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{"café": "caf\\udce9.jpg"}'
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"café": name}


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_one(tmp_path, there):
    """To what is written, in its own folder."""
    (tmp_path / "far").mkdir()
    if there:
        (tmp_path / "far" / "a.txt").write_text("before")
    (tmp_path / "link").symlink_to(tmp_path / "far" / "a.txt")
    write_text(tmp_path / "link", "after")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "far" / "a.txt").read_text() == "after"
    assert [path.name for path in (tmp_path / "far").iterdir()] == ["a.txt"]


def test_an_error_leaves_what_was_there(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(RuntimeError), whole_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a device that is always full")
def test_a_full_disk_is_one_line(tmp_path):
    with (
        pytest.raises(UserError, match=r"cannot write .*a.txt': No space left on device"),
        whole_file(tmp_path / "a.txt"),
        open("/dev/full", "w") as full,
    ):
        full.write("x" * 100_000)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="folders are synced on POSIX only")
@pytest.mark.parametrize("problem", [errno.EINVAL, errno.EACCES, errno.EIO])
def test_a_folder_that_cannot_be_synced_costs_nothing_a_broken_disk_is_told(tmp_path, monkeypatch, problem):
    """As folders of virtual machines' and some networks' shares, and those that may be written to but not read."""

    def fsync(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(problem, os.strerror(problem))

    monkeypatch.setattr(os, "fsync", fsync)
    told = pytest.raises(UserError, match="Input/output error") if problem == errno.EIO else nullcontext()
    with told, whole_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
    assert (tmp_path / "a.txt").read_text() == "whole"


def test_a_file_is_synced_by_a_handle_that_can_write(tmp_path, monkeypatch):
    """Windows takes no other."""
    fcntl = pytest.importorskip("fcntl", reason="which Windows lacks")
    modes = []
    monkeypatch.setattr(os, "fsync", lambda handle: modes.append(fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE))
    with whole_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
    assert modes[0] == os.O_RDWR


def test_a_file_in_the_way_of_the_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"), whole_file(tmp_path / "file" / "a.txt"):
        pass


def test_a_place_where_nothing_can_be_written_is_known_before(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    check_place(tmp_path / "a.png")
    check_place(tmp_path / "file")  # which is replaced
    check_place(tmp_path / "new" / "folder" / "a.png")
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match="cannot write '.*': Is a directory"):
        check_place(tmp_path)
    with pytest.raises(UserError, match="cannot write '.*a.png': Not a directory"):
        check_place(tmp_path / "file" / "deep" / "a.png")
    monkeypatch.chdir(tmp_path)
    check_place("a.png")
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may write anywhere
    with pytest.raises(UserError, match="cannot write 'new/a.png': Permission denied"):
        check_place("new/a.png")


def test_a_name_that_is_too_long_and_a_disk_that_only_reads_are_told_before(tmp_path, monkeypatch):
    for name in ("é" * 128, f"{'b' * 256}/c.png"):
        with pytest.raises(UserError, match="cannot write .*: File name too long"):
            check_place(tmp_path / name)
    check_place(tmp_path / ("é" * 127))
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(UserError, match="Permission denied"):
        check_place(tmp_path / "a.png")
    if os.name == "posix":
        monkeypatch.setattr("os.statvfs", lambda _: Mock(f_flag=os.ST_RDONLY | os.ST_NOSUID))
        with pytest.raises(UserError, match="Read-only file system"):
            check_place(tmp_path / "a.png")
