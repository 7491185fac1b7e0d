"""`python scripts/fuzz.py`: damaged and hostile files through the real code."""

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from impasto import cli
from impasto.errors import UserError

log = logging.getLogger("impasto")

USAGE = """
Damage small images and checkpoints of every kind in every way, stylize them, and keep what was neither read nor
refused in one line: other exceptions, warnings, crashes, hangs, too much memory, stray files. For developers, on Linux.

  python scripts/fuzz.py
  python scripts/fuzz.py count=20000 seed=1 output=findings workers=4

  count=2000    inputs; the same seed and number, the same input
  first=0       the first one's number
  seed=0
  output=findings   a folder for inputs that are findings, each with a text that says how it came about
  workers=1     processes
  seconds=20    processor time that an input may take
  megabytes=300 memory that an input may take, MiB

The exit status is 0 if there were no findings.
"""


@dataclass
class FuzzOptions:
    """Options of the command line, as in `USAGE`."""

    count: int = 2000
    first: int = 0
    seed: int = 0
    output: str = "findings"
    workers: int = 1
    seconds: int = 20
    megabytes: int = 300


def fuzz(words: list[str]) -> None:
    """Fuzz as the words say. Raises `UserError` if there are findings."""
    options = cli.parse(words, FuzzOptions)
    from impasto.fuzz.hunt import hunt
    from impasto.fuzz.trial import Limits

    cli.check_counts(options, "count", "workers", "seconds", "megabytes")
    limits = Limits(options.seconds, options.megabytes)
    verdicts = hunt(options.first, options.count, options.seed, Path(options.output), options.workers, limits)
    totals: Counter[str] = Counter()
    for suffix in sorted({suffix for suffix, _ in verdicts}):
        of_kind = {verdict: count for (kind, verdict), count in verdicts.items() if kind == suffix}
        read, refused = of_kind.pop("read", 0), of_kind.pop("refused", 0)
        found = sum(of_kind.values())
        log.info(
            "%-12s %6d inputs, %6d read, %6d refused, %4d findings",
            suffix,
            read + refused + found,
            read,
            refused,
            found,
        )
        totals.update(of_kind)
    for verdict, count in totals.most_common():
        log.info("%6d %s", count, verdict)
    if totals:
        raise UserError(f"{totals.total()} findings in {options.output!r}")


def main() -> None:
    """Run `fuzz` on the command line."""
    cli.run(fuzz, USAGE)
