"""`python scripts/doctor.py`: what this machine can do, on one page."""

import json
import logging
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from impasto import cli
from impasto.commands.configuration import compose, plain
from impasto.errors import UserError

USAGE = """
What this machine can do: versions, devices, space, data, weights, extras, and how long training would take.

  python scripts/doctor.py
  python scripts/doctor.py json=true > doctor.json

  json=true     for machines: a list of findings, sizes in bytes, times in seconds
  seconds=3     spent on measuring each schedule, and stylizing; 0 measures nothing

Lines that begin with ! tell what is broken. Exit status: 0 where training can run, else 1.
"""


@dataclass
class DoctorOptions:
    """Options of the command line, as in `USAGE`."""

    json: bool = False
    seconds: float = 3.0


def doctor(config_dir: Path, words: list[str]) -> bool:
    """Print all findings; returns whether training can run. Raises `UserError`."""
    options = cli.parse(words, DoctorOptions)
    if not 0 <= options.seconds < float("inf"):
        raise UserError(f"seconds={options.seconds} should be from 0 on")
    logging.getLogger("impasto").setLevel(logging.ERROR)  # the page says it all
    try:
        from impasto.data.coco import prepared_coco
        from impasto.diagnosis import diagnose
    except ImportError as error:
        raise UserError(f"a package is missing or broken ({error}): pip install -e .") from None

    words = ["style=starry_night", *(["data=coco"] if prepared_coco() else [])]  # as train.py chooses
    configs = {name: plain(compose(config_dir, "train", [*words, f"schedule={name}"])) for name in ("quick", "full")}
    findings = []
    for finding in diagnose(configs, options.seconds):
        findings.append(finding)
        if not options.json:
            cli.say(f"{' ' if finding.well else '!'} {finding.part:<22} {finding.said}")
    able = all(finding.well for finding in findings if finding.needed)
    if options.json:
        cli.say(json.dumps({"can_train": able, "findings": [asdict(finding) for finding in findings]}, indent=1))
    else:
        cli.say("\nTraining can run." if able else "\nTraining cannot run: see the lines with !")
    return able


def main(config_dir: Path) -> None:
    """Run `doctor` on the command line."""

    def run(words: list[str]) -> None:
        if not doctor(config_dir, words):
            sys.exit(1)

    cli.run(run, USAGE)
