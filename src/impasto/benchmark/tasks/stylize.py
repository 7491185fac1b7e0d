"""An image of each size, through the network alone."""

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from impasto.benchmark.contestants import best_device, stylize_pass, textbook_gflop
from impasto.benchmark.measure import Contestant, alternate, rows
from impasto.benchmark.task import Options, check_agreement, log, machine_peaks, say
from impasto.engines.onnx import runs_on
from impasto.export import export_compiled, export_onnx
from impasto.hardware import compiler
from impasto.models.transformer_net import TransformerNet


def run(options: Options) -> dict[str, Any]:
    """Ours, its levers and exports, and the reference."""
    result: dict[str, Any] = {"peaks": machine_peaks()}
    plans: dict[str, dict[str, Any]] = {
        "reference": {"kind": "reference", "keep": False},
        "impasto": {"kind": "auto"},
        "impasto, float32": {"kind": "float32"},
        "reference, memory kept": {"kind": "reference"},
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, file in _exports(Path(folder), options).items():
            plans[f"impasto, {name}"] = {"kind": "auto", "file": str(file)}
        plans["impasto, slim"] = {"kind": "auto", "width": 16}
        for size in [options.image_size] if options.image_size else [512, 1024]:
            with ExitStack() as stack:
                contestants = [
                    stack.enter_context(Contestant(name, stylize_pass, size=size, **plan))
                    for name, plan in plans.items()
                ]
                pictures = alternate(contestants, options.repeats)
            for name, picture in pictures.items():
                if "slim" not in name:  # another network
                    difference = float(np.abs(picture - pictures["reference"]).mean())
                    check_agreement(name, difference, 1e-4 if "32" in name or "onnx" in name else 0.01)
            gflop = {name: textbook_gflop(size, 16 if "slim" in name else 32, training=False) for name in pictures}
            lines = rows(contestants, gflop)
            say(f"An image of {size}², {gflop['reference']:.0f} GFLOP in the textbook's form:", lines)
            result[f"{size}"] = lines
    return result


def _exports(folder: Path, options: Options) -> dict[str, Path]:
    """The reference's network, exported."""
    torch.manual_seed(0)
    net, files = TransformerNet().eval(), dict[str, Path]()
    if runs_on(best_device()):
        files["onnx"] = folder / "net.onnx"
        export_onnx(net, {}, files["onnx"])
    else:
        log.warning("left out: onnx, as this ONNX Runtime knows no GPU")
    if options.compiled and compiler()[1]:
        files["pt2"] = folder / "net.pt2"
        export_compiled(net, {}, files["pt2"])
    return files
