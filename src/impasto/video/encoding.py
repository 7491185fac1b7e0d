"""How a film is written: which encoder, pixel format and quality, for a container and what the input was."""

import logging
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.codec.context import Flags
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.format import VideoFormat
from av.video.reformatter import VideoReformatter

from impasto.errors import UserError
from impasto.levels import converted
from impasto.picture import Picture
from impasto.video.clip import Clip
from impasto.video.colours import Colours, from_rgb

log = logging.getLogger("impasto")

# suffix → FFmpeg's name for the container, encoders in the order of preference; mkv and mp4 hold whatever is there
CONTAINERS = {
    ".mp4": ("mp4", ("libx264", "libx265", "libvpx-vp9")),
    ".m4v": ("mp4", ("libx264", "libx265", "libvpx-vp9")),
    ".mov": ("mov", ("libx264", "libx265")),
    ".mkv": ("matroska", ("libx264", "libx265", "libvpx-vp9")),
    ".webm": ("webm", ("libvpx-vp9",)),
}


@dataclass(frozen=True)
class Encoding:
    """All that an encoder is told. `size`: px, what its pixel format can hold."""

    container: str
    codec: str
    options: dict[str, str]
    format: str
    size: tuple[int, int]
    aspect: Fraction
    colours: Colours
    time_base: Fraction
    rate: Fraction

    def set_up(self, context: VideoCodecContext) -> None:
        """Tell it; always the same, so that packets of one encoder go with the header of another."""
        context.width, context.height = self.size
        context.pix_fmt, context.options = self.format, dict(self.options)
        context.time_base, context.framerate = self.time_base, self.rate
        context.sample_aspect_ratio = self.aspect
        context.colorspace, context.color_range = self.colours.matrix, self.colours.range
        context.color_primaries, context.color_trc = self.colours.primaries, self.colours.transfer
        context.flags |= Flags.global_header


class Encoder:
    """Encodes a run of frames that can be decoded on its own."""

    def __init__(self, encoding: Encoding) -> None:
        self.encoding, self.reformatter = encoding, VideoReformatter()
        context = av.CodecContext.create(encoding.codec, "w")
        assert isinstance(context, VideoCodecContext)
        self.context = context
        encoding.set_up(self.context)

    def encode(self, picture: Picture, time: int) -> "list[Packet[Any]]":
        """Packets that are done by now; a column or row too much for the pixel format is cut off."""
        width, height = self.encoding.size
        pixels = picture.pixels[:height, :width]
        if not is_deep(self.encoding.format):
            pixels = converted(pixels, np.uint8)
        frame = from_rgb(pixels, self.encoding.format, self.encoding.colours, self.reformatter)
        frame.pts, frame.time_base = time, self.encoding.time_base
        return self.context.encode(frame)

    def flush(self) -> "list[Packet[Any]]":
        """The packets that are left."""
        return self.context.encode(None)


def choose_encoding(clip: Clip, size: tuple[int, int], suffix: str, quality: int) -> Encoding:
    """For frames of `size` px and a container's suffix; quality is 1…100. Raises `UserError` where none is there.

    The input's own pixel format where the encoder has it, but in MP4, which phones and browsers play, 4:2:0 with as
    many bits; where the encoder has no more than 8, a warning. More than 8 bits are H.265 there: no phone plays them in
    H.264. H.264 and H.265 cannot hold an odd width or height in 4:2:0: a column or row is cut off.
    """
    container, wanted = CONTAINERS[suffix]
    if clip.deep and container in ("mp4", "mov"):
        wanted = ("libx265", *(name for name in wanted if name != "libx265"))
    there = [name for name in wanted if name in av.codecs_available]
    if not there:
        raise UserError(f"{suffix} takes {' or '.join(wanted)}, which this build of PyAV lacks")
    codec = there[0]
    if codec != wanted[0]:
        log.warning("This build of PyAV lacks %s: %s encodes in its place", wanted[0], codec)
    formats = [each.name for each in av.Codec(codec, "w").video_formats or ()]
    name = clip.format.replace("yuvj", "yuv")  # full range is said by a flag
    if container == "mp4" or not name.startswith("yuv") or name.startswith("yuva") or name not in formats:
        name = "yuv420p10le" if clip.deep else "yuv420p"
    if name not in formats:
        log.warning("%s has 8 bits in this build of PyAV: %s is brought to 8 bits", codec, str(clip.path))
        name = "yuv420p"
    return Encoding(
        container=container,
        codec=codec,
        options=_options(codec, quality),
        format=name,
        size=size if codec == "libvpx-vp9" else _whole_blocks(size, name),
        aspect=clip.aspect,
        colours=clip.colours,
        time_base=clip.time_base,
        rate=clip.rate,
    )


def is_deep(pix_fmt: str) -> bool:
    """Whether a pixel format has more than 8 bits."""
    return max(component.bits for component in VideoFormat(pix_fmt).components) > 8


def _options(codec: str, quality: int) -> dict[str, str]:
    """Constant quality: 95 is crf 17 of x264, hardly to be told from the frames, 75 its default of 23, 1 is 45.

    The others' scales are shifted so that they look alike.
    """
    crf = 45.5 - 0.3 * quality
    if codec == "libvpx-vp9":
        return {"crf": str(round(crf + 8)), "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"}
    if codec == "libx265":
        return {"crf": str(round(crf + 3)), "x265-params": "log-level=error"}
    return {"crf": str(round(crf))}


def _whole_blocks(size: tuple[int, int], pix_fmt: str) -> tuple[int, int]:
    """The size without what chroma's larger pixels do not cover."""
    across, down = 2 // VideoFormat(pix_fmt).chroma_width(2), 2 // VideoFormat(pix_fmt).chroma_height(2)
    width, height = size[0] // across * across, size[1] // down * down
    if 0 in (width, height):
        raise UserError(f"a video of {size[0]}×{size[1]} px is too small for {pix_fmt}")
    return width, height
