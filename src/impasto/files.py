"""Whole files or none."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from impasto.errors import UserError

# of folders that may be written to but not read, and of shares that know no such thing: the file is there, whole
UNSYNCED = (errno.EACCES, errno.EBADF, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)
NAME_BYTES = 255  # of a file, on all common file systems
STYLE_BYTES = NAME_BYTES - len(".safetensors")  # of a style's name, after which its network's file is called
UMASK = os.umask(0)  # read once: reading it sets it, for a moment, for all threads
os.umask(UMASK)


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; it becomes `path` at the end, or vanishes on any error.

    A link at `path` is followed. Raises `UserError` when the folder cannot be written or the disk is full.
    """
    place = Path(os.path.realpath(path))  # a link stays one, to what is written
    temporary: Path | None = None
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".", suffix=place.suffix, dir=place.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("r+b") as written:  # Windows syncs only what can be written
            os.fsync(written.fileno())  # before the rename, or a power cut can leave an empty file
        with suppress(OSError):  # of file systems without permissions
            temporary.chmod(0o666 & ~UMASK)  # mkstemp's files are private
        temporary.replace(place)
        _sync_folder(place.parent)
    except OSError as error:
        raise UserError(f"cannot write {str(path)!r}: {error.strerror or error}") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def check_place(path: str | os.PathLike[str]) -> None:
    """Raise `UserError` where `whole_file` could not write: before minutes are spent on what is to be written."""
    place = Path(path).absolute()
    if any(len(os.fsencode(part)) > NAME_BYTES for part in place.parts):
        problem = errno.ENAMETOOLONG
    elif place.is_dir():
        problem = errno.EISDIR
    elif not (folder := nearest_existing(place.parent)).is_dir():
        problem = errno.ENOTDIR
    elif not os.access(folder, os.W_OK | os.X_OK):
        problem = errno.EROFS if _read_only(folder) else errno.EACCES
    else:
        return
    raise UserError(f"cannot write {str(path)!r}: {os.strerror(problem)}")


def check_absent(*paths: Path) -> None:
    """Raise `UserError` where a run would write over one of these."""
    if there := next((path for path in paths if path.exists()), None):
        raise UserError(f"{str(there)!r} is there, and would be written over: name another hydra.run.dir=DIR")


def is_utf8(path: str | os.PathLike[str]) -> bool:
    """Whether a path is text, which libraries in C++ and Rust take alone."""
    text = os.fspath(path)
    return text.encode("utf-8", "ignore").decode() == text


def _read_only(folder: Path) -> bool:
    """Whether a folder's file system is, as far as the system says."""
    return os.name == "posix" and bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def nearest_existing(path: Path) -> Path:
    """`path`, or the first folder above it that is there; `path` if none is, as on a drive that Windows lacks."""
    return next((place for place in (path, *path.parents) if place.exists()), path)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file in UTF-8, whole or not at all; a name's bytes that are none are written as JSON escapes them.

    Raises `UserError` as `whole_file` does.
    """
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


def _sync_folder(folder: Path) -> None:
    """Have a folder's entries on the disk: until then, a power cut can bring back what a file replaced."""
    if os.name != "posix":  # elsewhere folders cannot be opened
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in UNSYNCED:
            raise
