"""What is done, so that it is not done again: records in parts that outlive any kill, and what they add up to."""

import json
import logging
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import numpy as np

from impasto.folder import REPORTS
from impasto.job import json_line
from impasto.mass import storage
from impasto.mass.sources import hash64

log = logging.getLogger("impasto")

STATUSES = ("done", "skipped", "failed", "verified", "lost")  # of an image
PART_SECONDS = 10.0  # at most, between the parts that object stores get: what a kill costs
PART_RECORDS = 10_000
PASSING = ("id", "begun")  # of a record, what only the summary needs


class Report:
    """One run's records: lines of JSON, appended to a local file at once, else in whole parts every few seconds."""

    def __init__(self, output: str) -> None:
        self.place = f"{output.rstrip('/')}/{REPORTS}"
        self.stem = f"{self.place}/{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"
        self.lines: list[str] = []
        self.parts, self.written = 0, time.monotonic()
        self.local = storage.is_local(output)
        self.file: IO[str] | None = None

    def add(self, records: list[dict[str, Any]]) -> None:
        """Note a batch's records, but for those of what was there already."""
        news = [record for record in records if record["status"] not in ("skipped", "verified")]
        self.lines += [json_line({key: record[key] for key in record if key not in PASSING}) + "\n" for record in news]
        if self.local or len(self.lines) >= PART_RECORDS or time.monotonic() - self.written > PART_SECONDS:
            self._write()

    def close(self) -> None:
        """Write what is left."""
        self._write()
        if self.file is not None:
            self.file.close()

    def _write(self) -> None:
        if not self.lines:
            return
        if self.local and self.file is None:
            Path(self.place).mkdir(parents=True, exist_ok=True)
            self.file = open(f"{self.stem}.jsonl", "a", encoding="utf-8")  # noqa: SIM115, closed by `close`
        if self.file is not None:
            self.file.writelines(self.lines)
            self.file.flush()
        else:
            storage.write(f"{self.stem}-{self.parts:06d}.jsonl", "".join(self.lines).encode())
        self.parts, self.lines, self.written = self.parts + 1, [], time.monotonic()


def done_before(output: str, field: str = "mark") -> np.ndarray:
    """What earlier runs have done: `mark` of name, photo, network and options, or `check` of name and result; sorted.

    Of each name the last record counts. 16 bytes of memory for each while it is read, then 8.
    """
    pairs = np.fromiter(_marks(output, field), np.dtype((np.uint64, 2)))
    _, last = np.unique(pairs[::-1, 0], return_index=True)
    return np.sort(pairs[::-1, 1][last])


def _marks(output: str, field: str) -> Iterator[tuple[int, int]]:
    """Identity of the name, and the mark; half a line, of a run that was killed, is no line."""
    for place in (name for name in storage.names(f"{output.rstrip('/')}/{REPORTS}") if name.endswith(".jsonl")):
        file_system, path = storage.locate(place)
        with file_system.open(path, "rb") as file:
            for line in file:
                try:
                    record = json.loads(line)
                    if record["status"] in ("done", "lost"):  # which verifying found
                        yield hash64(record["output"]), int(record[field]) if record["status"] == "done" else 0
                except (ValueError, KeyError, TypeError):
                    continue


class Summary:
    """Counts, bytes and times of a run; `total` and `identities` are those of its entries, see `sources.survey`."""

    def __init__(self, total: int, identities: int) -> None:
        self.total, self.identities = total, identities
        self.counts: Counter[str] = Counter()
        self.workers: Counter[str] = Counter()
        self.bytes = [0, 0]
        self.started, self.first, self.last = time.time(), float("inf"), 0.0

    def add(self, records: list[dict[str, Any]]) -> None:
        """Count a batch."""
        for record in records:
            self.identities = (self.identities - record["id"]) % 2**64
            self.counts[record["status"]] += 1
            self.workers[record["worker"]] += record["status"] in ("done", "verified")
            self.bytes = [before + more for before, more in zip(self.bytes, record.get("bytes", (0, 0)), strict=True)]
            self.first = min(self.first, record["begun"])
        self.last = time.time()

    @property
    def is_whole(self) -> bool:
        """Whether every entry has one record, and no other has."""
        return sum(self.counts.values()) == self.total and self.identities == 0

    def told(self) -> dict[str, Any]:
        """For people and machines; images and megabytes a second from the moment on that the first worker began."""
        seconds = max(self.last - self.first, 1e-3)
        worked = self.counts["done"] + self.counts["verified"]
        return {
            "images": self.total,
            **{status: self.counts[status] for status in STATUSES},
            "seconds": round(seconds, 1),
            "seconds_to_start": round(max(self.first - self.started, 0), 1),
            "images_per_second": round(worked / seconds, 2),
            "megabytes_per_second": round(sum(self.bytes) / 1e6 / seconds, 2),
            "megabytes_in": round(self.bytes[0] / 1e6, 2),
            "megabytes_out": round(self.bytes[1] / 1e6, 2),
            "workers": dict(sorted(self.workers.items())),
        }
