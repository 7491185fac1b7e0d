"""Time and memory against image size and batch size, with a plot: straight lines mean no surprises."""

from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from impasto.benchmark.contestants import stylize_pass, train_step
from impasto.benchmark.measure import Contestant, alternate
from impasto.benchmark.task import Options, log, say


def run(options: Options) -> dict[str, Any]:
    """Each point in a fresh process, for its peak memory."""
    sweeps: dict[str, list[tuple[int, Any, dict[str, Any]]]] = {
        "training, image size": [
            (2 * size**2, train_step, {"reference": False, "image_size": size, "batch_size": 2})
            for size in (128, 192, 256, 320)
        ],
        "training, batch size": [
            (batch * 128**2, train_step, {"reference": False, "image_size": 128, "batch_size": batch})
            for batch in (1, 2, 4, 8)
        ],
        "stylizing, image size": [
            (size**2, stylize_pass, {"kind": "auto", "size": size}) for size in (256, 512, 1024, 1536, 2048)
        ],
    }
    points = []
    for what, settings in sweeps.items():
        for pixels, build, arguments in settings:
            with Contestant(what, build, **arguments) as contestant:
                alternate([contestant], options.repeats)
            seconds = round(median(contestant.seconds), 3)
            points.append(
                {"what": what, "megapixels": round(pixels / 1e6, 3), "seconds": seconds, "MB": contestant.peak_mb}
            )
    say("Time and memory against pixels:", points)
    return {"rows": points, "growth": growth(points)}


def growth(points: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Exponent b of seconds = a * pixels^b, fitted: 1 is linear."""
    found = {}
    for what in dict.fromkeys(point["what"] for point in points):
        x, y = (np.log([point[key] for point in points if point["what"] == what]) for key in ("megapixels", "seconds"))
        found[what] = round(float(np.polyfit(x, y, 1)[0]), 2)
        log.info("%s: time grows with pixels to the power of %s", what, found[what])
    return found
