"""Image files without loss: pixels in sRGB at 8 or 16 bits, transparency, EXIF; orientation and profiles applied.

Pillow reads and writes; where it would round 16 bits to 8 (PNG and TIFF in colour), libvips does.
"""

import ctypes
import io
import logging
import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from impasto.errors import PictureError, UserError, one_line
from impasto.files import whole_file

log = logging.getLogger("impasto")

# Pillow and libvips remark on large files, cut metadata and odd palettes: what matters is refused
warnings.filterwarnings("ignore", module=r"PIL\.")
for library in ("PIL", "pyvips"):
    logging.getLogger(library).setLevel(logging.CRITICAL)

LEVELS = {"uint8": 255, "uint16": 65535, "float32": 1}
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "HEIF", "TIFF", "GIF", "BMP", "PPM")
DEEP = frozenset({".png", ".tif", ".tiff"})  # formats with 16 bits
DEEP_FORMATS = {"PNG": "pngload", "TIFF": "tiffload"}  # what libvips reads them with
OPAQUE = frozenset({".jpg", ".jpeg", ".bmp"})  # formats without transparency
MEGAPIXELS = 178  # that are decoded unless more is allowed; from there on Pillow refuses by itself
QUALITY = 95
ROWS = 256  # worked on at once

# what may be told of the stylized picture, too: not orientation, size, strips, nor the photo's thumbnail
KEPT_EXIF = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)  # description, camera, software, date, artist
SUB_IFDS = (0x8769, 0x8825)  # Exif, GPS
MAKER_NOTE = 0x927C  # of any length, in the camera's own format
EXIF_BYTES = 65533  # of a segment of JPEG
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


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
        premultiplied = resize_array(self.pixels.astype(np.float32) * cover, size)
        cover = resize_array(np.repeat(cover, 3, axis=2), size)[..., :1].clip(0, 1)
        pixels = premultiplied / np.maximum(cover, 1e-6)
        return replace(
            self, pixels=as_type(pixels / levels, self.pixels.dtype), alpha=as_type(cover[..., 0], self.alpha.dtype)
        )

    def filled(self) -> np.ndarray:
        """The pixels, with the colours around spread into what is wholly transparent, whose own mean nothing."""
        if self.alpha is None or self.alpha.all():
            return self.pixels
        hidden = self.alpha == 0
        eight = replace(self, pixels=converted(self.pixels, np.uint8), alpha=converted(self.alpha, np.uint8))
        spread = _spread(eight.to_pil())
        return np.where(hidden[..., None], converted(spread, self.pixels.dtype), self.pixels)

    def over_white(self) -> "Picture":
        """Opaque."""
        if self.alpha is None:
            return self
        cover = unit(self.alpha)[..., None]
        pixels = unit(self.pixels) * cover + (1 - cover)
        return replace(self, pixels=as_type(pixels, self.pixels.dtype), alpha=None)

    def to_pil(self) -> Image.Image:
        """As RGB or RGBA with 8 bits."""
        pixels = converted(self.pixels, np.uint8)
        if self.alpha is None:
            return Image.fromarray(pixels)
        return Image.fromarray(np.dstack([pixels, converted(self.alpha, np.uint8)]))


def from_pil(image: Image.Image) -> Picture:
    """A Pillow image of any mode; orientation and colour profile are applied."""
    image = ImageOps.exif_transpose(image)
    exif, profile = _kept_exif(image), image.info.get("icc_profile")
    alpha = None
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        alpha = np.asarray(image.getchannel("A"))
        alpha = None if alpha.min(initial=255) == 255 else alpha
        image = image.convert("RGB")
    elif image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Picture(np.repeat(_deep_grey(image)[..., None], 3, axis=2), None, exif)
    elif image.mode not in ("RGB", "L", "CMYK", "LAB"):
        image = image.convert("RGB")
    if profile and not _is_srgb(profile):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            transformed = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            image = transformed or image
        except (ImageCms.PyCMSError, OSError):  # a profile that does not fit the image: read it as sRGB
            pass
    return Picture(np.asarray(image.convert("RGB")), alpha, exif)


def read_picture(source: str | os.PathLike[str] | IO[bytes], megapixels: float = MEGAPIXELS) -> Picture:
    """Read an image file or stream; of an animation, the first frame.

    Raises `UserError` if it is missing, no image, damaged, or has more than `megapixels`.
    """
    with image_errors(source), open_image(source, megapixels) as image:
        if _is_deep(image):
            return _read_deep(source, DEEP_FORMATS[str(image.format)], _kept_exif(image), megapixels)
        return from_pil(image)


