"""Image files without loss: read, whatever Pillow calls them, within limits; written whole or not at all.

Pillow reads and writes; libvips where it would round 16 bits to 8 or mistake them, or knows no such TIFF.
"""

import ctypes
import io
import logging
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageSequence, UnidentifiedImageError

from impasto.deep import DEEP, deep_bytes, is_deep, is_tiff, read_deep
from impasto.errors import PictureError, UserError, one_line
from impasto.exif import TIFF, kept_exif, orientation, with_exif
from impasto.files import whole_file
from impasto.levels import unit
from impasto.picture import SRGB, Picture, from_pil, told

log = logging.getLogger("impasto")

# Pillow and libvips remark on large files, cut metadata and odd palettes: what matters is refused
warnings.filterwarnings("ignore", module=r"PIL\.")
for library in ("PIL", "pyvips"):
    logging.getLogger(library).setLevel(logging.CRITICAL)

SRGB_CODING = 1 / 2.2  # as PNG's gAMA states it
HDR = {16: "PQ", 18: "HLG"}  # ITU-T H.273's transfers
PAGE_KIND, PREVIEW, MASK = 254, 1, 4  # TIFF's tag NewSubfileType, and two of its bits
COMMON = ("JPEG", "PNG")  # which Pillow has at hand
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "HEIF", "TIFF", "GIF", "BMP", "PPM")
JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")
# px that a side can have there
LONGEST = {**dict.fromkeys(JPEG, 65500), ".webp": 16383, ".avif": 32768, ".gif": 65535}
OPAQUE = frozenset({*JPEG, ".bmp"})  # formats without transparency
MEGAPIXELS = 178  # that are decoded unless more is allowed; from there on Pillow refuses by itself
QUALITY = 95
GIF_COLOURS = 256
FEW_BITS = {"L;2": 85, "L;4": 17}  # Pillow's names of PNG's greys: levels of 255 to one of theirs


def read_picture(source: str | os.PathLike[str] | IO[bytes], megapixels: float = MEGAPIXELS) -> Picture:
    """Read an image file or stream; of an animation, the first frame.

    Raises `UserError` if it is missing, no image, damaged, or has more than `megapixels`.
    """

    def check(width: int, height: int) -> None:
        _check_size(source, width, height, megapixels)

    with image_errors(source):
        try:
            image = open_image(source, megapixels)
        except UnidentifiedImageError:
            if not is_tiff(source):
                raise
            return read_deep(source, "TIFF", b"", check)
        with image:
            coding, known = told(image, "gamma"), {"srgb", "icc_profile"} & image.info.keys()
            if image.format == "PNG" and not known and coding is not None and abs(coding - SRGB_CODING) > 0.02:
                log.warning("%s has gamma %g: its levels are read as sRGB, too dark or pale", shown(source), coding)
            if is_deep(image):
                opaque = image.format == "TIFF" and image.mode == "RGB"
                return read_deep(source, str(image.format), kept_exif(image), check, opaque, orientation(image))
            if (bits := told(image, "bit_depth") or 8) > 8:  # of HEIC
                log.warning("%s has %d bits a channel, of which 8 are read", shown(source), bits)
            if (told(image, "nclx_profile") or {}).get("transfer_characteristics") in HDR:
                log.warning("%s is HDR: its levels are read as they are, paler", shown(source))
            return from_pil(image)


def count_pages(source: str | os.PathLike[str] | IO[bytes], megapixels: float = MEGAPIXELS) -> int:
    """How many pages a TIFF has, less previews and masks; 1 of all other images, and of what is damaged."""
    pages = 0
    with suppress(Exception):  # of Pillow, which has no common base
        if is_tiff(source):
            with open_image(source, megapixels) as image:
                for page in ImageSequence.Iterator(image):
                    pages += not getattr(page, "tag_v2", {}).get(PAGE_KIND, 0) & (PREVIEW | MASK)
    return max(1, pages)


@contextmanager
def image_errors(source: str | os.PathLike[str] | IO[bytes]) -> Iterator[None]:
    """Turn what Pillow raises for a missing, damaged or dangerous image into a `UserError` that names it."""
    name = shown(source)
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"there is no image {name}") from None
    except IsADirectoryError:
        raise UserError(f"{name} is a folder, not an image") from None
    except UnidentifiedImageError:
        heif = name.lower().endswith((".heic'", ".heif'")) and "HEIF" not in _formats()
        mend = ": HEIC takes pip install 'impasto[heic]'" if heif else ""
        raise UserError(f"{name} is not an image that can be read{mend}") from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6  # at which Pillow refuses
        raise UserError(
            f"{name} is too large: more than {limit:.0f} megapixels; make it smaller first (or, to paint it and where "
            "you trust it, allow more by max_megapixels=)"
        ) from None
    except Exception as error:  # what decoders raise for damaged files has no common base
        raise UserError(f"{name} cannot be read: {one_line(error)}") from None


