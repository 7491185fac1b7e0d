"""`python scripts/flicker.py`: how much a style flickers on a film, for several values of smooth=."""

import json
import logging
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from omegaconf import MISSING

from impasto import cli
from impasto.errors import UserError

if TYPE_CHECKING:
    from impasto.picture import Picture

USAGE = """
Measure what changes between stylized frames beyond what motion explains: the warping error.

  python scripts/flicker.py ckpt=starry_night input=clip.mp4
  python scripts/flicker.py ckpt=starry_night input=frames/ smooth=0,0.8 size=427 frames=25

  ckpt=FILE|NAME   as stylize.py's
  input=PATH       a video, or a folder of its frames in the order of their names
  smooth=0,0.5,0.8,0.9   values of stylize.py's smooth=; 0 is each frame on its own
  size=427         px, long side;  frames=25   the first ones
  device=auto|cpu|cuda|mps

A line of JSON for each value; the error of the input itself, which is what flow and noise leave, is the floor.
"""


@dataclass
class FlickerOptions:
    """Options of the command line, as in `USAGE`."""

    ckpt: str = MISSING
    input: str = MISSING
    smooth: str = "0,0.5,0.8,0.9"
    size: int = 427
    frames: int = 25
    device: str = "auto"


def flicker(words: list[str]) -> None:
    """Measure as the words say. Raises `UserError`."""
    options = cli.parse(words, FlickerOptions)
    try:
        values = [float(value) for value in options.smooth.split(",")]
    except ValueError:
        raise UserError(f"smooth={options.smooth} should be numbers with commas between them") from None
    if find_spec("cv2") is None or find_spec("av") is None:
        raise UserError("measuring flicker takes two packages more: pip install 'impasto[benchmark]'")

    from impasto.evaluation.flicker import warping_error
    from impasto.levels import unit
    from impasto.picture import Picture
    from impasto.stylizer import Stylizer
    from impasto.temporal import with_memory

    pictures = read_frames(Path(options.input), options.size, options.frames)
    contents = [unit(picture.pixels) for picture in pictures]
    stylizer = Stylizer.load(options.ckpt, options.device, "float32")
    floor = round(warping_error(contents, contents), 5)
    for value in values:
        painter = Stylizer(with_memory(stylizer.engine, value))
        stylized = [painter.paint(Picture(content)).pixels for content in contents]  # float: unrounded
        steps = np.mean([np.abs(after - before).mean() for before, after in zip(stylized, stylized[1:], strict=False)])
        error = round(warping_error(contents, stylized), 5)
        result = {"smooth": value, "warping_error": error, "of_input": floor, "mean_change": round(float(steps), 5)}
        print(json.dumps({**result, "input": options.input, "frames": len(contents)}), flush=True)


def read_frames(source: Path, size: int, count: int) -> "list[Picture]":
    """The first frames of a video or a folder, `size` px on the long side. Raises `UserError`."""
    from impasto.controls import fitted
    from impasto.image import find_images
    from impasto.picture_files import MEGAPIXELS, read_picture
    from impasto.video.clip import Pictures, open_frames, read_clip

    if source.is_dir():
        pictures = [read_picture(path) for path in find_images(source)[:count]]
    else:
        clip = read_clip(source, MEGAPIXELS)
        upright = Pictures(clip)
        pictures = [upright(frame) for _, frame, _ in islice(open_frames(clip), count)]
    if len(pictures) < 2:
        raise UserError(f"{str(source)!r} has fewer than two frames")
    logging.getLogger("impasto").info("%d frames of %s", len(pictures), source)
    return [picture.resized(fitted(*picture.size, size)) for picture in pictures]


def main() -> None:
    """Run `flicker` on the command line."""
    cli.run(flicker, USAGE)
