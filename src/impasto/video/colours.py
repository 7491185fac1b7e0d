"""Between a film's Y'CbCr and RGB: with the matrix and range that the file names, there and back."""

from dataclasses import dataclass

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

# FFmpeg's numbers are ITU-T H.273's: here, of the matrices that swscale knows, → swscale's own
MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
KNOWN = {0, 2, *MATRICES}  # with RGB's and what is unsaid
BT709, BT601 = 1, 6
WIDE, HIGH = 1280, 576  # px: from there, and beyond, players (mpv) take a file that names no matrix for BT.709
# without which greens and purples are off by a level on average, and chroma by half a pixel
EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP


@dataclass(frozen=True)
class Colours:
    """ITU-T H.273's numbers for matrix, primaries and transfer (2: unsaid), and whether levels fill all of 0…255.

    The matrix is always said: where the file was silent, the one that players take, so that it stays when the size
    changes.
    """

    matrix: int = BT709
    primaries: int = 2
    transfer: int = 2
    full: bool = False

    @property
    def range(self) -> ColorRange:
        """As FFmpeg calls it."""
        return ColorRange.JPEG if self.full else ColorRange.MPEG


def read_colours(frame: VideoFrame) -> Colours:
    """What a decoded frame says of itself."""
    guess = BT709 if frame.width >= WIDE or frame.height > HIGH else BT601
    return Colours(
        matrix=frame.colorspace if frame.colorspace in MATRICES else guess,
        primaries=frame.color_primaries,
        transfer=frame.color_trc,
        full=frame.format.name.startswith("yuvj") or frame.color_range == ColorRange.JPEG and not frame.format.is_rgb,
    )


def to_rgb(
    frame: VideoFrame, size: tuple[int, int], deep: bool, colours: Colours, reformatter: VideoReformatter
) -> np.ndarray:
    """(height, width, 3), uint16 where `deep`, else uint8."""
    matrix = MATRICES[colours.matrix]
    converted = reformatter.reformat(
        frame,
        *size,
        format="rgb48le" if deep else "rgb24",
        src_colorspace=matrix,
        dst_colorspace=matrix,
        interpolation=EXACT,
        src_color_range=ColorRange.JPEG if frame.format.is_rgb else colours.range,
        dst_color_range=ColorRange.JPEG,
    )
    return converted.to_ndarray()


def from_rgb(pixels: np.ndarray, pix_fmt: str, colours: Colours, reformatter: VideoReformatter) -> VideoFrame:
    """A frame in Y'CbCr from (height, width, 3), uint8 or uint16."""
    matrix = MATRICES[colours.matrix]
    source = VideoFrame.from_ndarray(
        np.ascontiguousarray(pixels), format="rgb48le" if pixels.dtype == np.uint16 else "rgb24"
    )
    frame = reformatter.reformat(
        source,
        format=pix_fmt,
        src_colorspace=matrix,
        dst_colorspace=matrix,
        interpolation=EXACT,
        src_color_range=ColorRange.JPEG,
        dst_color_range=colours.range,
    )
    frame.colorspace, frame.color_range = colours.matrix, colours.range
    frame.color_primaries, frame.color_trc = colours.primaries, colours.transfer
    return frame
