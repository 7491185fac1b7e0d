"""The command line's words for training → Hydra's configuration: what they mean, and what they leave open."""

import re
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from impasto import cli
from impasto.commands.configuration import compose, plain
from impasto.errors import UserError

READ = ("style.image", "data.root", "data.validation_root", "vgg.path")  # files and folders
NULL = ("data.validation_root=null", "vgg.path=null")  # as these are where nobody says more
SEARCH_PATH = "hydra.searchpath="  # Hydra's word for --config-dir
# values that are taken as they are; every other one is read by Hydra's grammar
LITERAL = (*READ, "style.name", "data.packs", "data.keep", "init", "resume", "hydra.run.dir")


def composed(config_dir: Path, words: Sequence[str], when: datetime | None = None) -> DictConfig:
    """The configuration that words of the command line, but for -m, make, `when` (now) they do. Raises `UserError`."""
    OmegaConf.register_new_resolver("run_dir", partial(run_dir, when or datetime.now()), replace=True)
    told = [word if word in NULL else cli.literal(word, LITERAL) for word in with_search_path(words)]
    return compose(config_dir, "train", told)


def as_begun(config_dir: Path, words: list[str]) -> list[str]:
    """`words` with those that a run to go on with was begun with, but for those that are given now."""
    from impasto.resume import begun_with

    given = {word.partition("=")[0]: word for word in words}
    resume = given.get("resume", "resume=false").partition("=")[2]
    if resume.lower() == "false":
        return words
    if resume.lower() == "true":
        if "hydra.run.dir" in given:
            place = Path(cli.at_home(given["hydra.run.dir"].partition("=")[2]))
        else:
            config = composed(config_dir, words)
            if OmegaConf.is_missing(config.style, "image"):
                plain(config)  # which says so
            place = Path(config.hydra.run.dir)
            words = [*words, f"hydra.run.dir={place}"]  # whatever its own words
    else:
        place = Path(cli.at_home(resume))
        _check_run(resume, place)
    begun = begun_with(place)
    # another data= ends what was said of the one before, as data.root=; data.root= ends what data= it was, unless that
    # had one, and has moved
    moved = any(word.startswith("data.root=") for word in begun)
    changed = tuple(f"{key}." for key, word in given.items() if word not in begun)
    kept = [
        word
        for word in begun
        if (key := word.partition("=")[0]) not in given
        and not key.startswith(changed)
        and not (key == "data" and "data.root." in changed and not moved)
    ]
    if gone := [word for word in kept if word not in NULL and _is_gone(word)]:
        raise UserError(
            f"{gone[0]}, as the run was begun, is not here: say where it is now, or go on from the folder that it was "
            "begun in"
        )
    if lost := [folder for folder in _search_path(kept) if not Path(folder).is_dir()]:
        raise UserError(f"--config-dir={lost[0]}, as the run was begun, is not here: say where it is now")
    if kept:
        _say(f"As the run was begun: {' '.join(kept)}")
    return [*kept, *words]


def _is_gone(word: str) -> bool:
    key, _, path = word.partition("=")
    return key in READ and not is_there(path)


def is_there(path: str) -> bool:
    """Whether there is what the command line calls so."""
    return Path(cli.at_home(path)).exists()


def _check_run(resume: str, place: Path) -> None:
    """Raise `UserError` where what `resume=` names is no run, nor a checkpoint of one."""
    from impasto.resume import OVERRIDES, checkpoints

    if not place.exists():
        raise UserError(f"resume={resume}: there is no such checkpoint or run folder")
    if place.suffix == ".ckpt" if place.is_file() else checkpoints(place):
        return
    if (place / OVERRIDES).is_file():
        raise UserError(
            f"resume={resume}: that run has no checkpoint yet: resume=true hydra.run.dir={place} begins it anew"
        )
    runs = [run for run in (*place.glob("*/"), *place.absolute().parents[:2]) if checkpoints(run)]
    newest = max(runs, key=lambda run: checkpoints(run)[0].stat().st_mtime, default=None)
    mend = "" if newest is None else f"; resume={newest} is one"
    raise UserError(f"resume={resume} is neither a run's folder nor a checkpoint{mend}")


