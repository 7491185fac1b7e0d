"""`python scripts/flicker.py`: how much a style flickers on a film, for several values of smooth=."""

import json
import logging
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
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
  python scripts/flicker.py ckpt=starry_night input=frames/ smooth=0,0.8 size=854 frames=50

  ckpt=FILE|NAME   as stylize.py's
  input=PATH       a video, or a folder of its frames in the order of their names
  smooth=0,0.5,0.7,0.8,0.9   values of stylize.py's smooth=; 0 is each frame on its own
  size=427         px, long side;  frames=25   the first ones
  device=auto|cpu|cuda|mps

A line of JSON for each value: the error; that of the input itself, which is what flow and noise leave; how sharp the
frames are, of which each on its own has 1; the milliseconds that smoothing takes for a frame.
"""


@dataclass
class FlickerOptions:
    """Options of the command line, as in `USAGE`."""

    ckpt: str = MISSING
    input: str = MISSING
    smooth: str = "0,0.5,0.7,0.8,0.9"
    size: int = 427
    frames: int = 25
    device: str = "auto"


def flicker(words: list[str]) -> None:
    """Measure as the words say. Raises `UserError`."""
    options = cli.parse(words, FlickerOptions)
    cli.log_to(sys.stderr)  # the results are for programs
    try:
        values = [float(value) for value in options.smooth.split(",")]
    except ValueError:
        raise UserError(f"smooth={options.smooth} should be numbers with commas between them") from None
    if options.size < 16:
        raise UserError(f"size={options.size} should be at least 16 px")
    if options.frames < 2:
        raise UserError(f"frames={options.frames} should be at least 2")
    if find_spec("cv2") is None or find_spec("av") is None:
        raise UserError("measuring flicker takes two packages more: pip install 'impasto[video]'")

    from impasto.engines import EXPORTED
    from impasto.evaluation.flicker import sharpness, warping_error
    from impasto.levels import unit
    from impasto.stylizer import Stylizer
    from impasto.temporal import SteadyEngine
    from impasto.video import check_smooth

    for value in values:
        check_smooth(value)
    precision = "auto" if Path(options.ckpt).suffix in EXPORTED else "float32"
    engine = Stylizer.load(options.ckpt, options.device, precision).engine
    steady = [SteadyEngine(engine, value) for value in values]
    pictures = read_frames(Path(options.input), options.size, options.frames)
    contents = [np.ascontiguousarray(unit(picture.pixels).transpose(2, 0, 1)[None]) for picture in pictures]
    stylized = [engine(content) for content in contents]
    floor, sharp = warping_error(_frames(contents), _frames(contents)), sharpness(_frames(stylized))
    for value, memory in zip(values, steady, strict=True):
        begun = time.perf_counter()
        shown = [memory.follow(content, painted) for content, painted in zip(contents, stylized, strict=True)]
        seconds = time.perf_counter() - begun
        result = {
            "smooth": value,
            "warping_error": round(warping_error(_frames(contents), _frames(shown)), 5),
            "of_input": round(floor, 5),
            "sharpness": round(sharpness(_frames(shown)) / sharp, 3) if sharp else 1.0,  # of one colour
            "milliseconds": round(1000 * seconds / len(shown), 1),
        }
        cli.say(json.dumps({**result, "input": options.input, "frames": len(shown)}))


def _frames(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """(height, width, 3) of (1, 3, height, width)."""
    return [array[0].transpose(1, 2, 0) for array in arrays]


def read_frames(source: Path, size: int, count: int) -> "list[Picture]":
    """The first frames of a video or a folder, `size` px on the long side. Raises `UserError`."""
    from impasto.image import find_images
    from impasto.picture import Picture, fitted
    from impasto.picture_files import MEGAPIXELS, read_picture
    from impasto.video.clip import Pictures, open_frames, read_clip

    opened = ExitStack()
    if source.is_dir():
        whole = (read_picture(path) for path in find_images(source)[:count])
    else:
        clip = read_clip(source, MEGAPIXELS)
        upright = Pictures(clip)
        frames = open_frames(clip)
        opened.callback(frames.container.close)
        whole = (upright(frame) for _, frame, _ in islice(frames, count))
    pictures, sizes = list[Picture](), set[tuple[int, int]]()
    with opened:
        for picture in whole:  # one at a time: films can have frames of a hundred megabytes
            sizes.add(picture.size)
            pictures.append(picture.resized(fitted(*picture.size, size)))
    if len(pictures) < 2:
        raise UserError(f"{str(source)!r} has fewer than two frames")
    if len(sizes) > 1:
        raise UserError(f"{str(source)!r} has pictures of {len(sizes)} sizes: frames of a film have one")
    logging.getLogger("impasto").info("%d frames of %s", len(pictures), source)
    return pictures


def main() -> None:
    """Run `flicker` on the command line."""
    cli.run(flicker, USAGE)