@contextmanager
def image_errors(source: str | os.PathLike[str] | IO[bytes]) -> Iterator[None]:
    """Turn what Pillow raises for a missing, damaged or dangerous image into a `UserError` that names it."""
    shown = _shown(source)
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"there is no image {shown}") from None
    except IsADirectoryError:
        raise UserError(f"{shown} is a folder, not an image") from None
    except UnidentifiedImageError:
        heif = shown.lower().endswith((".heic'", ".heif'")) and "HEIF" not in _formats()
        mend = ": HEIC takes pip install 'impasto[heic]'" if heif else ""
        raise UserError(f"{shown} is not an image that can be read{mend}") from None
    except Image.DecompressionBombError as error:
        raise UserError(f"{shown} is too large: {error}") from None
    except Exception as error:  # what decoders raise for damaged files has no common base
        raise UserError(f"{shown} cannot be read: {one_line(error)}") from None


def open_image(source: str | os.PathLike[str] | IO[bytes], megapixels: float = MEGAPIXELS) -> Image.Image:
    """Open an image without decoding it, in one of the formats that we read. Raises `UserError` for too large a one."""
    if isinstance(source, str | os.PathLike):
        check_file(source)
    image = Image.open(source, formats=_formats())
    try:
        _check_size(source, *image.size, megapixels)
    except UserError:
        image.close()
        raise
    return image


def check_file(path: str | os.PathLike[str]) -> None:
    """Raise `UserError` for a pipe or a device, which might never end."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise UserError(f"{os.fspath(path)!r} is a pipe or a device, not an image")


def _check_size(source: Any, width: int, height: int, megapixels: float) -> None:
    if width * height > megapixels * 1e6:
        raise UserError(
            f"{_shown(source)} has {width * height / 1e6:.0f} megapixels, more than max_megapixels={megapixels:g}: "
            "allow more if you trust it"
        )


def write_picture(
    picture: Picture, target: str | os.PathLike[str] | IO[bytes], suffix: str = "", quality: int = QUALITY
) -> None:
    """Write a picture as its suffix says, tagged as sRGB; a file appears whole or not at all.

    16 bits stay where the format has them, transparency too; else it is laid over white, with a warning.
    Raises `UserError` for a full disk or a folder without permission, `PictureError` for what the format cannot hold.
    """
    if isinstance(target, str | os.PathLike):
        suffix = suffix or Path(target).suffix.lower()
        with whole_file(target) as temporary, temporary.open("wb") as file:
            _write(picture, file, suffix, quality)
    else:
        _write(picture, target, suffix, quality)


def _write(picture: Picture, file: IO[bytes], suffix: str, quality: int) -> None:
    if picture.alpha is not None and suffix in OPAQUE:
        log.warning("%s has no transparency: it is laid over white", suffix)
        picture = picture.over_white()
    with encoding_errors(suffix):
        if picture.pixels.dtype == np.uint16 and suffix in DEEP:
            file.write(_deep_bytes(picture, suffix))
        else:
            _encode(picture, file, suffix, quality)


@contextmanager
def encoding_errors(suffix: str) -> Iterator[None]:
    """Turn what encoders raise for a picture, as one with too long a side, into a `PictureError`."""
    try:
        yield
    except Exception as error:  # no common base
        if isinstance(error, OSError) and error.errno is not None:  # of the disk
            raise
        raise PictureError(f"this picture cannot be written as {suffix}: {one_line(error)}") from None


def _encode(picture: Picture, file: IO[bytes], suffix: str, quality: int) -> None:
    options: dict[str, Any] = {"quality": quality, "icc_profile": SRGB}
    if picture.exif:
        options["exif"] = picture.exif
    if suffix in (".tif", ".tiff"):
        del options["quality"]  # which is of JPEG in TIFF
        if not picture.exif:  # with which Pillow 13 cannot compress
            options["compression"] = "tiff_deflate"
    picture.to_pil().save(file, format=Image.registered_extensions()[suffix], **options)


def unit(array: np.ndarray) -> np.ndarray:
    """Levels of any type as float32 in [0, 1]."""
    return array.astype(np.float32, copy=False) / np.float32(LEVELS[array.dtype.name])


def converted(array: np.ndarray, dtype: Any) -> np.ndarray:
    """Levels of one type as those of another; some rows at a time, as floats of a large picture are gigabytes."""
    if array.dtype == dtype:
        return array
    result = np.empty(array.shape, dtype)
    for top in range(0, len(array), ROWS):
        result[top : top + ROWS] = as_type(unit(array[top : top + ROWS]), dtype)
    return result


def as_type(array: np.ndarray, dtype: Any) -> np.ndarray:
    """Float32 in [0, 1] as levels of a type, rounded to the nearest."""
    levels = LEVELS[np.dtype(dtype).name]
    clipped = array.clip(0, 1)
    return clipped if levels == 1 else (clipped * levels + 0.5).astype(dtype)


def resize_array(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(height, width, 3) of any type, brought to a width and height by Lanczos' filter."""
    if size == (pixels.shape[1], pixels.shape[0]):
        return pixels
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
    planes = [
        np.asarray(Image.fromarray(plane.astype(np.float32)).resize(size, Image.Resampling.LANCZOS))
        for plane in np.moveaxis(pixels, 2, 0)
    ]
    stacked = np.stack(planes, axis=2)
    if pixels.dtype == np.float32:
        return stacked
    return (stacked.clip(0, LEVELS[pixels.dtype.name]) + 0.5).astype(pixels.dtype)


