"""Files wherever fsspec reaches: local paths and URLs alike, read and written whole."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, TypeVar

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import known_implementations

from impasto.errors import UserError, one_line
from impasto.files import whole_file

log = logging.getLogger("impasto")

Result = TypeVar("Result")

WAITS = (1.0, 4.0)  # s, before the second and third attempt
# of what stores tell of a file, the first there is: its content's hash, else when it was written
VERSIONS = ("ETag", "etag", "md5Hash", "content_md5", "mtime", "LastModified", "last_modified", "updated", "created")


class StorageError(UserError):
    """What a store says that does not answer, or has no room: the next file may fare no better."""


def locate(place: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a path or URL, and the path on it. Raises `StorageError` for a scheme that cannot be read."""
    if "://" not in place:
        return LocalFileSystem(), str(Path(place).absolute())
    try:
        return url_to_fs(place, use_listings_cache=False)  # which would hold every name of a bucket
    except ImportError as error:
        package = known_implementations.get(place.partition("://")[0], {}).get("class", "fsspec").partition(".")[0]
        mend = one_line(error) if package == "fsspec" else f"pip install {package}"
        raise StorageError(f"{place!r} takes a package that is not installed: {mend}") from None
    except Exception as error:  # what stores raise for absent credentials has no common base
        raise StorageError(f"{place!r} cannot be reached: {one_line(error)}") from None


def is_local(place: str) -> bool:
    """Whether it is a path on this machine."""
    return isinstance(locate(place)[0], LocalFileSystem)


def state(place: str) -> tuple[int, str | None]:
    """Size in bytes and what changes with the content, None where the store tells nothing.

    Raises `UserError` where there is no such file, `StorageError` where the store does not answer.
    """
    file_system, path = locate(place)
    told: dict[str, Any] = _patiently(lambda: file_system.info(path), place)
    if told.get("type") != "file":
        raise UserError(f"{place!r} is a folder, a pipe or a device, not an image")
    version = next((str(told[name]) for name in VERSIONS if told.get(name)), None)
    return int(told.get("size") or 0), None if version is None else f"{told.get('size')} {version}"


def exists(place: str) -> bool:
    """Whether there is such a file."""
    file_system, path = locate(place)
    return bool(_patiently(lambda: file_system.isfile(path), place))


def read(place: str) -> bytes:
    """All of a file. Raises `UserError` where there is none, `StorageError` where the store does not answer."""
    file_system, path = locate(place)
    return bytes(_patiently(lambda: file_system.cat_file(path), place))


def write(place: str, content: bytes) -> None:
    """Write a file whole or not at all, as object stores do by themselves. Raises `StorageError`."""
    file_system, path = locate(place)
    if isinstance(file_system, LocalFileSystem):
        try:
            with whole_file(path) as temporary:
                temporary.write_bytes(content)
        except UserError as error:
            raise StorageError(str(error)) from None
    else:
        _patiently(lambda: file_system.pipe_file(path, content), place)


def same(one: str, other: str) -> bool:
    """Whether both are one file, by whatever way."""
    (first, path), (second, other_path) = locate(one), locate(other)
    if isinstance(first, LocalFileSystem) and isinstance(second, LocalFileSystem):
        return os.path.exists(path) and os.path.exists(other_path) and os.path.samefile(path, other_path)
    return first == second and path == other_path


def below(folder: str) -> Callable[[str], str | None]:
    """What gives a file's path relative to a folder, by whatever links it is reached; None where it is elsewhere."""
    local = is_local(folder)
    prefix = f"{_real(locate(folder)[1]) if local else folder.rstrip('/')}/"

    def relative(place: str) -> str | None:
        if local:
            scheme, is_url, path = place.rpartition("://")
            if is_url and scheme not in ("file", "local"):
                return None
            parent, name = os.path.split(path)
            place = f"{_real(parent)}/{name}"
        return place.removeprefix(prefix) if place.startswith(prefix) else None

    return relative


def walk(folder: str, without: str) -> Iterator[str]:
    """Every file at any depth, relative to the folder, sorted within each. Raises `StorageError`.

    Folders below that hold a folder `without` are passed over, which is said.
    """
    file_system, root = locate(folder)
    try:
        passed_over = list[str]()
        for place, folders, names in file_system.walk(root, on_error="raise"):
            if without in folders and place != root:
                passed_over.append(f"{place}/")
                tell_of_passing(f"{folder.rstrip('/')}{place.removeprefix(root)}", without)
            if f"{place}/".startswith(tuple(passed_over)):
                continue
            yield from (f"{place}/{name}".removeprefix(root).lstrip("/") for name in sorted(names))
    except Exception as error:  # stores' errors have no common base
        raise StorageError(f"{folder!r} cannot be listed: {one_line(error)}") from None


@cache  # sources are gone through more than once
def tell_of_passing(folder: str, why: str) -> None:
    """Say once that what was painted into a folder is passed over, for what it holds."""
    log.info("left out: what an earlier run has painted into %s, as its %s shows", folder, why)


def names(folder: str) -> list[str]:
    """Where the files of a folder are, sorted; none where there is no such folder."""
    file_system, path = locate(folder)
    if not _patiently(lambda: file_system.isdir(path), folder):
        return []
    listed = _patiently(lambda: file_system.ls(path, detail=False), folder)
    local = isinstance(file_system, LocalFileSystem)
    return sorted(name if local else file_system.unstrip_protocol(name) for name in listed)


@lru_cache(maxsize=4096)  # files that follow one another share theirs
def _real(folder: str) -> str:
    try:
        return os.path.realpath(folder)
    except ValueError:  # a NUL in a manifest: no folder has one
        return folder


def _patiently(attempt: Callable[[], Result], place: str) -> Result:
    """What is merely late is tried again; what is not there is not."""
    for wait in (*WAITS, None):
        try:
            return attempt()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise UserError(f"there is no file {place!r}") from None
        except Exception as error:  # stores' errors have no common base
            if wait is None or isinstance(error, PermissionError):
                raise StorageError(f"{place!r} cannot be reached: {one_line(error)}") from None
            time.sleep(wait)
    raise AssertionError  # not reached
