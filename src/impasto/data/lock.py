"""One process at a time in a folder."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger("impasto")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the lock on a folder, made if it is not there; a killed process holds it no more. Raises `OSError`."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        log.info("Waiting for another process that works in %s", folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
