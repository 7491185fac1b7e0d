"""`python scripts/gallery.py`: a photo in every style, on one sheet."""

import logging
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import MISSING

from impasto import cli
from impasto.errors import UserError

if TYPE_CHECKING:
    from impasto.sheet import Captioned

LARGEST = 8192  # px, of a picture on the sheet

USAGE = """
A contact sheet of photos in many styles.

  python scripts/gallery.py input=photo.jpg
  python scripts/gallery.py input=holiday/ ckpt=starry_night,great_wave,runs/mine/first/mine.safetensors

  input=PATH        a photo, or a folder: a row for each
  ckpt=all|LIST     all styles that ship, or checkpoints and styles as in stylize.py, with commas between them
  output=PATH       default: beside the input, as photo_gallery.jpg
  size=384          px, long side of each picture
  device=auto|cpu|cuda|mps   precision=auto|float32|bfloat16
"""


@dataclass
class GalleryOptions:
    """Options of the command line, as in `USAGE`."""

    input: str = MISSING
    ckpt: str = "all"
    output: str | None = None
    size: int = 384
    device: str = "auto"
    precision: str = "auto"


def gallery(words: list[str]) -> None:
    """Write the sheet as the words say. Raises `UserError`."""
    options = cli.parse(words, GalleryOptions)
    if not 1 <= options.size <= LARGEST:
        raise UserError(f"size={options.size} should be in 1…{LARGEST} px")

    from impasto.image import check_not_input, check_writable, read_images, save_image
    from impasto.job import default_output
    from impasto.picture_files import check_sides
    from impasto.progress import progress_bar
    from impasto.sheet import contact_sheet, sheet_size
    from impasto.styles import find_checkpoints
    from impasto.stylizer import Stylizer

    source = Path(options.input)
    if options.output is not None:
        output = Path(options.output)
    else:
        beside = default_output(source, "gallery")
        output = beside.with_name(f"{beside.name}.jpg") if source.is_dir() else beside.with_suffix(".jpg")
    check_writable(output)
    if source.is_dir() and output.resolve().is_relative_to(source.resolve()):
        raise UserError(f"output={str(output)!r} is in the input folder: the sheet would be a photo the next time")
    check_not_input(output, [source])
    photos = read_images(source, options.size)
    stylizers = [Stylizer.load(str(path), options.device, options.precision) for path in find_checkpoints(options.ckpt)]
    planned = _laid_out([[("photo", photo), *((each.name, photo) for each in stylizers)] for photo in photos])
    check_sides(repr(str(output)), *sheet_size(planned, options.size), output.suffix.lower())
    with progress_bar("Gallery", "photos", quiet=False) as progress:
        rows = [
            [("photo", photo), *((stylizer.name, stylizer(photo)) for stylizer in stylizers)]
            for photo in progress.track(photos)
        ]
    save_image(contact_sheet(_laid_out(rows), options.size), output)
    logging.getLogger("impasto").info("Wrote %s", output)


def _laid_out(rows: list[list["Captioned"]]) -> list[list["Captioned"]]:
    """Of one photo, a sheet a little wider than high."""
    from impasto.sheet import wrapped

    return wrapped(rows[0], ceil((1.5 * len(rows[0])) ** 0.5)) if len(rows) == 1 else rows


def main() -> None:
    """Run `gallery` on the command line."""
    cli.run(gallery, USAGE)
