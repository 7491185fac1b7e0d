"""What a worker does: reads, paints and writes one picture after the other, and says what became of each."""

import io
import json
import logging
import os
import platform
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from hashlib import sha256
from pathlib import Path, PurePosixPath
from threading import Lock, local
from typing import Any, Protocol

import numpy as np
from PIL import Image

from impasto.animation import Animation
from impasto.errors import UserError, one_line
from impasto.job import Job, Look, looks, read_content, write_result
from impasto.mass import storage
from impasto.mass.sources import Entry, hash64
from impasto.memory import keep_freed_memory, share_memory
from impasto.picture_files import MEGAPIXELS

PATIENCE = 2  # times that a batch, then each of its pictures, may take its worker with it
PIXEL_BYTES = 8  # of a file without compression, 16 bits, transparent
HEADER_BYTES = 64 << 20


class Begun(Protocol):
    """A `Ledger`, near or far."""

    def begin(self, work: int) -> int:
        """How many times it has been begun before, without an end."""

    def end(self, work: int) -> None:
        """Forget it."""


class Ledger:
    """Remembers, while workers die, what they had begun: one picture that kills them all must not stop the rest."""

    def __init__(self) -> None:
        self.begun: Counter[int] = Counter()

    def begin(self, work: int) -> int:
        """How many times it has been begun before, without an end."""
        self.begun[work] += 1
        return self.begun[work] - 1

    def end(self, work: int) -> None:
        """Forget it."""
        self.begun.pop(work, None)


class Heard(logging.Handler):
    """Keeps what each thread is warned of: a worker has no terminal of its own."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.here = local()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a warning."""
        self.here.lines = [*getattr(self.here, "lines", []), record.getMessage()]

    def taken(self) -> list[str]:
        """What this thread has been warned of since it asked the last time."""
        lines, self.here.lines = getattr(self.here, "lines", []), []
        return lines


class Painter:
    """Paints batches of entries; any number of threads can call it, of which one at a time runs the network.

    `done`: sorted marks of what earlier runs have done, see `report`. `networks`: one, or two with a mask.
    `sharers`: workers on this machine, among which its memory is shared.
    """

    def __init__(
        self, job: Job, networks: Sequence[Path], output: str, done: np.ndarray, ledger: Begun, sharers: int
    ) -> None:
        keep_freed_memory()
        share_memory(sharers)
        _allow(job.megapixels)
        self.job, self.output, self.done, self.ledger = job, output.rstrip("/"), done, ledger
        self.name = f"{platform.node()}:{os.getpid()}"
        self.painting, self.trial = Lock(), Lock()
        self.look: Look | None = None
        self.heard = Heard()
        logging.getLogger("impasto").addHandler(self.heard)
        try:
            (self.look,) = looks(job, networks)
            self.heard.taken()  # of no picture
        except UserError as error:  # which would kill the worker, and those after it
            self.mistake = str(error)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """The records of a batch, both as JSON, which holds any name."""
        begun, entries = time.time(), [Entry(*fields) for fields in json.loads(row["batch"])]
        if self.look is None:
            return {"records": json.dumps([{"status": "stopped", "error": self.mistake}])}
        batch = hash64(row["batch"])
        careful = self.ledger.begin(batch) >= PATIENCE
        records = [self._record(self.look, entry, careful) for entry in entries]
        self.ledger.end(batch)
        for record in records:
            record |= {"worker": self.name, "begun": begun}
        return {"records": json.dumps(records)}

    def _record(self, look: Look, entry: Entry, careful: bool) -> dict[str, Any]:
        record: dict[str, Any] = {"input": entry.source, "output": entry.name, "id": entry.identity}
        if entry.mistake:
            return record | {"status": "failed", "error": entry.mistake}
        with self.trial if careful else nullcontext():
            record |= self._tried(look, entry, careful)
        if warnings := [line.replace("the stream", repr(entry.source)) for line in self.heard.taken()]:
            record["warnings"] = [line if entry.source in line else f"{entry.source!r}: {line}" for line in warnings]
        return record

    def _tried(self, look: Look, entry: Entry, careful: bool) -> dict[str, Any]:
        record: dict[str, Any] = {}
        if careful and (deaths := self.ledger.begin(entry.identity)) >= PATIENCE:
            return {"status": "failed", "error": f"{entry.source!r}: {deaths} workers died of it"}
        try:
            record |= self._painted(look, entry)
        except storage.StorageError as error:
            record |= {"status": "failed", "error": str(error), "storage": True}
        except UserError as error:
            said = str(error).replace("the stream", repr(entry.source))
            record |= {"status": "failed", "error": said if entry.source in said else f"{entry.source!r}: {said}"}
        except Exception as error:  # a bug of ours, which must not end a run of millions
            record |= {"status": "failed", "error": f"{entry.source!r}: {type(error).__name__}: {one_line(error)}"}
        if careful:
            self.ledger.end(entry.identity)
        return record

    def _painted(self, look: Look, entry: Entry) -> dict[str, Any]:
        size, version = storage.state(entry.source)
        if size > self.job.megapixels * 1e6 * PIXEL_BYTES + HEADER_BYTES:
            limit = f"max_megapixels={self.job.megapixels:g}"
            raise UserError(f"{entry.source!r} has {size / 1e9:.1f} GB, too many for {limit}")
        target = f"{self.output}/{entry.name}"
        for read in (entry.source, *([] if self.job.mask is None else [str(self.job.mask)])):
            if storage.same(read, target):
                raise UserError(f"{read!r} would be written over")
        content = storage.read(entry.source) if version is None else None
        mark = hash64(entry.name, version or sha256(content or b"").hexdigest(), look.key)
        if is_marked(self.done, mark) and storage.exists(target):
            return {"status": "skipped", "mark": mark}
        content = storage.read(entry.source) if content is None else content
        suffix = PurePosixPath(entry.name).suffix.lower()
        picture = read_content(self.job, io.BytesIO(content), suffix)
        with self.painting:
            begun = time.perf_counter()
            painted = picture.painted(look.paint) if isinstance(picture, Animation) else look.paint(picture)
            seconds = time.perf_counter() - begun
        written = io.BytesIO()
        write_result(self.job, painted, written, suffix)
        storage.write(target, written.getvalue())
        return {
            "status": "done",
            "mark": mark,
            "check": check_mark(entry.name, written.getvalue()),
            "bytes": [len(content), len(written.getvalue())],
            "seconds": round(seconds, 3),
        }


