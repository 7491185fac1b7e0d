"""`python train.py -m`: a run for each combination of the values that have commas between them."""

import logging
import os
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from impasto import cli
from impasto.commands.configuration import check_hydras, combinations, plain
from impasto.commands.training_words import (
    LITERAL,
    READ,
    begun_besides,
    choices_for_this_machine,
    composed,
    is_there,
    trainer_of,
)
from impasto.errors import UserError

log = logging.getLogger("impasto")

NAME = 200  # bytes, at most, of a folder's name that says what is swept


def train_all(config_dir: Path, words: Sequence[str]) -> None:
    """A run for each combination of the values given with commas. Raises `UserError` naming the logs of failed runs."""
    from impasto.multirun import places_for, run_all
    from impasto.ranks import check_alone
    from impasto.resume import begun_with

    check_alone("-m")
    if wrong := [word for word in words if word.startswith(("hydra.sweep", "hydra.launcher"))]:
        raise UserError(
            f"{wrong[0]} has no say: -m trains with processes of its own, in folders beside hydra.run.dir=DIR"
        )
    check_hydras(words)
    if not any(word.startswith("resume=") for word in words):
        choices_for_this_machine(words)  # says what each run will choose
    taken = [word for word in words if word.partition("=")[0].lstrip("+") in LITERAL]  # as they are, commas and all
    named = any(word.startswith("hydra.run.dir=") for word in taken)
    found = list[tuple[Path, list[str], dict[str, Any]]]()
    when = datetime.now()  # one for all: folders are told apart by words
    swept = combinations([word for word in words if word not in taken])
    for word in list(taken):
        if several := _several(word):
            taken.remove(word)
            swept = [[one, *others] for one in several for others in swept]
    for combination in swept:
        config = composed(config_dir, [*_begun(combination, taken), *combination, *taken], when)
        trainer = plain(config)["trainer"]
        folder = Path(config.hydra.run.dir)
        if folder.name in ("", ".."):  # as . has none
            folder = folder.resolve()
        if not folder.name:
            raise UserError(f"hydra.run.dir={folder} has no name that runs could have beside it: name a folder")
        if not named and str(config.resume).lower() == "true" and folder in [place for place, *_ in found]:
            raise UserError(
                f"several runs would go on in {str(folder)!r}: hydra.run.dir=DIR goes on with each, where DIR is the "
                "folder's name without the words that -m has added"
            )
        found.append((folder, combination, trainer))
    runs, rooms = dict[Path, list[str]](), list[list[dict[str, str]]]()
    for folder, combination, trainer in found:
        alike = [others for place, others, _ in found if place == folder]
        # what tells runs of one folder apart, so that the next sweep goes on with the same ones
        apart = [word for word in combination if not all(word in others for others in alike)]
        name = "-".join([folder.name, *(re.sub(r"[^\w.+-]+", "_", word) for word in apart)])
        place, said = folder.with_name(os.fsencode(name)[:NAME].decode("utf-8", "ignore")), [*combination, *taken]
        runs[place] = said
        rooms.append(places_for(trainer_of(config_dir, place, said) if begun_with(place) else trainer))
    if len(runs) < len(found):
        raise UserError(f"several runs would go to {str(folder)!r}: their words are too alike, or too long, for a name")
    room = min(rooms, key=lambda room: (len(room), room != [{}]))  # in which the run that takes most has its devices
    log.info("%d runs, %d at a time", len(runs), min(len(runs), len(room)))
    if failed := run_all(config_dir.parent / "train.py", runs, room):
        raise UserError(f"failed: {', '.join(map(str, failed))}")


def _begun(combination: Sequence[str], taken: Sequence[str]) -> list[str]:
    """What the run or checkpoint that `resume=` names was begun with, and these do not say."""
    words = [*combination, *taken]
    said = dict(word.split("=", 1) for word in words if "=" in word)
    resume = said.get("resume", "false")
    place = {"true": said.get("hydra.run.dir", ""), "false": ""}.get(resume.lower(), resume)
    return begun_besides(Path(cli.at_home(place)), words) if place else []


def _several(word: str) -> list[str]:
    """A word for each value of init=NAME,NAME, or of PATH,PATH, where all are there; else none.

    A file or folder whose own name has the comma is one.
    """
    key, _, value = word.partition("=")
    values = value.split(",")
    missing = [each for each in values if not is_there(each)]
    if key in READ and not is_there(value) and missing and len(values) > 1:
        raise UserError(f"{word}: there is no {missing[0]!r}")
    several = key == "init" or (key in READ and not missing)
    return [f"{key}={one}" for one in values] if several and len(values) > 1 and not is_there(value) else []