def _spread(image: Image.Image) -> np.ndarray:
    """Colours of an RGBA image, pulled into its transparent parts from ever coarser levels."""
    smaller = [image]
    while max(smaller[-1].size) > 1:
        width, height = smaller[-1].size
        half = smaller[-1].resize((-(-width // 2), -(-height // 2)), Image.Resampling.BOX)  # weighted by alpha
        half.putalpha(half.getchannel("A").point(lambda cover: 255 if cover else 0))
        smaller.append(half)
    below = smaller[-1]
    for level in reversed(smaller[:-1]):
        below = Image.alpha_composite(below.resize(level.size, Image.Resampling.BILINEAR), level)
    return np.asarray(below.convert("RGB"))


def _is_deep(image: Image.Image) -> bool:
    """Whether there are 16 bits a channel in colour, which Pillow would round to 8."""
    sixteen = re.search(r";16[BLN]?\b", str(getattr(image, "tile", "")))
    return image.format in DEEP_FORMATS and image.mode in ("RGB", "RGBA", "RGBa") and sixteen is not None


def _is_srgb(profile: bytes) -> bool:
    """Whether a profile calls itself sRGB: then levels stay as they are, to the last bit."""
    try:
        return ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))).startswith("sRGB")
    except (ImageCms.PyCMSError, OSError):
        return False


def _deep_grey(image: Image.Image) -> np.ndarray:
    """16 bits of grey, and 32, which files use for 16 (values are clipped)."""
    with np.errstate(invalid="ignore"):  # which NaN may be
        levels = np.nan_to_num(np.asarray(image, dtype=np.float64)).clip(0, 65535)
    if image.mode == "F" and levels.max(initial=0) <= 1:
        levels = levels * 65535
    return levels.round().astype(np.uint16)


def _read_deep(source: str | os.PathLike[str] | IO[bytes], loader: str, exif: bytes, megapixels: float) -> Picture:
    import pyvips

    try:
        if isinstance(source, str | os.PathLike):  # the format that Pillow saw: libvips knows many more
            image = getattr(pyvips.Image, loader)(os.fspath(source), fail_on="truncated")
        else:
            source.seek(0)
            image = getattr(pyvips.Image, f"{loader}_buffer")(source.read(), fail_on="truncated")
        _check_size(source, image.width, image.height, megapixels)  # which Pillow may have read otherwise
        image = image.autorot()
        if image.get_typeof("icc-profile-data") and not _is_srgb(image.get("icc-profile-data")):
            image = image.icc_transform("srgb", depth=16, embedded=True)
        if image.bands < 3:  # grey with transparency
            image = image.colourspace("rgb16")
        array = image.cast("ushort").numpy()
    except pyvips.Error as error:
        raise UserError(f"{_shown(source)} cannot be read: {one_line(error)}") from None
    pixels, alpha = array[..., :3], array[..., 3] if array.shape[2] > 3 else None
    return Picture(np.ascontiguousarray(pixels), None if alpha is None or alpha.min() == 65535 else alpha, exif)


def _deep_bytes(picture: Picture, suffix: str) -> bytes:
    import pyvips

    array = picture.pixels if picture.alpha is None else np.dstack([picture.pixels, picture.alpha])
    image = pyvips.Image.new_from_array(array, interpretation="rgb16").copy()
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", SRGB)
    if picture.exif:
        image.set_type(pyvips.GValue.blob_type, "exif-data", picture.exif)
    options = {"compression": "deflate"} if suffix != ".png" else {}
    content: bytes = image.write_to_buffer(suffix, **options)
    return content


def _kept_exif(image: Image.Image) -> bytes:
    try:
        found, kept = image.getexif(), Image.Exif()
        for tag in KEPT_EXIF:
            if tag in found:
                kept[tag] = found[tag]
        for ifd in SUB_IFDS:
            if content := found.get_ifd(ifd):
                kept.get_ifd(ifd).update(content)
        if not kept and not any(kept.get_ifd(ifd) for ifd in SUB_IFDS):
            return b""
        if len(kept.tobytes()) > EXIF_BYTES:
            kept.get_ifd(0x8769).pop(MAKER_NOTE, None)
        packed = kept.tobytes()
        return packed if len(packed) <= EXIF_BYTES else b""
    except Exception:  # damaged metadata, for which Pillow has no one error: the picture does without
        return b""


@cache
def _formats() -> list[str]:
    """What we read: formats of photos and pictures, not all that Pillow knows; HEIF where its package is."""
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    with suppress(AttributeError, OSError):  # as where libtiff is no library of its own
        libtiff = ctypes.CDLL(Image.core.__file__)  # and what it is linked with
        libtiff.TIFFSetErrorHandler(None)  # which would print: what matters is raised, too
        libtiff.TIFFSetWarningHandler(None)
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _shown(source: Any) -> str:
    return repr(os.fspath(source)) if isinstance(source, str | os.PathLike) else "the stream"
