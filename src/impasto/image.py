"""Images in and out. The convention everywhere: RGB, float32, [0, 1], shape (batch, 3, height, width)."""

import io
import logging
import os
from collections.abc import Iterable, Iterator
from math import inf
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32
from PIL import Image

from impasto.errors import UserError
from impasto.files import check_place, whole_file
from impasto.picture import from_pil
from impasto.picture_files import check_sides, image_errors, open_image

log = logging.getLogger("impasto")

WRITABLE = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".gif"})
SUFFIXES = WRITABLE | {".ppm", ".pgm", ".heic", ".heif"}


def read_image(path: str | os.PathLike[str] | io.BytesIO, short_side: int | None = None) -> Image.Image:
    """Read an image file or stream as RGB: upright (EXIF), in sRGB (ICC), transparency over white, 16 bits to 8.

    With `short_side` (px) a larger image comes back with that short side.
    Raises `UserError` if the file is missing, no image, damaged, or too large to be safe.
    """
    with image_errors(path), open_image(path, inf) as image:
        if short_side is not None:
            image.draft("RGB", (2 * short_side, 2 * short_side))  # JPEG decodes at a fraction at once
        rgb = from_pil(image).over_white().to_pil()
    if short_side is not None and min(rgb.size) > short_side:
        rgb = resize(rgb, short_side / min(rgb.size))
    return rgb


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Width and height that an image file has before it is turned upright, undecoded. Raises as `read_image` does."""
    with image_errors(path), open_image(path, inf) as image:
        return image.size


def resize(image: Image.Image, factor: float) -> Image.Image:
    """Scale both sides by `factor`, to at least one pixel, with an antialiasing filter."""
    width, height = (max(1, round(side * factor)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def with_long_side(image: Image.Image, pixels: int) -> Image.Image:
    """`resize` so that the longer side has so many pixels."""
    return resize(image, pixels / max(image.size))


def to_array(image: Image.Image) -> Float32[np.ndarray, "1 3 height width"]:
    """An RGB image as an array in [0, 1]."""
    return np.ascontiguousarray(np.asarray(image, dtype=np.float32).transpose(2, 0, 1)[None]) / np.float32(255)


def to_image(array: Float[np.ndarray, "1 3 height width"]) -> Image.Image:
    """An array in [0, 1] as an 8-bit RGB image, rounded to the nearest level."""
    levels = (array[0].clip(0, 1) * 255).round().astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(levels.transpose(1, 2, 0)))


def save_image(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Write an image whole or not at all; the suffix chooses the format.

    Raises `UserError` for a suffix that cannot be written, sides too long for it, a full disk or a folder without
    permission.
    """
    check_suffix(Path(path))
    check_sides(repr(str(path)), *image.size, Path(path).suffix.lower())
    kind = Image.registered_extensions()[Path(path).suffix.lower()]  # a link may lead to a name without
    with whole_file(path) as temporary:
        image.save(temporary, kind, quality=95)


def check_writable(path: Path) -> None:
    """Raise `UserError` where `save_image` could not write: before minutes are spent on the picture."""
    check_suffix(path)
    check_place(path)


def check_suffix(path: Path) -> None:
    """Raise `UserError` for a suffix that cannot be written."""
    if path.suffix.lower() not in WRITABLE:
        mend = "" if path.suffix else f"; for a folder, say {str(path) + os.sep!r}"
        raise UserError(f"cannot write {str(path)!r}: its suffix should be one of {', '.join(sorted(WRITABLE))}{mend}")


def check_format(suffix: str, writable: Iterable[str] = WRITABLE) -> None:
    """Raise `UserError` where what format= asks for cannot be written."""
    if suffix not in writable:
        raise UserError(f"format={suffix[1:]} should be one of {', '.join(sorted(name[1:] for name in writable))}")


def check_not_input(output: Path, inputs: Iterable[Path]) -> None:
    """Raise `UserError` where the output is one of the inputs, which it would write over."""
    if output.exists() and any(path.exists() and output.samefile(path) for path in inputs):
        raise UserError(f"output={str(output)!r} is the input: it would be written over")


def read_images(source: str | os.PathLike[str], long_side: int) -> list[Image.Image]:
    """A photo, or all of a folder's that can be read, each brought to `long_side` px; what cannot is warned of.

    Raises `UserError` as `read_image` does, and where a folder has none that can be read.
    """
    if not Path(source).is_dir():
        return [with_long_side(read_image(source), long_side)]
    images = list[Image.Image]()
    for path in find_images(source):  # one at full size at a time
        try:
            images.append(with_long_side(read_image(path), long_side))
        except UserError as error:
            log.warning("skipped: %s", error)
    if not images:
        raise UserError(f"no image in {os.fspath(source)!r} can be read")
    return images


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Raise `UserError` where there is no such folder."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(
            f"{str(folder)!r} is a file, not a folder" if folder.is_file() else f"there is no folder {str(folder)!r}"
        )


def find_images(folder: str | os.PathLike[str]) -> list[Path]:
    """All image files under a folder, at any depth, sorted; hidden files and folders are left out.

    Links are followed, into each folder once.
    Raises `UserError` if there is no such folder or no image in it.
    """
    check_folder(folder)
    folder = Path(folder)
    images = sorted(
        path
        for path in _files(folder)
        if path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not images:
        raise UserError(f"there are no images in {str(folder)!r} (looked for {', '.join(sorted(SUFFIXES))})")
    return images


def _files(folder: Path) -> Iterator[Path]:
    """Files at any depth; a folder that links lead to again, as in a loop, is not entered again."""

    def unlisted(error: OSError) -> None:
        said = f"{error.filename!r} cannot be read: {error.strerror}"
        if Path(error.filename) == folder:
            raise UserError(said)
        log.warning("left out: %s", said)

    entered = set()
    for root, folders, names in os.walk(folder, onerror=unlisted, followlinks=True):
        place = os.stat(root)
        if (place.st_dev, place.st_ino) in entered:
            folders.clear()
            continue
        entered.add((place.st_dev, place.st_ino))
        folders.sort(key=lambda name: (os.path.islink(os.path.join(root, name)), name))  # what is really here first
        yield from (Path(root, name) for name in names)
