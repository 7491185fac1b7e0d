"""A film through a network: in parts, so that an interrupted run goes on where it stopped."""

import hashlib
import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from av.packet import Packet

from impasto.errors import UserError
from impasto.picture import Picture
from impasto.picture_files import HDR
from impasto.progress import progress_bar
from impasto.video.ahead import ahead
from impasto.video.clip import Clip, Frames, Pictures, open_frames
from impasto.video.encoding import Encoder, Encoding, choose_encoding
from impasto.video.joining import check_joining, join
from impasto.video.parts import Parts, part_of

if TYPE_CHECKING:
    from impasto.temporal import SteadyEngine

log = logging.getLogger("impasto")

Memory = dict[str, np.ndarray]
PART = 96  # frames: what is lost at most when a run is stopped; each costs a key frame


def stylize_film(
    clip: Clip,
    target: Path,
    paint: Callable[[Picture], Picture],
    memories: "Sequence[SteadyEngine]",
    *,
    size: tuple[int, int],
    key: str,
    quality: int,
    keep_metadata: bool = True,
    quiet: bool = False,
) -> int:
    """Paint all frames of a film and write it, whole or not at all; gives their number.

    `memories` are the networks behind `paint` that know the frames before; `size` is that of painted frames, px; `key`
    changes with whatever changes pictures. Parts that an earlier run with the same input and key left are taken.
    Raises `UserError` for what the container cannot hold.
    """
    suffix = target.suffix.lower()
    encoding = choose_encoding(clip, size, suffix, quality)
    check_joining(clip, encoding, suffix)
    if clip.left_out:
        log.warning("left out: %s of %s", ", ".join(clip.left_out), clip.path)
    if transfer := HDR.get(clip.colours.transfer):
        log.warning("%s is HDR (%s) and stays so: the network sees its levels as they are, paler", clip.path, transfer)
    if clip.interlaced:
        log.warning("%s is interlaced: both fields of a frame are painted as one; deinterlace it before", clip.path)
    if encoding.size != size:
        log.warning("%s holds even sizes: %d×%d px become %d×%d", encoding.codec, *size, *encoding.size)
    parts = Parts(target)
    with parts.alone():
        done = parts.resume(_record(clip, encoding, key))
        if done:
            log.info("%d frames were there already", sum(len(parts.times(index)) for index in range(done)))
        with progress_bar(clip.path.name, "frames", quiet) as progress:
            bar = progress.add_task("", total=clip.frames or None)
            try:
                number, last = _paint_parts(clip, encoding, parts, done, paint, memories, lambda: progress.advance(bar))
            except (KeyboardInterrupt, SystemExit):
                log.warning("stopped: the same command goes on from the last part that is whole, of %d frames", PART)
                raise
        join(parts, -(-number // PART), last, clip, encoding, target, keep_metadata)
        parts.remove()
    return number


def _paint_parts(
    clip: Clip,
    encoding: Encoding,
    parts: Parts,
    done: int,
    paint: Callable[[Picture], Picture],
    memories: "Sequence[SteadyEngine]",
    advance: Callable[[], None],
) -> tuple[int, int]:
    """Make all parts from `done` on; gives the number of frames and the last one's duration."""
    if done:
        _remember(memories, parts.memory(done - 1))
    frames = open_frames(clip)
    encoder = Encoder(encoding)
    packets: list[Packet[Any]] = []

    def finish(index: int, memory: Memory) -> None:
        nonlocal encoder, packets
        parts.write(index, part_of(packets + encoder.flush()), memory)
        encoder, packets = Encoder(encoding), []

    number, last, before = 0, 0, 0
    with closing(ahead(_painted(ahead(_decoded(clip, frames, done * PART)), paint, memories))) as shots:
        for time, duration, picture, memory in shots:
            last, before = duration or time - before, time
            if picture is not None:
                packets += encoder.encode(picture, time)
                if (number + 1) % PART == 0:
                    finish(number // PART, memory)
            number += 1
            advance()
    if number == 0:
        raise UserError(f"{str(clip.path)!r} has no frame that can be read")
    if number % PART and number > done * PART:
        finish(number // PART, {})
    if complaint := frames.complaint():
        of_all = f" of some {clip.frames}" if clip.frames > number else ""
        log.warning("%s is damaged: %s; %d frames%s are stylized", clip.path, complaint, number, of_all)
    elif clip.end is not None and clip.end > before:  # what MP4 says of a frame can be another's, of which it depends
        last = clip.end - before
    return number, last


def _decoded(clip: Clip, frames: Frames, first: int) -> Generator[tuple[int, int, Picture | None], None, None]:
    """Time, duration and picture of all frames; None of those before the `first` that is wanted."""
    pictures = Pictures(clip)
    for number, (time, frame, duration) in enumerate(frames):
        yield time, duration, pictures(frame) if number >= first else None


def _painted(
    shots: Generator[tuple[int, int, Picture | None], None, None],
    paint: Callable[[Picture], Picture],
    memories: "Sequence[SteadyEngine]",
) -> Generator[tuple[int, int, Picture | None, Memory], None, None]:
    """The same, painted, each with what is remembered after it."""
    with closing(shots):
        for time, duration, picture in shots:
            painted = None if picture is None else paint(picture)
            yield time, duration, painted, _memory(memories)


def _record(clip: Clip, encoding: Encoding, key: str) -> dict[str, Any]:
    """What parts must agree in to be joined."""
    with clip.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    said = {name: str(value) for name, value in asdict(encoding).items()}
    versions = {"av": av.__version__, "impasto": version("impasto")}
    return {"input": digest, "key": key, "encoding": said, "part": PART, **versions}


def _memory(engines: "Sequence[SteadyEngine]") -> Memory:
    return {f"{index}.{name}": array for index, engine in enumerate(engines) for name, array in engine.memory().items()}


def _remember(engines: "Sequence[SteadyEngine]", memory: Memory) -> None:
    for index, engine in enumerate(engines):
        own = {name.removeprefix(f"{index}."): array for name, array in memory.items() if name.startswith(f"{index}.")}
        engine.remember(own)
