"""One process at a time in a folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from impasto.errors import UserError

LOCK = ".lock"  # a file's name; a killed process holds it no more


@contextmanager
def held(folder: Path, busy: str, patience: float = 0) -> Iterator[None]:
    """Hold the lock on a folder, which is made if need be.

    Raises `UserError`: `busy`, where another process holds it for `patience` seconds; where it cannot be written.
    """
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=patience)
    except Timeout:
        raise UserError(busy) from None
    except OSError as error:
        raise UserError(f"cannot write {str(folder)!r}: {error.strerror or error}") from None
    try:
        yield
    finally:
        lock.release()
