"""What the tasks share: their options, what they check and how they say what they found."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from impasto.benchmark.contestants import best_device
from impasto.benchmark.measure import Contestant, peaks, table
from impasto.errors import UserError

log = logging.getLogger("impasto")


@dataclass
class Options:
    """What a task may be told; sizes in px."""

    output: str = "benchmark"
    repeats: int = 5
    image_size: int | None = None
    batch_size: int = 4
    width: int = 32
    style_size: int = 320
    images: int = 4000
    megapixels: str = "1,4,9,16,36,64,100"
    tile: int = 1024
    compiled: bool = True
    stylize: str = "stylize.py"


def stylize_script(options: Options) -> str:
    """Where stylize.py is. Raises `UserError`."""
    if not Path(options.stylize).is_file():
        raise UserError(f"there is no {options.stylize!r}: run this in the repository, or stylize=PATH")
    return options.stylize


def check_agreement(name: str, difference: float, tolerance: float) -> None:
    """Raises `UserError` where a contestant does not do the reference's work."""
    if not abs(difference) <= tolerance:
        raise UserError(f"{name} does not compute what the reference does: it differs by {difference:.2g}")


def machine_peaks() -> dict[str, int]:
    """`peaks`, and a line about them."""
    found = peaks(best_device())
    log.info("This machine's peaks, GFLOP/s: %s", ", ".join(f"{name} {value}" for name, value in found.items()))
    return found


def spread(contestant: Contestant) -> dict[str, Any]:
    """The median and the ends of a process's seconds."""
    seconds = contestant.seconds
    return {"median s": round(median(seconds), 2), "min–max s": f"{min(seconds):.2f}–{max(seconds):.2f}"}


def say(title: str, lines: Sequence[dict[str, Any]]) -> None:
    """Print a table."""
    log.info("\n%s\n\n%s\n", title, table(lines))