def open_image(source: str | os.PathLike[str] | IO[bytes], megapixels: float = MEGAPIXELS) -> Image.Image:
    """Open an image without decoding it, in one of the formats that we read. Raises `UserError` for too large a one."""
    if isinstance(source, str | os.PathLike):
        check_file(source)
    try:
        image = Image.open(source, formats=COMMON)
    except UnidentifiedImageError:  # the others take Pillow 40 ms to load
        image = Image.open(source, formats=_formats())
    try:
        _check_size(source, *image.size, megapixels)
    except UserError:
        image.close()
        raise
    clear = image.info.get("transparency")
    if image.format == "PNG" and image.tile and isinstance(clear, int):  # Pillow spreads to 8 bits all but this
        image.info["transparency"] = clear * FEW_BITS.get(str(image.tile[0][3]), 1)
    return image


def check_file(path: str | os.PathLike[str]) -> None:
    """Raise `UserError` for a pipe or a device, which might never end."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise UserError(f"{os.fspath(path)!r} is a pipe or a device, not a file")


def _check_size(source: Any, width: int, height: int, megapixels: float) -> None:
    if width * height > megapixels * 1e6:
        has = round(width * height / 1e6, 4)
        raise UserError(
            f"{shown(source)} has {has:.9g} megapixels, more than max_megapixels={megapixels:g}: "
            "allow more if you trust it"
        )


def check_sides(name: str, width: int, height: int, suffix: str) -> None:
    """Raise `PictureError` for a picture too long for its format: before minutes are spent on it."""
    longest = LONGEST.get(suffix, max(width, height))
    if max(width, height) > longest:  # of AVIF, the encoder would write what no decoder takes
        raise PictureError(
            f"{name}: {width}×{height} px do not fit into {suffix}, whose sides end at {longest} px: take .png or .tif"
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
    check_sides("this picture", *picture.size, suffix)
    if picture.alpha is not None and suffix in OPAQUE:
        log.warning("%s has no transparency: it is laid over white", suffix)
        picture = picture.over_white()
    if picture.alpha is not None and suffix == ".gif" and ((picture.alpha > 0) & (unit(picture.alpha) < 1)).any():
        log.warning(".gif knows no half transparency: what is less than half opaque is clear, the rest opaque")
    with encoding_errors(suffix):
        if picture.pixels.dtype == np.uint16 and suffix in DEEP:
            file.write(with_exif(deep_bytes(picture, suffix), suffix, picture.exif))
        elif suffix in TIFF:
            content = io.BytesIO()  # it is written back and forth, which a pipe does not take
            _encode(replace(picture, exif=b""), content, suffix, quality)
            file.write(with_exif(content.getbuffer(), suffix, picture.exif))
        else:
            _encode(picture, file, suffix, quality)


@contextmanager
def encoding_errors(suffix: str) -> Iterator[None]:
    """Turn what encoders raise for a picture, as for an animation with too long a side, into a `PictureError`."""
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
    if suffix in TIFF:
        options = {"icc_profile": SRGB, "compression": "tiff_deflate"}
    if suffix == ".png":
        options["compress_level"] = 1  # three quarters of the default's time, 7 % more bytes
    Image.preinit()
    kind = Image.EXTENSION.get(suffix) or Image.registered_extensions()[suffix]  # which loads all formats
    (for_gif(picture) if suffix == ".gif" else picture.to_pil()).save(file, format=kind, **options)


def for_gif(picture: Picture) -> Image.Image:
    """As GIF can hold it: where alpha is below half, the last of 256 colours, which is clear.

    Pillow takes alpha for a fourth colour, and often leaves nothing clear.
    """
    image = replace(picture, alpha=None).to_pil()
    if picture.alpha is None:
        return image
    clear = unit(picture.alpha) < 0.5
    levels = np.array(image)
    levels[clear] = levels[~clear][:1] if not clear.all() else 0  # no colour of its own
    indexed = Image.fromarray(levels).quantize(GIF_COLOURS - 1)
    result = Image.fromarray(np.where(clear, np.uint8(GIF_COLOURS - 1), np.asarray(indexed)))
    result.putpalette(indexed.getpalette() or [])
    result.info["transparency"] = GIF_COLOURS - 1
    return result


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


def shown(source: Any) -> str:
    """A source's name for messages."""
    return repr(os.fspath(source)) if isinstance(source, str | os.PathLike) else "the stream"