def begun_besides(place: Path, words: Sequence[str]) -> list[str]:
    """The words that a run was begun with, by its folder or a checkpoint in it, whose keys `words` do not have."""
    from impasto.resume import begun_with

    given = {word.partition("=")[0] for word in words}
    return [word for word in begun_with(place) if word.partition("=")[0] not in given]


def trainer_of(config_dir: Path, folder: Path, words: Sequence[str]) -> dict[str, Any]:
    """The trainer's configuration of a run in `folder`: as its words say, else as it was begun. Raises `UserError`."""
    begun = [word for word in begun_besides(folder, words) if word.startswith("trainer")]
    config = composed(config_dir, [*begun, *words, f"hydra.run.dir={folder}"])
    trainer: dict[str, Any] = plain(OmegaConf.masked_copy(config, ["trainer"]))["trainer"]  # all others may be missing
    return trainer


def with_search_path(words: Sequence[str]) -> list[str]:
    """`--config-dir DIR` and `--config-dir=DIR` as the word that Hydra has for it."""
    rest, folders = list[str](), list[str]()
    waiting = iter(words)
    for word in waiting:
        flag, separator, value = word.partition("=")
        if flag not in ("--config-dir", "-cd"):
            rest.append(word)
            continue
        folder = value if separator else next(waiting, "")
        folder = cli.at_home(folder)
        if not folder or not Path(folder).is_dir():
            raise UserError(f"--config-dir={folder}: there is no such folder")
        folders.append("'file://{}'".format(str(Path(folder).resolve()).replace("'", "\\'")))
    return [*rest, f"{SEARCH_PATH}[{','.join(folders)}]"] if folders else rest


def _search_path(words: Sequence[str]) -> list[str]:
    """The folders that `with_search_path` has made a word of."""
    path = next((word for word in words if word.startswith(SEARCH_PATH)), "")
    return [folder.replace("\\'", "'") for folder in re.findall(r"'file://((?:\\.|[^'\\])*)'", path)]


def choices_for_this_machine(words: Sequence[str]) -> list[str]:
    """Words for data and schedule where the user names none, each said in one line. Raises `UserError` without COCO."""
    import torch

    from impasto.data.coco import prepared_coco

    given = {word.partition("=")[0] for word in words}
    if "data=bundled" in words and "data.root" in given:
        raise UserError("data=bundled takes the photos that ship: data=folder is for those of data.root=")
    for choice, part in (("data=coco", "train2017"), ("data=coco2014", "train2014")):
        if choice in words and "data.root" not in given and not prepared_coco(training=part):
            raise UserError(
                f"COCO is not in data/coco: python scripts/fetch_coco.py parts={part},val2017 fetches it; "
                f"{choice} data.root=DIR data.validation_root=DIR says where else"
            )
    chosen = []
    if "data" not in given:
        if "data.root" in given:
            chosen.append("data=folder")
        elif prepared_coco():
            chosen.append("data=coco")
            _say("Content: COCO in data/coco; data=bundled takes the photos that ship")
        else:
            chosen.append("data=bundled")
            _say("Content: the photos that ship; better: python scripts/fetch_coco.py, or data=folder data.root=DIR")
    if "schedule" not in given:
        accelerated = torch.cuda.is_available() and not {"trainer=cpu", "trainer.accelerator=cpu"} & set(words)
        chosen.append(f"schedule={'full' if accelerated else 'quick'}")
        _say(
            "Schedule: full, as there is a GPU; schedule=quick is a preview"
            if accelerated
            else "Schedule: quick, for a CPU; schedule=full is the paper's"
        )
    return chosen


def _say(line: str) -> None:
    from impasto.ranks import rank

    if rank() == 0:
        cli.say(line)


def run_dir(when: datetime, style: str, resume: str) -> str:
    """Where a run goes: a new folder, or when resuming the folder that holds what to go on from."""
    from impasto.resume import checkpoints, run_of

    if resume.lower() == "true":
        newest = {path: saved[0] for path in sorted(Path("runs", style).glob("*")) if (saved := checkpoints(path))}
        if newest:
            return str(max(newest, key=lambda path: (newest[path].stat().st_mtime, path)))  # names can be the user's
    elif resume.lower() != "false":
        run = run_of(Path(resume))
        if checkpoints(run):
            return str(run)
    return str(Path("runs", style, when.strftime("%Y-%m-%d_%H-%M-%S-%f")))