class Verifier:
    """Reads results anew and compares them with what the report says of them; called as `Painter` is."""

    def __init__(self, output: str, checks: np.ndarray, megapixels: float = MEGAPIXELS) -> None:
        _allow(megapixels)
        self.output, self.checks, self.name = output.rstrip("/"), checks, f"{platform.node()}:{os.getpid()}"

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """The records of a batch: `verified`; `lost`, which the next run paints anew; `failed` where storage does."""
        begun = time.time()
        records = [self._record(Entry(*fields)) for fields in json.loads(row["batch"])]
        return {"records": json.dumps([{**record, "worker": self.name, "begun": begun} for record in records])}

    def _record(self, entry: Entry) -> dict[str, Any]:
        record: dict[str, Any] = {"input": entry.source, "output": entry.name, "id": entry.identity}
        try:
            if entry.mistake:
                raise UserError(entry.mistake)
            content = storage.read(f"{self.output}/{entry.name}")
            if not is_marked(self.checks, check_mark(entry.name, content)):
                raise UserError(f"{entry.name!r} is not the picture that the report tells of")
            with Image.open(io.BytesIO(content)) as image:
                image.load()
        except Image.DecompressionBombError:
            return record | {
                "status": "failed",
                "error": f"{entry.name!r} takes a larger max_megapixels= to be verified",
            }
        except storage.StorageError as error:  # which says nothing of the result
            return record | {"status": "failed", "error": str(error), "storage": True}
        except (UserError, OSError, SyntaxError, ValueError) as error:  # as Pillow's are for damaged files
            return record | {"status": "lost", "error": str(error)}
        return record | {"status": "verified", "bytes": [len(content), 0]}


def _allow(megapixels: float) -> None:
    """Have Pillow open images of this size, of which it refuses the large by itself."""
    if megapixels > MEGAPIXELS:
        Image.MAX_IMAGE_PIXELS = int(megapixels * 1e6)


def check_mark(name: str, content: bytes) -> int:
    """64 bits of a result and its name."""
    return hash64(name, sha256(content).hexdigest())


def is_marked(marks: np.ndarray, mark: int) -> bool:
    """Whether the sorted marks have it."""
    place = np.searchsorted(marks, np.uint64(mark))
    return bool(place < len(marks) and marks[place] == mark)
