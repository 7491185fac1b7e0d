"""`python scripts/export.py`: a trained network as an inference file or as ONNX."""

import logging
import shlex
from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING

from impasto import cli
from impasto.errors import UserError

USAGE = """
Turn a training checkpoint into a file that stylizes.

  python scripts/export.py ckpt=runs/starry_night/2026-01-31_12-00-00/checkpoints/000004000.ckpt
  python scripts/export.py ckpt=starry_night.safetensors format=onnx output=starry_night.onnx

  ckpt=FILE                     a training checkpoint (.ckpt) or an inference file (.safetensors)
  format=safetensors|onnx       default: safetensors; onnx takes: pip install 'impasto[onnx]'
  output=FILE                   default: <style>.safetensors or .onnx in the current folder

Training exports its last state by itself. ONNX: `content` → `stylized`, float32 RGB in [0, 1],
(1, 3, height, width), any height and width; it is compared with PyTorch at three sizes before it is kept.
"""


@dataclass
class ExportOptions:
    """Options of the command line, as in `USAGE`."""

    ckpt: str = MISSING
    format: str = "safetensors"
    output: str | None = None


def export(words: list[str]) -> None:
    """Export as the words say. Raises `UserError`."""
    options = cli.parse(words, ExportOptions)
    if options.format not in ("safetensors", "onnx"):
        raise UserError(f"format={options.format} is unknown; the formats are safetensors and onnx")
    from impasto.checkpoint import find_checkpoint, save_network
    from impasto.export import export_onnx, load_any

    ckpt = find_checkpoint(options.ckpt)
    net, metadata = load_any(ckpt)
    name = metadata.get("style", {}).get("name", ckpt.stem)
    output = Path(options.output or f"{name}.{options.format}")
    if output.exists() and output.samefile(ckpt):
        raise UserError(f"output={str(output)!r} is the checkpoint itself: it would be written over")
    if options.format == "onnx":
        export_onnx(net, metadata, output)
    else:
        save_network(output, net, metadata)
    log = logging.getLogger("impasto")
    log.info("Wrote %s", output)
    if options.format == "safetensors":
        log.info("  python stylize.py ckpt=%s input=photo.jpg", shlex.quote(str(output)))


def main() -> None:
    """Run `export` on the command line."""
    cli.run(export, USAGE)
