"""One process at a time in a folder."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from impasto.errors import UserError

log = logging.getLogger("impasto")

LOCK = ".lock"  # a file's name; a killed process holds it no more


@contextmanager
def held(folder: Path, busy: str, patience: float | None = 0, name: str = LOCK) -> Iterator[None]:
    """Hold the lock on a folder, which is made if need be, or one of several there by its file's name.

    Raises `UserError`: `busy`, where another process holds it for `patience` seconds (with None it is waited for, and
    `busy` is logged); where the folder cannot be written.
    """
    lock = FileLock(folder / name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=patience or 0)
        except Timeout:
            if patience is not None:
                raise UserError(busy) from None
            log.info(busy)
            lock.acquire()
    except OSError as error:
        raise UserError(f"cannot write {str(folder)!r}: {error.strerror or error}") from None
    try:
        yield
    finally:
        lock.release()
