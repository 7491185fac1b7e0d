"""`python stylize.py`: styles, images and films in, stylized images and films out."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import MISSING

from impasto import cli
from impasto.errors import UserError

if TYPE_CHECKING:
    from impasto.job import Job

USAGE = """
Stylize an image, every image under a folder, or a video, in one forward pass each.

  python stylize.py ckpt=starry_night input=photo.jpg
  python stylize.py ckpt=starry_night input=photo.jpg output=night.png size=1024 strength=0.7
  python stylize.py ckpt=starry_night input=holiday/ output=painted/ preserve_color=luminance
  python stylize.py ckpt=starry_night,great_wave input=photo.jpg mask=sky.png
  python stylize.py ckpt=starry_night input=clip.mp4 output=night.mp4 size=1280
  curl … | python stylize.py ckpt=starry_night input=- output=- format=png > painted.png

  ckpt=FILE|NAME    an inference file (.safetensors, .onnx, .pt2), a checkpoint of pytorch/examples' fast_neural_style
                    (.pth, .pt, .model), or a style: one that ships, else your newest run; several with commas between
                    them, or all that ship
  input=PATH        an image, a folder at any depth, or a video (.mp4 .m4v .mov .mkv .webm .avi); - is standard input
  output=PATH       a file or a folder; default: beside the input, as photo_starry_night.jpg; of several styles, each
                    gets its own folder in output; - is the standard output
  strength=1        0 is the photo, 1 the network's picture, up to 10; between, they are blended
  preserve_color=none|luminance|histogram   keep the photo's colours: all but brightness, or their mean and spread
  size=PIXELS       long side of the result; default: the size of the input; upscale=true: the network sees this size,
                    the result is as large as the input
  stroke=PIXELS     strokes as large, relative to the picture, as in one with this long side; default: size
  mask=PATH         white is stylized, black and transparent stay as they are; with two styles, the second goes there;
                    feather=16 px
  smooth=0.8        of videos: how much strokes stay as they were in the frame before and move with what they paint,
                    up to 0.9; 0 is each frame on its own, which flickers
  quality=95        of JPEG, WebP, AVIF and videos; format=png|jpg|… where output has no suffix
  keep_metadata=true|false   camera, date, place and copyright; orientation and colour profile are applied
  max_megapixels=178   larger images, and results, are refused: allow more if you trust them
  tile=PIXELS       larger images are stylized in tiles, without seams; default: as free memory demands; 0: never;
                    exact=false gives them a thumbnail's statistics: a quarter faster, not quite the same picture
  json=true         a line of JSON per image, for machines
  device=auto|cpu|cuda|mps
  precision=auto|float32|bfloat16   not of .onnx, .pt2; default: bfloat16 where hardware multiplies it, twice as fast

A video keeps its frames' times, colour tags and sound, which is copied; frames are turned upright. Stopped, it goes on
where it was with the same command: until it is whole, what is done lies beside it in a hidden folder.
A folder's output has report.jsonl: run the same again, and what is done is left out, what failed or was not reached is
done. The exit status is 0 if all succeeded. Paths need no quoting beyond your shell's own.
"""


@dataclass
class StylizeOptions:
    """Options of the command line, as in `USAGE`."""

    ckpt: str = MISSING
    input: str = MISSING
    output: str | None = None
    strength: float = 1.0
    preserve_color: str = "none"
    size: int | None = None
    upscale: bool = False
    stroke: int | None = None
    mask: str | None = None
    feather: float = 16.0
    quality: int = 95
    format: str | None = None
    keep_metadata: bool = True
    max_megapixels: float = 178
    smooth: float = 0.8
    tile: int | None = None
    exact: bool = True
    json: bool = False
    device: str = "auto"
    precision: str = "auto"


def stylize(words: list[str]) -> None:
    """Stylize as the words say. Raises `UserError`."""
    options = cli.parse(words, StylizeOptions)
    if options.json or options.output == "-":
        cli.log_to(sys.stderr)  # stdout is for machines

    from impasto.batch import run  # takes a while: mistakes above are answered at once
    from impasto.styles import find_checkpoints

    run(job_of(options), find_checkpoints(options.ckpt), options.input, options.output, options.json)


def job_of(options: StylizeOptions) -> "Job":
    """What the options ask to be done to each image. Raises `UserError` for a value out of its range."""
    from PIL import Image

    from impasto.controls import Controls
    from impasto.job import Job
    from impasto.picture_files import MEGAPIXELS

    controls = Controls(options.strength, options.preserve_color, options.size, options.stroke, options.upscale)
    if not 0 < options.max_megapixels < 1e9:
        raise UserError(f"max_megapixels={options.max_megapixels} should be above 0 and below 1e9")
    if options.max_megapixels > MEGAPIXELS:
        Image.MAX_IMAGE_PIXELS = int(options.max_megapixels * 1e6)  # of Pillow, which refuses the double by itself
    if not 1 <= options.quality <= 100:
        raise UserError(f"quality={options.quality} should be in 1…100")
    return Job(
        controls=controls,
        mask=None if options.mask is None else Path(options.mask),
        feather=options.feather,
        quality=options.quality,
        suffix=None if options.format is None else "." + options.format.lower().lstrip("."),
        keep_metadata=options.keep_metadata,
        megapixels=options.max_megapixels,
        smooth=options.smooth,
        device=options.device,
        precision=options.precision,
        tile=options.tile,
        exact=options.exact,
    )


def main() -> None:
    """Run `stylize` on the command line."""
    cli.run(stylize, USAGE)
