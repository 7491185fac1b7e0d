"""`python scripts/export.py`: a trained network as an inference file, as ONNX or compiled."""

import logging
import shlex
from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING

from impasto import cli
from impasto.errors import UserError

log = logging.getLogger("impasto")

FORMATS = ("safetensors", "onnx", "pt2")

USAGE = """
Turn a training checkpoint into a file that stylizes.

  python scripts/export.py ckpt=runs/starry_night/2026-01-31_12-00-00-000000/checkpoints/000004000.ckpt
  python scripts/export.py ckpt=starry_night.safetensors format=onnx output=starry_night.onnx
  python scripts/export.py ckpt=starry_night.safetensors format=pt2

  ckpt=FILE|NAME                a training checkpoint (.ckpt), an inference file (.safetensors), a checkpoint of
                                pytorch/examples' fast_neural_style (.pth, .pt, .model), or a style as in stylize.py
  format=safetensors|onnx|pt2   default: safetensors; onnx takes: pip install 'impasto[onnx]'
  output=FILE                   default: <style>.<format> in the current folder
  device=auto|cpu|cuda          what pt2 is compiled for
  precision=auto|float32|bfloat16   of pt2; default: bfloat16 where the hardware multiplies it

Training exports its last state by itself. ONNX: `content` → `stylized`, float32 RGB in [0, 1], (1, 3, height, width),
any height and width. pt2: machine code (torch.export, AOTInductor), for this kind of machine and version of torch
only. Both are compared with PyTorch at three sizes before they are kept, and python stylize.py runs all three.
"""


@dataclass
class ExportOptions:
    """Options of the command line, as in `USAGE`."""

    ckpt: str = MISSING
    format: str = "safetensors"
    output: str | None = None
    device: str = "auto"
    precision: str = "auto"


def export(words: list[str]) -> None:
    """Export as the words say. Raises `UserError`."""
    options = cli.parse(words, ExportOptions)
    if options.format not in FORMATS:
        raise UserError(f"format={options.format} is unknown; the formats are {', '.join(FORMATS)}")
    for key in ("device", "precision"):
        if options.format != "pt2" and getattr(options, key) != "auto":
            raise UserError(f"{key}={getattr(options, key)} is for format=pt2; {options.format} leaves it open")
    from impasto.checkpoint import save_network
    from impasto.export import export_compiled, export_onnx, load_any
    from impasto.files import check_place
    from impasto.styles import find_checkpoint, style_name

    ckpt = find_checkpoint(options.ckpt)
    net, metadata = load_any(ckpt)
    name = style_name(metadata, ckpt.stem)
    output = Path(options.output or f"{name}.{options.format}")
    if output.suffix != f".{options.format}":  # by which stylize.py knows it
        raise UserError(f"output={str(output)!r} should end with .{options.format}")
    if output.exists() and output.samefile(ckpt):
        raise UserError(f"output={str(output)!r} is the checkpoint itself: it would be written over")
    if options.output is None and output.exists():
        raise UserError(f"{str(output)!r} is there: output=FILE says where else, or that it is to be written over")
    check_place(output)
    if options.format == "onnx":
        export_onnx(net, metadata, output)
    elif options.format == "pt2":
        log.info("Compiling: half a minute or so")
        export_compiled(net, metadata, output, options.device, options.precision)
    else:
        save_network(output, net, metadata)
    log.info("Wrote %s", output)
    log.info("  python stylize.py ckpt=%s input=photo.jpg", shlex.quote(str(output)))


def main() -> None:
    """Run `export` on the command line."""
    cli.run(export, USAGE)
