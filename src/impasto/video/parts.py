"""What is done of a film, kept beside its output until all is: runs of encoded frames, and what the network remembers.

A part is not a film but a list of packets with the times of their frames: so no container rounds or shifts times,
and a joint is just one packet after another. Each part begins with a frame that needs none before it.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from av.packet import Packet
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from impasto.files import NAME_BYTES, whole_file, write_text
from impasto.lock import LOCK, held

log = logging.getLogger("impasto")

RECORD = "record.json"


@dataclass(frozen=True)
class Part:
    """Packets in the order of decoding: bytes one after another, and for each its size, time and kind."""

    content: np.ndarray
    sizes: np.ndarray
    times: np.ndarray
    keys: np.ndarray

    def packets(self) -> Iterator[tuple[bytes, int, bool]]:
        """Content, the frame's time, and whether it is a key frame, of each packet."""
        ends = self.sizes.cumsum()
        for end, size, time, key in zip(ends, self.sizes, self.times, self.keys, strict=True):
            yield self.content[end - size : end].tobytes(), int(time), bool(key)


def part_of(packets: "list[Packet[Any]]") -> Part:
    """From an encoder's packets."""
    return Part(
        content=np.frombuffer(b"".join(map(bytes, packets)), dtype=np.uint8),
        sizes=np.array([packet.size for packet in packets], dtype=np.int64),
        times=np.array([packet.pts for packet in packets], dtype=np.int64),
        keys=np.array([packet.is_keyframe for packet in packets], dtype=np.uint8),
    )


class Parts:
    """The hidden folder beside a film that is being made: `.film.mp4.parts`."""

    def __init__(self, target: Path) -> None:
        name = target.name
        if len(os.fsencode(f".{name}.parts")) > NAME_BYTES:
            name = hashlib.sha256(os.fsencode(name)).hexdigest()
        self.folder = target.with_name(f".{name}.parts")

    def resume(self, record: dict[str, Any]) -> int:
        """How many parts an earlier run with the same record left; those of another are removed."""
        text = json.dumps(record, sort_keys=True, indent=2)
        there = self.folder / RECORD
        if not there.is_file() or there.read_text(encoding="utf-8", errors="replace") != text:
            if self._path(0).is_file():
                log.warning("parts that another command, or another film, left are removed")
            self.remove()
            write_text(there, text)
        count = 0
        while self._path(count).is_file():
            try:
                self.read(count)
            except (SafetensorError, OSError, TypeError):  # of a disk that failed: it is made again
                break
            count += 1
        while count and not self._is_remembered(count - 1):  # nothing could go on from there
            count -= 1
        return count

    def write(self, index: int, part: Part, memory: dict[str, np.ndarray]) -> None:
        """Keep a part, whole or not at all, and what the networks remember after it in the place of what was before."""
        with whole_file(self._memory_path(index)) as temporary:
            temporary.write_bytes(save(memory))  # its own writer's error on a full disk is no OSError
        with whole_file(self._path(index)) as temporary:
            temporary.write_bytes(save(vars(part)))
        self._memory_path(index - 1).unlink(missing_ok=True)  # frames in float32: parts are small beside them

    def read(self, index: int) -> Part:
        """A part that is there."""
        return Part(**load_file(self._path(index)))

    def times(self, index: int) -> np.ndarray:
        """When the frames of a part that is there are shown."""
        with safe_open(self._path(index), "numpy") as file:
            times: np.ndarray = file.get_tensor("times")
        return times

    def memory(self, index: int) -> dict[str, np.ndarray]:
        """What the networks remembered after the last part."""
        return load_file(self._memory_path(index))

    def _is_remembered(self, index: int) -> bool:
        with suppress(SafetensorError, OSError):
            self.memory(index)
            return True
        return False

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the folder. Raises `UserError` where another process makes the same film, or it cannot be written."""
        busy = f"another process paints into {str(self.folder)!r}: wait for it, or say another output="
        try:
            with held(self.folder, busy):
                try:
                    yield
                finally:
                    with suppress(OSError):  # Windows removes no file that is open
                        (self.folder / LOCK).unlink()
        finally:
            with suppress(OSError):  # parts are left
                self.folder.rmdir()

    def remove(self) -> None:
        """All parts."""
        for path in self.folder.iterdir():
            if path.name != LOCK:
                path.unlink()

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:06d}.safetensors"

    def _memory_path(self, index: int) -> Path:
        return self.folder / f"memory{index:06d}.safetensors"
