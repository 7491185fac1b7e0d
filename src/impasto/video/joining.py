"""Parts and the input's own sound become one film; nothing is encoded again."""

import heapq
import io
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream

from impasto.errors import UserError
from impasto.files import whole_file
from impasto.video.clip import Clip, open_input
from impasto.video.encoding import Encoding
from impasto.video.parts import Parts

PRIMING = Fraction(1, 10)  # s, more than any encoder of sound needs
QUICKTIME = "com.apple.quicktime."  # before the names of camera, place and date, in films of phones
CONTAINER_TAGS = {"major_brand", "minor_version", "compatible_brands", "encoder"}  # of the input's file, not the film


def check_joining(clip: Clip, encoding: Encoding, suffix: str) -> None:
    """Write the film's header to nowhere: what the container cannot hold is told before hours are spent."""
    with open_input(clip.path) as source:
        _open(io.BytesIO(), source, encoding, suffix, keep_metadata=False)


def join(
    parts: Parts, count: int, last: int, clip: Clip, encoding: Encoding, target: Path, keep_metadata: bool
) -> None:
    """Write the film, whole or not at all; `last` is the duration of its last frame. Raises `UserError`."""
    times = np.concatenate([parts.times(index) for index in range(count)])
    with whole_file(target) as temporary, open_input(clip.path) as source:
        output, pictures, sounds = _open(temporary, source, encoding, target.suffix.lower(), keep_metadata)
        with output:
            sound = _sound(source, sounds, trims=encoding.container in ("mp4", "mov"))
            streams = (_pictures(parts, count, times, last, encoding.time_base, pictures), sound)
            for packet in heapq.merge(*streams, key=_begin):
                try:
                    output.mux_one(packet)
                except ValueError as error:  # of FFmpeg; those of the disk are `OSError`
                    raise UserError(f"{target.suffix} cannot hold this film ({error}): try output=….mkv") from None


def _open(
    place: Path | io.BytesIO, source: InputContainer, encoding: Encoding, suffix: str, keep_metadata: bool
) -> tuple[OutputContainer, VideoStream, dict[int, AudioStream]]:
    """The output with its header written, its pictures, and by the input's index its sounds."""
    options = {}
    if encoding.container in ("mp4", "mov"):
        options["movflags"] = "+faststart"
        if keep_metadata and any(name.startswith(QUICKTIME) for name in source.metadata):
            options["movflags"] += "+use_metadata_tags"  # else FFmpeg drops the keys that it has no place for
    file = place if isinstance(place, io.BytesIO) else os.fspath(place)
    output = av.open(file, "w", format=encoding.container, container_options=options)
    pictures = cast(VideoStream, output.add_stream(encoding.codec, rate=encoding.rate))
    encoding.set_up(pictures.codec_context)
    if encoding.codec == "libx265" and encoding.container in ("mp4", "mov"):
        pictures.codec_context.codec_tag = "hvc1"  # the name under which Apple's players know it
    pictures.time_base = encoding.time_base
    filmed = source.streams.best("video")
    said = {} if filmed is None else filmed.metadata
    kept_names = {"title", "language"} if keep_metadata else {"language"}
    pictures.metadata.update({name: said[name] for name in kept_names & said.keys()})
    sounds: dict[int, AudioStream] = {}
    for stream in source.streams.audio:
        if stream.codec_context is None:  # FFmpeg does not know it, as an iPhone's spatial audio; `Clip` tells
            continue
        try:
            sounds[stream.index] = output.add_stream_from_template(stream)
        except (ValueError, FFmpegError):
            raise UserError(
                f"{suffix} cannot hold the input's sound, which is {stream.codec_context.name}: try output=….mkv"
            ) from None
        sounds[stream.index].disposition = stream.disposition
        if keep_metadata:
            sounds[stream.index].metadata.update(stream.metadata)
        elif language := stream.metadata.get("language"):
            sounds[stream.index].metadata["language"] = language
    if keep_metadata:
        kept = {name: value for name, value in source.metadata.items() if name.lower() not in CONTAINER_TAGS}
        output.metadata.update(kept)
    output.set_chapters(source.chapters())
    try:
        output.start_encoding()
    except FFmpegError as error:
        raise UserError(f"{suffix} cannot hold this film ({error.strerror}): try output=….mkv") from None
    return output, pictures, sounds


def _pictures(
    parts: Parts, count: int, times: np.ndarray, last: int, time_base: Fraction, stream: VideoStream
) -> "Iterator[Packet[Any]]":
    """Packets with times of decoding anew for all: an encoder knows only its part, and begins before its first frame.

    The n-th packet is decoded at the time of the frame that is shown n - delay-th, `delay` being the least for which
    none is shown before it is decoded; so times rise over the joints, however unevenly frames follow one another.
    """
    shown = np.sort(times)
    rank = np.searchsorted(shown, times)
    delay = int((np.arange(len(times)) - rank).max(initial=0))
    step = max(1, int(np.diff(shown[: delay + 1]).max(initial=1)))
    decoded = np.concatenate([shown[0] - step * np.arange(delay, 0, -1), shown])
    lasts = np.append(np.diff(shown), max(1, last))[rank]
    number = 0
    for index in range(count):
        for content, time, key in parts.read(index).packets():
            packet = Packet(content)
            packet.stream, packet.time_base, packet.is_keyframe = stream, time_base, key
            packet.pts, packet.dts, packet.duration = time, int(decoded[number]), int(lasts[number])
            yield packet
            number += 1


def _sound(source: InputContainer, sounds: dict[int, AudioStream], trims: bool) -> "Iterator[Packet[Any]]":
    """All sounds' packets, as they are, to the end of what can be read.

    What an edit list cuts away comes along where the output `trims`, by an edit list of its own, else only the packets
    right before the beginning, which the first of the rest are decoded with.
    Times that repeat or step back, as recordings have, are moved on by a tick: containers take only those that rise.
    """
    if not sounds:
        return
    before = dict[int, int]()
    packets = source.demux(*(source.streams[index] for index in sounds))
    while True:
        try:
            packet = next(packets)
        except (StopIteration, FFmpegError):
            return
        if not packet.size or packet.dts is None:
            continue
        if trims or not packet.is_discard or -PRIMING <= _begin(packet) < 0:
            index = packet.stream_index
            packet.dts = max(packet.dts, before.get(index, packet.dts - 1) + 1)
            packet.pts = packet.dts if packet.pts is None else max(packet.pts, packet.dts)
            before[index] = packet.dts
            packet.stream = sounds[index]
            yield packet


def _begin(packet: "Packet[Any]") -> Fraction:
    assert packet.dts is not None and packet.time_base is not None
    return packet.dts * packet.time_base
