"""`python stylize.py`: a style and an image or a folder in, stylized images out."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING

from impasto import cli
from impasto.errors import UserError

USAGE = """
Stylize an image, or every image under a folder, in one forward pass each.

  python stylize.py ckpt=runs/starry_night/2026-01-31_12-00-00/starry_night.safetensors input=photo.jpg
  python stylize.py ckpt=starry_night input=photo.jpg output=night.png size=1024
  python stylize.py ckpt=starry_night input=holiday/ output=painted/ device=cuda

  ckpt=FILE|NAME    an inference file (.safetensors, .onnx, .pt2), a checkpoint of pytorch/examples' fast_neural_style
                    (.pth, .pt, .model), or a style: one that ships, else your newest run; several with commas between
                    them, or all that ship
  input=PATH        an image or a folder (any depth)
  output=PATH       a file or a folder; default: beside the input, as photo_starry_night.jpg; of several styles, each
                    gets its own folder in output
  size=PIXELS       long side of the result; default: the size of the input
  device=auto|cpu|cuda|mps
  precision=auto|float32|bfloat16   not of .onnx, .pt2; default: bfloat16 where hardware multiplies it, twice as fast

Paths need no quoting beyond your shell's own.
"""


@dataclass
class StylizeOptions:
    """Options of the command line, as in `USAGE`."""

    ckpt: str = MISSING
    input: str = MISSING
    output: str | None = None
    size: int | None = None
    device: str = "auto"
    precision: str = "auto"


def stylize(words: list[str]) -> None:
    """Stylize as the words say. Raises `UserError`."""
    options = cli.parse(words, StylizeOptions)
    if options.size is not None and options.size < 1:
        raise UserError(f"size={options.size} should be at least 1 px")
    from impasto import stylizer  # takes a while: mistakes above are answered at once
    from impasto.styles import find_checkpoints

    paths = find_checkpoints(options.ckpt)
    for path in paths:
        network = stylizer.Stylizer.load(str(path), options.device, options.precision)
        output = options.output
        if output is not None and len(paths) > 1:
            output = f"{output.rstrip('/')}/{network.name}/"
        stylizer.stylize(network, Path(options.input), output, options.size)


def main() -> None:
    """Run `stylize` on the command line."""
    cli.run(stylize, USAGE)
