"""What can be chosen after training: how much of the style, whose colours, where, and how large its strokes are."""

import logging
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from impasto.errors import UserError
from impasto.levels import as_type, unit
from impasto.picture import Picture, fitted

log = logging.getLogger("impasto")

LONGEST = 1_000_000  # px: what is longer is a slip of the finger
COLOURS = ("none", "luminance", "histogram")
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
BARELY = 0.01  # of brightness, that is seen by nobody
STRETCHED = 0.02  # of a mask's height, beyond rounding, that is worth a warning
FAINT = 4 / 255  # deviation of a colour, below which it is as much rounding as colour
ROWS = 512  # worked on at once, so that memory stays bounded


@dataclass(frozen=True)
class Controls:
    """How a photo is stylized.

    `strength` blends pixel by pixel, photo + strength · (stylized - photo): 0 is the photo, exactly, 1 the network's
    picture, above 1 its difference to the photo exaggerated. Pixels, as one network has one strength inside; so
    between, both are seen through each other.
    `preserve_color`: `luminance` takes only brightness from the stylized picture and keeps the photo's chroma;
    `histogram` gives the stylized picture the mean and covariance of the photo's colours
    (Gatys et al. 2016, arXiv:1606.05897, sections 3 and 4).
    `size` is the result's long side, px. `stroke` is the long side at which the network sees the photo: strokes are
    as large, relative to the picture, as in one of that size, whatever the result's.
    `upscale` brings the result back to the photo's own size.

    Raises `UserError` for a value out of its range.
    """

    strength: float = 1.0
    preserve_color: str = "none"
    size: int | None = None
    stroke: int | None = None
    upscale: bool = False

    def __post_init__(self) -> None:
        """Check kinds and ranges."""
        for name, value, kind in (
            ("strength", self.strength, Real),
            ("size", self.size, Integral | None),
            ("stroke", self.stroke, Integral | None),
        ):
            if not isinstance(value, kind) or isinstance(value, bool):
                raise UserError(f"{name}={value!r} should be a {'whole ' * (kind is not Real)}number")
        if not 0 <= self.strength <= 10:
            raise UserError(f"strength={self.strength} should be in 0…10; 0 is the photo, 1 the network's picture")
        if self.preserve_color not in COLOURS:
            raise UserError(f"preserve_color is {', '.join(COLOURS)}, not {self.preserve_color!r}")
        for name, value in (("size", self.size), ("stroke", self.stroke)):
            if value is not None and not 1 <= value <= LONGEST:
                raise UserError(f"{name}={value} should be in 1…{LONGEST} px")
        if not isinstance(self.upscale, bool):
            raise UserError(f"upscale={self.upscale!r} should be true or false")
        if self.upscale and self.size is None:
            raise UserError("upscale=true takes size=, the long side at which the network sees the photo")

    def sizes(self, width: int, height: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Width and height that the network sees, and those of the result."""
        asked = (width, height) if self.size is None else fitted(width, height, self.size)
        seen = asked if self.stroke is None else fitted(width, height, self.stroke)
        return seen, (width, height) if self.upscale else asked


def finish(stylized: np.ndarray, photo: np.ndarray, controls: Controls, alpha: np.ndarray | None = None) -> np.ndarray:
    """Colours and strength as the controls say; both (height, width, 3) of one size and type.

    What is wholly transparent by `alpha`, (height, width), has no say in the colours of the rest.
    """
    if controls.strength == 0:
        return photo
    if controls.preserve_color == "none" and controls.strength == 1:
        return stylized
    if controls.preserve_color == "histogram":
        matrix, before, after = _colour_transfer(stylized, photo, alpha)
    result = np.empty_like(stylized)
    for top in range(0, len(stylized), ROWS):
        rows = slice(top, top + ROWS)
        content, picture = unit(photo[rows]), unit(stylized[rows])
        if controls.preserve_color == "luminance":  # one number on red, green and blue leaves chroma as it is
            picture = content + ((picture - content) @ LUMA)[..., None]
        elif controls.preserve_color == "histogram":
            picture = (picture - before) @ matrix + after
        result[rows] = as_type(content + np.float32(controls.strength) * (picture.clip(0, 1) - content), photo.dtype)
    return result


def read_mask(mask: Picture, size: tuple[int, int], feather: float) -> np.ndarray:
    """Brightness of a picture, brought to a size, its edges softened over `feather` px; (height, width) in [0, 1].

    What is transparent counts as black, as on a layer on which the mask was drawn.
    """
    check_feather(feather)
    (width, height), (wide, high) = mask.size, size
    if 0 in mask.size:
        raise UserError("the mask is empty")
    if abs(wide * height / width - high) > STRETCHED * high + 1:
        log.warning("the mask of %d×%d px is stretched to %d×%d px", width, height, wide, high)
    grey = _brightness(mask.resized(size))
    if not feather:
        return grey.clip(0, 1)
    levels = Image.fromarray(as_type(grey, "uint8")).filter(ImageFilter.GaussianBlur(feather / 2))
    return unit(np.asarray(levels))


def check_mask(mask: Picture) -> None:
    """Warn of one that chooses all or nothing, as what is drawn in black on a transparent layer."""
    grey = _brightness(mask)
    for level, name in ((0, "black or transparent"), (1, "white")):
        if np.abs(grey - level).max(initial=0) < BARELY:
            log.warning("the mask is %s all over", name)


def _brightness(mask: Picture) -> np.ndarray:
    grey: np.ndarray = unit(mask.pixels) @ LUMA
    return grey if mask.alpha is None else grey * unit(mask.alpha)


def check_feather(feather: float) -> None:
    """Raises `UserError` for one out of range."""
    if not (isinstance(feather, Real) and 0 <= feather <= LONGEST):
        raise UserError(f"feather={feather} should be in 0…{LONGEST} px")


def _colour_transfer(
    stylized: np.ndarray, photo: np.ndarray, alpha: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrix, mean before and mean after that give the stylized colours the photo's mean and covariance.

    Source: Gatys et al. 2016 (arXiv:1606.05897), section 4.1, with the symmetric root. Differs: what the stylized
    colours hardly have, as those of an ink drawing, is not raised to all that the photo has, which would be noise.
    """
    sampled = _places(*photo.shape[:2])
    seen = np.ones(photo.shape[:2], bool)[sampled] if alpha is None else alpha[sampled] > 0
    if not seen.any():
        seen[:] = True
    means, roots = [], []
    for pixels, least in ((stylized, FAINT**2), (photo, 0)):
        sample = unit(pixels[sampled])[seen].astype(np.float64)
        means.append(sample.mean(0))
        values, vectors = np.linalg.eigh(np.cov(sample.T, bias=True))
        roots.append((vectors * np.sqrt(values.clip(least))) @ vectors.T)
    matrix = np.linalg.inv(roots[0]) @ roots[1]
    return matrix.astype(np.float32), means[0].astype(np.float32), means[1].astype(np.float32)


def _places(height: int, width: int) -> Any:
    """An index of a million pixels, which tell a picture's colours: all where there are fewer than four.

    By chance, one in each square: every n-th would see one phase of a screen or a weave.
    """
    step = max(1, int((height * width / 1e6) ** 0.5))
    if step == 1:
        return ...
    rows, columns = np.ix_(np.arange(0, height, step), np.arange(0, width, step))
    random = np.random.default_rng(0)
    shape = (len(rows), columns.size)
    return (
        np.minimum(rows + random.integers(step, size=shape), height - 1),
        np.minimum(columns + random.integers(step, size=shape), width - 1),
    )
