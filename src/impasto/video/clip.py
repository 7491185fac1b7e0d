"""A film as it is read: upright RGB frames with their times, and what the result must keep."""

import logging
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from impasto.errors import UserError
from impasto.picture import Picture
from impasto.picture_files import check_file
from impasto.video.colours import KNOWN, Colours, read_colours, to_rgb

log = logging.getLogger("impasto")

FASTEST = 240  # frames a second: more are the ticks of a browser's recording, and no player's level of H.264 has them
CUT_OFF = 0.2  # s that may be missing at a file's end before it counts as cut off


@dataclass(frozen=True)
class Turn:
    """What brings a frame upright: rows and columns swapped first, then each reversed."""

    swap: bool = False
    columns: bool = False
    rows: bool = False

    def upright(self, pixels: np.ndarray) -> np.ndarray:
        """(height, width, 3) as it is to be seen."""
        pixels = pixels.swapaxes(0, 1) if self.swap else pixels
        return np.ascontiguousarray(pixels[:: -1 if self.rows else 1, :: -1 if self.columns else 1])


@dataclass(frozen=True)
class Clip:
    """The facts of a film. `size` and `aspect` (width of a pixel : its height) are those of upright frames.

    `end` is where its pictures end, in `time_base`, where the file says so.
    """

    path: Path
    coded: tuple[int, int]
    turn: Turn
    aspect: Fraction
    format: str
    deep: bool
    colours: Colours
    time_base: Fraction
    rate: Fraction
    frames: int
    end: int | None
    interlaced: bool
    left_out: tuple[str, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, px."""
        width, height = self.coded
        return (height, width) if self.turn.swap else (width, height)


def read_clip(path: Path, megapixels: float) -> Clip:
    """Open a film and read its first frame. Raises `UserError`: no film, no picture, damaged, or too large a frame."""
    with open_input(path) as container:
        stream = _pictures(container, path)
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > megapixels * 1e6:
            raise UserError(
                f"{str(path)!r} has frames of {width * height / 1e6:.0f} megapixels, more than "
                f"max_megapixels={megapixels:g}: allow more if you trust it"
            )
        frame = next((frame for _, frame, _ in Frames(container, stream)), None)
        if frame is None or stream.time_base is None:
            raise UserError(f"{str(path)!r} has no frame that can be read")
        turn, aspect = _turn(frame), stream.sample_aspect_ratio or Fraction(1)
        seconds = max(0.0, _end(container) - (container.start_time or 0) / av.time_base)
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        rate = rate if rate <= FASTEST else Fraction(30)
        others = [each for each in container.streams if each.type != "audio" and each.index != stream.index]
        if container.chapters():  # whose titles MP4 has in a track of their own
            others = [each for each in others if (each.type, each.name) != ("data", "bin_data")]
        left_out = sorted(
            {"pictures" if each.type == "video" else f"{each.type}s".replace("datas", "data") for each in others}
        )
        if any(sound.codec_context is None for sound in container.streams.audio):
            left_out.append("sounds in an unknown code")
        if any(_side_data(frame, kind) for kind in ("MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL")):
            left_out.append("HDR10's light levels")
        # FFmpeg's own decoders of VP8 and VP9 pass it over
        if any(part.is_alpha for part in frame.format.components) or stream.metadata.get("alpha_mode") == "1":
            left_out.append("transparency")
        if frame.colorspace not in KNOWN:
            log.warning("%s has colours by matrix %d, which is not known: they may be off", path, frame.colorspace)
        return Clip(
            path=path,
            coded=(frame.width, frame.height),
            turn=turn,
            aspect=1 / aspect if turn.swap else aspect,
            format=frame.format.name,
            deep=max(component.bits for component in frame.format.components) > 8,
            colours=read_colours(frame),
            time_base=stream.time_base,
            rate=rate,
            frames=stream.frames or round(seconds * rate),
            end=None if stream.duration is None else (stream.start_time or 0) + stream.duration,
            interlaced=bool(frame.interlaced_frame),
            left_out=tuple(left_out),
        )


def open_input(path: Path) -> InputContainer:
    """Raises `UserError` where there is no film that can be read."""
    if path.exists():
        check_file(path)
    try:
        return av.open(os.path.abspath(path), metadata_errors="replace")  # a colon in a name is no protocol's
    except FFmpegError as error:
        raise UserError(f"{str(path)!r} is not a video that can be read: {error.strerror}") from None


def _pictures(container: InputContainer, path: Path) -> VideoStream:
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream):
        raise UserError(f"{str(path)!r} is not a video that can be read: it has no pictures")
    if stream.codec_context is None:
        raise UserError(
            f"{str(path)!r} is not a video that can be read: FFmpeg does not know how its pictures are coded"
        )
    stream.thread_type = "AUTO"
    return stream


def _end(container: InputContainer) -> float:
    """When a film ends, in seconds, as it says itself: 0 where it does not."""
    from_zero = "matroska" in container.format.name  # and WebM, wherever their pictures begin
    start = 0 if from_zero else container.start_time or 0
    return (start + container.duration) / av.time_base if container.duration else 0.0


def open_frames(clip: Clip) -> "Frames":
    """The frames from the first on."""
    container = open_input(clip.path)
    return Frames(container, _pictures(container, clip.path))


class Frames:
    """Time, frame and duration (0: unknown), times in the stream's base and ever rising.

    Afterwards `damaged` is the number of packets and frames that were not whole, `missing` the seconds by which the
    file ends earlier than it says.
    """

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self.container, self.stream = container, stream
        self.damaged, self.missing = 0, 0.0

    def __iter__(self) -> Iterator[tuple[int, VideoFrame, int]]:
        """Decode; what cannot be is counted and passed over."""
        last, end, step = None, 0.0, 1
        by_decoding = self.container.format.name == "avi"  # whose other times FFmpeg guesses, wrong for B-frames
        packets = self.container.demux()
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                break
            except FFmpegError:
                self.damaged += 1
                break
            if packet.pts is not None and packet.time_base:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream.index != self.stream.index:  # not stream_index, which the packet that ends a stream lacks
                continue
            try:
                decoded = self.stream.decode(packet)
            except FFmpegError:
                self.damaged += 1
                continue
            for frame in decoded:
                self.damaged += frame.is_corrupt
                time = frame.dts if frame.pts is None or by_decoding else frame.pts
                if time is None:  # of old AVIs
                    time = 0 if last is None else last + step
                elif last is not None:
                    time = max(time, last + 1)  # of two at one time; those that follow keep theirs
                step = frame.duration or step
                last = time
                yield time, frame, frame.duration
        self.missing = max(0.0, _end(self.container) - end)
        self.container.close()

    def complaint(self) -> str:
        """What was wrong with the file, or nothing."""
        found = [f"{self.damaged} packet{'s' * (self.damaged > 1)} could not be read"] if self.damaged else []
        if self.missing > CUT_OFF:
            found.append(f"{self.missing:.1f} s are missing at its end")
        return " and ".join(found)


class Pictures:
    """Turns a film's frames into pictures."""

    def __init__(self, clip: Clip) -> None:
        self.clip, self.reformatter = clip, VideoReformatter()
        self.told = False

    def __call__(self, frame: VideoFrame) -> Picture:
        """Upright, in RGB with 8 or 16 bits, of the size of the first; another's is told of once."""
        if (frame.width, frame.height) != self.clip.coded and not self.told:
            self.told = True
            sizes = *self.clip.coded, frame.width, frame.height
            log.warning("%s goes on from %d×%d to %d×%d px: brought to the first size", self.clip.path, *sizes)
        rgb = to_rgb(frame, self.clip.coded, self.clip.deep, self.clip.colours, self.reformatter)
        return Picture(self.clip.turn.upright(rgb))


def _side_data(frame: VideoFrame, kind: str) -> bytes:
    """What a frame has beside its pixels, by FFmpeg's name; nothing where it has no such."""
    try:
        return bytes(frame.side_data[kind])  # type: ignore[literal-required]  # PyAV types one kind only
    except KeyError:
        return b""


def _turn(frame: VideoFrame) -> Turn:
    """From the display matrix, whose upper left is ((a, b), (c, d)): x → a·x + c·y, y → b·x + d·y."""
    data = _side_data(frame, "DISPLAYMATRIX")
    if not data:
        return Turn()
    a, b, _, c, d = struct.unpack("=5i", data[:20])
    return Turn(True, c < 0, b < 0) if abs(a) < abs(b) else Turn(False, a < 0, d < 0)
