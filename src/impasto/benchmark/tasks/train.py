"""A training step of each, on the same crops from the same weights."""

from contextlib import ExitStack
from typing import Any

from impasto.benchmark.contestants import best_device, textbook_gflop, train_step
from impasto.benchmark.measure import Contestant, alternate, rows
from impasto.benchmark.task import Options, check_agreement, machine_peaks, say
from impasto.hardware import bfloat16_is_fast

AGREEMENT = {"float32": 1e-3, "bfloat16": 3e-2}  # largest relative difference of the first losses


def run(options: Options) -> dict[str, Any]:
    """Ours, its levers one by one, and the reference."""
    size, batch = options.image_size or 256, options.batch_size
    shape: dict[str, Any] = {"image_size": size, "batch_size": batch, "width": options.width}
    shape["style_size"] = options.style_size
    plans: dict[str, dict[str, Any]] = {
        "reference": {"reference": True, "keep": False},
        "impasto": {"reference": False},
        "impasto, float32": {"reference": False, "precision": "float32"},
        "impasto, memory not kept": {"reference": False, "keep": False},
        "reference, memory kept": {"reference": True},
    }
    if options.compiled:
        plans["impasto, compiled"] = {"reference": False, "compiled": True}
    with ExitStack() as stack:
        contestants = [
            stack.enter_context(Contestant(name, train_step, **plan, **shape)) for name, plan in plans.items()
        ]
        losses = alternate(contestants, options.repeats)
    for name, loss in losses.items():
        exact = "float32" in name or "reference" in name or not bfloat16_is_fast(best_device())
        check_agreement(name, loss / losses["reference"] - 1, AGREEMENT["float32" if exact else "bfloat16"])
    gflop = batch * textbook_gflop(size, options.width)
    lines = rows(contestants, dict.fromkeys(losses, gflop))
    say(f"A training step of {batch} images of {size}², {gflop:.0f} GFLOP in the textbook's form:", lines)
    return {"what": {**shape, "gflop": gflop}, "rows": lines, "losses": losses, "peaks": machine_peaks()}
