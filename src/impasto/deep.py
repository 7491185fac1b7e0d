"""By libvips: PNG and TIFF of 16 bits, where Pillow would round to 8 or mistake them, and TIFF in floats or Lab."""

import os
import re
from collections.abc import Callable
from typing import IO

import numpy as np
from PIL import Image

from impasto.picture import PHOTOMETRIC, SRGB, WHITE_IS_ZERO, Picture, is_srgb, told

DEEP = frozenset({".png", ".tif", ".tiff"})  # formats with 16 bits
BITS = 258  # TIFF's tag
LOADERS = {"PNG": "pngload", "TIFF": "tiffload"}  # what libvips reads them with


def is_deep(image: Image.Image) -> bool:
    """Whether there are 16 bits a channel that Pillow would round to 8, or grey that it would mistake."""
    if image.format not in LOADERS:
        return False
    tags = getattr(image, "tag_v2", {})
    if image.mode.startswith("I;16"):
        profile = told(image, "icc_profile")
        return tags.get(PHOTOMETRIC) == WHITE_IS_ZERO or bool(profile and not is_srgb(profile))
    if image.mode not in ("RGB", "RGBA", "RGBa"):
        return False
    if image.format == "TIFF":  # whose planes, where each has its own, look like 8 bits in `tile`
        return set(tags.get(BITS, ())) == {16}
    return re.search(r";16[BLN]?\b", str(getattr(image, "tile", ""))) is not None


def is_tiff(source: str | os.PathLike[str] | IO[bytes]) -> bool:
    """Whether a file or stream begins as TIFF and BigTIFF do."""
    if isinstance(source, str | os.PathLike):
        with open(source, "rb") as file:
            return is_tiff(file)
    source.seek(0)
    return source.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_deep(
    source: str | os.PathLike[str] | IO[bytes],
    image_format: str,
    exif: bytes,
    check_size: Callable[[int, int], None],
    opaque: bool = False,
    orientation: int = 1,
) -> Picture:
    """Read what `is_deep`, or a TIFF of any kind, as uint16; `check_size` is asked before anything is decoded.

    `image_format` is what the file is: libvips would find out, but knows many more. Floats without a profile are
    linear light (scRGB), as libvips takes them; with one, they are in its coding, from 0 to 1. `opaque`: a fourth
    channel is something else, as a scanner's infrared. `orientation`, as of EXIF, is for what libvips does not find: a
    PNG's after the pixels.
    """
    import pyvips

    pyvips.cache_set_max(0)  # it holds decoded pictures in temporary files, and takes a changed file for the one before
    loader = LOADERS[image_format]
    if isinstance(source, str | os.PathLike):
        image = getattr(pyvips.Image, loader)(os.fsencode(source), fail_on="truncated")
    else:
        source.seek(0)
        image = getattr(pyvips.Image, f"{loader}_buffer")(source.read(), fail_on="truncated")
    check_size(image.width, image.height)  # which Pillow may have read otherwise
    if orientation != 1 and not image.get_typeof("orientation"):
        image = image.copy()
        image.set_type(pyvips.GValue.gint_type, "orientation", orientation)
    image = image.autorot()
    profile = image.get("icc-profile-data") if image.get_typeof("icc-profile-data") else b""
    if profile and image.format == "float":
        image = image.linear(65535, 0).cast("ushort").copy(interpretation="rgb16")
    if profile and not is_srgb(profile):
        image = image.icc_transform("srgb", depth=16, embedded=True)
    elif image.interpretation != "rgb16":  # grey with transparency, floats, Lab
        image = image.colourspace("rgb16")
    array = image.cast("ushort").numpy()
    pixels, alpha = array[..., :3], array[..., 3] if array.shape[2] > 3 and not opaque else None
    return Picture(np.ascontiguousarray(pixels), None if alpha is None or alpha.min() == 65535 else alpha, exif)


def deep_bytes(picture: Picture, suffix: str) -> bytes:
    """The file's content, of a picture in uint16, without its EXIF."""
    import pyvips

    array = picture.pixels if picture.alpha is None else np.dstack([picture.pixels, picture.alpha])
    image = pyvips.Image.new_from_array(array, interpretation="rgb16").copy()
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", SRGB)
    options = {"compression": "deflate"} if suffix != ".png" else {}
    content: bytes = image.write_to_buffer(suffix, keep="icc", **options)  # no EXIF of its own
    return content
