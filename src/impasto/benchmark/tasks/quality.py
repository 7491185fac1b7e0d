"""Seconds of training until the validation loss that the reference ends with; validation is not counted."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from impasto.benchmark.contestants import learner
from impasto.benchmark.measure import Contestant
from impasto.benchmark.task import Options, log, say

REFERENCE = {"batch_size": 4, "schedule": {"learning_rate": 1e-3}}
OURS = {"batch_size": 2, "schedule": {"learning_rate": 1e-3, "warmup": 100, "final": 0.02}}
START = "great_wave.safetensors"  # which has never learned the painting, as The Night Café has on its way
SHARES = {"impasto": 0.33, "impasto, random start": 0.6}  # of the reference's images: the lengths of our schedules


def run(options: Options) -> dict[str, Any]:
    """Each on its own schedule; the curves are of images, seconds and loss."""
    size, checks = options.image_size or 128, max(1, min(20, options.images // 40))
    lengths = {
        "reference": options.images,
        **{name: max(1, round(share * options.images)) for name, share in SHARES.items()},
    }
    plans: dict[str, dict[str, Any]] = {
        "reference": {"keep": False, "reference": True, **REFERENCE},
        "impasto": {"reference": False, "start": START, **OURS},
        "impasto, random start": {"reference": False, **OURS},
    }
    shape: dict[str, Any] = {"image_size": size, "style_size": options.style_size}
    curves: dict[str, list[dict[str, float]]] = {name: [] for name in plans}
    with ExitStack() as stack:
        learners = {
            name: stack.enter_context(Contestant(name, learner, images=lengths[name], **shape, **plan))
            for name, plan in plans.items()
        }
        for check in range(checks + 1):  # in turns, so that noise hits all alike
            for name, contestant in learners.items():
                if check:
                    contestant.run(count=-(-lengths[name] // checks))
                seconds = sum(contestant.seconds)
                point = {"seconds": seconds, **contestant.run(validate=True)}
                contestant.seconds.pop()  # validation's
                curves[name].append(point)
                log.info("%s: %d images, %.0f s, loss %.4g", name, point["images"], seconds, point["loss"])
    lines = _reached(curves)
    say(f"Training at {size}² until the validation loss of the reference after {options.images} images:", lines)
    return {"curves": curves, "rows": lines}


def _reached(curves: Mapping[str, Sequence[dict[str, float]]]) -> list[dict[str, Any]]:
    """When each had, for the first time, the loss that the reference ended with."""
    target = curves["reference"][-1]["loss"]
    # the start has taken no time: what begins there has it at the first check
    firsts = {
        name: next((point for point in curve[1:] if point["loss"] <= target), None) for name, curve in curves.items()
    }
    base, lines = firsts["reference"], []
    for name, curve in curves.items():
        last, reached = curve[-1], firsts[name]
        lines.append(
            {
                "": name,
                "images": reached["images"] if reached else "not reached",
                "seconds": round(reached["seconds"]) if reached else "",
                "times faster": round(base["seconds"] / reached["seconds"], 2) if base and reached else "",
                "at its end": f"{last['images']} images, {last['seconds']:.0f} s, loss {last['loss']:.4g}",
            }
        )
    return lines
