"""`Picture`: upright pixels in sRGB at 8 or 16 bits, transparency, and the EXIF that may be carried on."""

import io
import struct
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from impasto.exif import kept_exif, orientation
from impasto.levels import LEVELS, as_type, composite, converted, resize_array, spread, unit

SAME = 4  # levels by which profiles of sRGB differ, most by none; one of linear light by 70
TURNS = {  # EXIF's orientation → what brings a picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # TIFF's tag, and grey that is stored as a negative
_MADE, _DATE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(), slice(24, 36)
# which else would hold the moment of its making, and make every file another
SRGB = _MADE[: _DATE.start] + struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + _MADE[_DATE.stop :]


@dataclass(frozen=True)
class Picture:
    """An upright image in sRGB.

    `pixels`: (height, width, 3), uint8, uint16 or float32 in [0, 1]. `alpha`: (height, width) of the same type, or
    None where all is opaque; colours are not multiplied by it. `exif`: what a file may carry on, or b"".
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    exif: bytes = b""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, px."""
        height, width = self.pixels.shape[:2]
        return width, height

    def resized(self, size: tuple[int, int]) -> "Picture":
        """Brought to another width and height with an antialiasing filter; transparent colours do not bleed."""
        if size == self.size:
            return self
        if self.alpha is None:
            return replace(self, pixels=resize_array(self.pixels, size))
        levels = LEVELS[self.alpha.dtype.name]
        cover = self.alpha.astype(np.float32)[..., None] / levels
        premultiplied = resize_array(self.pixels.astype(np.float32) / levels * cover, size)
        cover = resize_array(np.repeat(cover, 3, axis=2), size)[..., :1]
        pixels = premultiplied / np.maximum(cover, 1e-6)
        return replace(self, pixels=as_type(pixels, self.pixels.dtype), alpha=as_type(cover[..., 0], self.alpha.dtype))

    def filled(self) -> np.ndarray:
        """The pixels, with the colours around spread into what is wholly transparent, whose own mean nothing."""
        if self.alpha is None or self.alpha.all():
            return self.pixels
        hidden = self.alpha == 0
        eight = replace(self, pixels=converted(self.pixels, np.uint8), alpha=converted(self.alpha, np.uint8))
        return np.where(hidden[..., None], converted(spread(eight.to_pil()), self.pixels.dtype), self.pixels)

    def over_white(self) -> "Picture":
        """Opaque."""
        if self.alpha is None:
            return self
        white = np.broadcast_to(self.pixels.dtype.type(LEVELS[self.pixels.dtype.name]), self.pixels.shape)
        return replace(self, pixels=composite(self.pixels, white, unit(self.alpha)), alpha=None)

    def to_pil(self) -> Image.Image:
        """As RGB or RGBA with 8 bits."""
        pixels = converted(self.pixels, np.uint8)
        if self.alpha is None:
            return Image.fromarray(pixels)
        return Image.fromarray(np.dstack([pixels, converted(self.alpha, np.uint8)]))


def fitted(width: int, height: int, long_side: int) -> tuple[int, int]:
    """Width and height scaled so that the longer one is `long_side` px."""
    factor = long_side / max(width, height)
    return max(1, round(width * factor)), max(1, round(height * factor))


def told(image: Image.Image, key: str) -> Any:
    """What a file says of its pixels; None for a PNG's text, which Pillow puts beside it, under any keyword."""
    value = image.info.get(key)
    return None if isinstance(value, str) else value


def from_pil(image: Image.Image) -> Picture:
    """A Pillow image of any mode; orientation and colour profile are applied."""
    of_file = image.format is not None
    image.load()  # metadata may follow the pixels
    # which Pillow passes over
    negative = image.mode.startswith("I;16") and getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO
    exif, turn = kept_exif(image), TURNS.get(orientation(image))
    image = image if turn is None else image.transpose(turn)
    if "transparency" in image.info and told(image, "transparency") is None:  # for `convert`
        image = image.copy()
        del image.info["transparency"]
    profile = told(image, "icc_profile")
    alpha, full = None, image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):  # before transparency: Pillow would clip at 255
        levels, clear = _deep_grey(image, of_file), image.info.get("transparency")
        if negative:
            levels = 65535 - levels
        if isinstance(clear, int) and (levels == clear).any():
            alpha = np.where(levels == clear, 0, 65535).astype(np.uint16)
        return Picture(np.repeat(levels[..., None], 3, axis=2), alpha, exif)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("LA") if image.mode == "La" else image
        full = image.convert("RGBA")
        alpha = np.asarray(full.getchannel("A"))
        alpha = None if alpha.min(initial=255) == 255 else alpha
        image = image.convert("L") if image.mode in ("L", "LA") else full.convert("RGB")  # grey, as its profile is
    elif image.mode not in ("RGB", "L", "CMYK", "LAB"):
        image = image.convert("RGB")
    if profile and not is_srgb(profile):
        image = _in_srgb(image, profile) or _in_srgb(full.convert("RGB"), profile) or image  # grey may have colours'
    return Picture(np.asarray(image.convert("RGB")), alpha, exif)


def _in_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """An image of a profile in sRGB; None where the profile does not fit the image, or is none."""
    with suppress(ImageCms.PyCMSError, OSError):
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    return None


@lru_cache(maxsize=8)
def is_srgb(profile: bytes) -> bool:
    """Whether a profile calls itself sRGB, and has its curve: then levels stay as they are, to the last bit."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if not ImageCms.getProfileDescription(source).startswith("sRGB"):
            return False
        ramp = Image.merge("RGB", [Image.linear_gradient("L")] * 3)
        brought = ImageCms.profileToProfile(ramp, source, ImageCms.createProfile("sRGB"))
    except (ImageCms.PyCMSError, OSError):
        return False
    return brought is not None and np.abs(np.asarray(brought, np.int16) - np.asarray(ramp, np.int16)).max() <= SAME


def _deep_grey(image: Image.Image, of_file: bool) -> np.ndarray:
    """16 bits of grey, and 32, which files use for 16 (values are clipped).

    Levels of 0…255, as `convert("I")` and `convert("F")` leave them, are 8 bits; of "F" up to 1, a share of white.
    """
    with np.errstate(invalid="ignore"):  # which NaN may be
        levels = np.nan_to_num(np.asarray(image, dtype=np.float64)).clip(0, 65535)
    if image.mode == "F" and levels.max(initial=0) <= 1:
        levels = levels * 65535
    elif (image.mode == "F" or (image.mode == "I" and not of_file)) and levels.max(initial=0) <= 255:
        levels = levels * 257
    return levels.round().astype(np.uint16)
