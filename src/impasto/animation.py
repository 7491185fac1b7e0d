"""Animated GIF, WebP and PNG, frame by frame, with their timing."""

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import IO, Any

import numpy as np
from PIL import Image, ImageSequence

from impasto.deep import is_tiff
from impasto.errors import UserError
from impasto.files import whole_file
from impasto.levels import LEVELS
from impasto.picture import SRGB, Picture, from_pil, told
from impasto.picture_files import MEGAPIXELS, check_file, encoding_errors, for_gif, image_errors, open_image, shown

log = logging.getLogger("impasto")

ANIMATED = frozenset({".gif", ".webp", ".png"})  # that are written
FILMS = ("GIF", "WEBP", "PNG", "AVIF")  # that are read
UNSHOWN, UNSAID = 10, 100  # ms: browsers, and FFmpeg, show frames of up to the one for the other
LONGEST = {".gif": 655350, ".webp": 0xFFFFFF, ".png": 65535}  # ms of a frame


@dataclass(frozen=True)
class Animation:
    """Frames, each with the milliseconds that it is shown, and how often all are shown (0: for ever)."""

    frames: tuple[Picture, ...]
    durations: tuple[int, ...]
    plays: int = 0

    def painted(self, paint: Callable[[Picture], Picture]) -> "Animation":
        """Each frame painted on its own."""
        return replace(self, frames=tuple(map(paint, self.frames)))


def read_animation(source: str | os.PathLike[str] | IO[bytes], megapixels: float = MEGAPIXELS) -> Animation | None:
    """All frames of an animation; None for a still image. Raises `UserError` as `read_picture` does.

    `megapixels` limits all frames together: an animation can hold a million of them in little space.
    """
    with image_errors(source):
        if isinstance(source, str | os.PathLike):
            check_file(source)
        if is_tiff(source):  # of which Pillow does not know all
            return None
    with image_errors(source), open_image(source, megapixels) as image:
        if image.format not in FILMS:  # pairs of photos are no film
            return None
        if _frames(image) <= 1:
            return None
        count, (width, height) = getattr(image, "n_frames", 1), image.size
        apart = _stands_apart(image)
        if count * width * height > megapixels * 1e6:
            raise UserError(
                f"{shown(source)} has {count} frames of {width}×{height} px, more than max_megapixels={megapixels:g}: "
                "allow more if you trust the file"
            )
        frames: list[Picture] = []
        durations: list[float] = []
        for number, frame in enumerate(ImageSequence.Iterator(image)):
            if number < apart:
                continue
            if frame.size != (width, height):  # a damaged GIF's grow
                raise ValueError(f"frame {len(frames)} is larger than the first")
            frames.append(from_pil(frame.copy()))
            lasts = told(frame, "duration")  # known once decoded
            durations.append(_shown(UNSAID if lasts is None else lasts))
        plays = min(max(int(told(image, "loop") or 0), 0), 65535)
        if image.format == "GIF" and (plays or "loop" not in image.info):  # which counts what follows the first showing
            plays += 1
        return Animation(tuple(frames), tuple(_rounded(durations, 1)), plays)


def count_frames(source: str | os.PathLike[str] | IO[bytes], megapixels: float = MEGAPIXELS) -> int:
    """How many frames an animation's file says that it has; 1 of all other images, and of what is damaged."""
    with suppress(Exception):  # of Pillow, which has no common base
        if not isinstance(source, str | os.PathLike):
            source.seek(0)
        with open_image(source, megapixels) as image:
            if image.format in FILMS:
                return _frames(image)
    return 1


def _frames(image: Image.Image) -> int:
    """Without the picture of a PNG for programs that know no frames."""
    frames: int = getattr(image, "n_frames", 1) - _stands_apart(image)
    return frames


def _stands_apart(image: Image.Image) -> bool:
    return getattr(image, "default_image", False) is True  # text, where a PNG has some of that keyword


def write_animation(
    animation: Animation, target: str | os.PathLike[str] | IO[bytes], suffix: str, quality: int
) -> None:
    """Write GIF, WebP or PNG with frames, whole or not at all. Raises `UserError`."""
    if isinstance(target, str | os.PathLike):
        with whole_file(target) as temporary, temporary.open("wb") as file:
            write_animation(animation, file, suffix, quality)
        return
    frames, durations = animation.frames, _held(animation.durations, suffix)
    if suffix == ".gif":
        durations = _of_gif(durations)
        frames = tuple(frame for frame, lasts in zip(frames, durations, strict=True) if lasts)
        durations = [lasts for lasts in durations if lasts]
    clear = any(frame.alpha is not None for frame in frames)
    if suffix == ".gif" and clear:  # in all, or Pillow fills what is clear with the colours of another frame
        frames = tuple(frame if frame.alpha is not None else _with_alpha(frame) for frame in frames)
    first, *others = (for_gif(frame) if suffix == ".gif" else frame.to_pil() for frame in frames)
    options: dict[str, Any] = {"icc_profile": SRGB, "quality": quality} if suffix == ".webp" else {}
    if suffix == ".gif":
        if animation.plays != 1:
            options["loop"] = max(0, animation.plays - 1)
        if clear:
            options["disposal"] = 2  # or the frame before would show through
    else:
        options["loop"] = min(animation.plays, 65535)  # the most that WebP counts
        if exif := animation.frames[0].exif:
            options["exif"] = exif
    with encoding_errors(suffix):
        first.save(
            target,
            format=Image.registered_extensions()[suffix],
            save_all=True,
            append_images=others,
            duration=durations,
            **options,
        )


def _with_alpha(frame: Picture) -> Picture:
    """An opaque frame that says so."""
    levels = LEVELS[frame.pixels.dtype.name]
    return replace(frame, alpha=np.full(frame.pixels.shape[:2], levels, frame.pixels.dtype))


def _shown(said: Any) -> float:
    """The milliseconds that players show a frame, of which a file can say anything."""
    return float(said) if said and said > UNSHOWN else UNSAID


def _rounded(durations: Iterable[float], step: int) -> list[int]:
    """Milliseconds of which each end is at the next whole step: rounded one by one, they would add up to others."""
    ends = [step * round(end / step) for end in accumulate(durations)]
    return [end - begin for begin, end in pairwise([0, *ends])]


def _held(durations: Sequence[int], suffix: str) -> list[int]:
    """As long as the format can hold a frame."""
    longest = LONGEST[suffix]
    if max(durations) > longest:
        log.warning("%s shows a frame for %.1f s at most, not %.1f", suffix, longest / 1000, max(durations) / 1000)
    return [min(lasts, longest) for lasts in durations]


def _of_gif(durations: Sequence[int]) -> list[int]:
    """In hundredths of a second, and two at least; 0 for a frame whose time those before have taken."""
    shown, clock = list[int](), 0
    for end in accumulate(_rounded(durations, 10)):
        shown.append(max(2 * UNSHOWN, end - clock) if end > clock else 0)
        clock += shown[-1]
    if left := shown.count(0):
        log.warning("%d of %d frames are left out: players show none of a GIF for less than 20 ms", left, len(shown))
    return shown
