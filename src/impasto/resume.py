"""What a run goes on from, and what forbids it or makes the rest differ."""

import io
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from impasto.archive import load_archive
from impasto.checkpoint import build_network, load_training_checkpoint
from impasto.errors import UnreadableError, UserError
from impasto.files import whole_file
from impasto.lock import held
from impasto.models.transformer_net import TransformerNet
from impasto.ranks import rank

log = logging.getLogger("impasto")

PATIENCE = 10.0  # s: the loaders' workers of a killed run, which hold its lock, look every 5 s whether it lives
OVERRIDES = "overrides.yaml"  # of the run folder: the words of its command line, which Hydra calls so
FREE = ("init", "architecture", "style", "images_seen")  # of the record: checked elsewhere, or meant to change
TOLD_BY_OTHERS = ("content.folder", "content.held_out")  # of the record, flat: content.sha256 changes with them
# of the record, flat: what changes with the machine, and with other words
NOT_ASKED = ("versions.", "precision ", "processes ", "content.sha256 ")


@dataclass(frozen=True)
class Resumed:
    """A training checkpoint to go on from; `content` as of `load_training_checkpoint`."""

    path: Path
    content: dict[str, Any]
    validated_at: int  # images seen at the last whole validation
    callbacks: Mapping[str, Any] = field(default_factory=dict)  # what they had counted, by Lightning's `state_key`

    @property
    def images_seen(self) -> int:
        """Images that it has learned from."""
        return int(self.content["images_seen"])

    @property
    def step(self) -> int:
        """Steps that it has taken."""
        return int(self.content["step"])

    def left(self, images: int) -> int:
        """How many are left of so many images; none where the last batch has gone beyond them.

        Raises `UserError` where they are fewer than it has seen, and was to see.
        """
        asked = (self.content.get("schedule") or {}).get("images", images)
        if images < min(self.images_seen, asked):
            raise UserError(f"the run has seen {self.images_seen} images: schedule.images={images} should be more")
        return max(0, images - self.images_seen)

    def network(self) -> TransformerNet:
        """The network as it is there. Raises `UserError` where the weights do not fit it, or are not finite."""
        return build_network(self.content["architecture"], self.content["net"], repr(str(self.path)))

    def check(self, architecture: Mapping[str, Any], style: Mapping[str, Any]) -> None:
        """Raise `UserError` where another network or painting is to go on."""
        whole = {**dict.fromkeys(self.content["architecture"]), **architecture}  # what is not named now may have been
        for key, now in (("architecture", whole), ("style", style)):
            then = self.content.get(key) or {}
            if changed := sorted(name for name in now if then.get(name) != now[name]):
                name, before, after = f"{key} {changed[0]}", then.get(changed[0]), now[changed[0]]
                mend = "it cannot go on"
                if key == "architecture" and changed[0] != "name":
                    name = f"model.{changed[0]}"
                    # of an earlier version, perhaps, which had no such; a network does not name what it lacks, either
                    nothing = type(after if before is None else before)()
                    before, after = (str(nothing if one is None else one).lower() for one in (before, after))
                    mend = f"{name}={before} goes on"
                raise UserError(f"{str(self.path)!r} was trained with {name}={before}, not {after}: {mend}")

    def warn_of_changes(self, record: Mapping[str, Any], left: int) -> None:
        """Name all that keeps the rest from being what an uninterrupted run would have given.

        Where no images are left, name what was asked for in vain.
        """
        groups = [key for key in record if key in self.content and key not in FREE]  # others are of other versions
        before, now = (_flat({key: of[key] for key in groups}) for of in (self.content, record))
        changes = [
            f"{key} {before.get(key, 'none')} → {now.get(key, 'none')}"
            for key in {**now, **before}
            if before.get(key) != now.get(key) and key not in TOLD_BY_OTHERS
        ]
        if left and changes:
            log.warning("going on with changes, so not as an uninterrupted run would: %s", ", ".join(changes))
        elif asked := [change for change in changes if not change.startswith(NOT_ASKED)]:
            seen, told = self.images_seen, ", ".join(asked)
            log.warning(
                "the run has seen its %d images, so this has no say: %s; more schedule.images= go on", seen, told
            )

    def mark_validated(self, callbacks: Mapping[str, Any]) -> None:
        """Note in the file that it has been validated meanwhile, and what these have counted by it.

        Raises `UserError` where it cannot be read or written.
        """
        whole = load_archive(self.path, mapped=False)  # Windows replaces no mapped file
        whole["callbacks"] = {**self.callbacks, **callbacks}
        write_checkpoint({**whole, "validated_at": self.images_seen}, self.path)


def checkpoints(run_dir: Path) -> list[Path]:
    """Training checkpoints of a run, newest first: their names are the images seen."""
    return sorted((run_dir / "checkpoints").glob("[0-9]*.ckpt"), key=lambda path: path.name, reverse=True)


def write_checkpoint(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Write a training checkpoint, whole or not at all. Raises `UserError` where it cannot be written."""
    content = io.BytesIO()  # torch's own writer turns a full disk into an error that names no cause
    torch.save(checkpoint, content)
    with whole_file(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def find(resume: str | bool, run_dir: Path) -> Resumed | None:
    """The newest whole checkpoint of the run in `run_dir`, or what `resume` names; damaged ones are set aside.

    Raises `UserError` where `resume` names none, or one amid a run, where `run_dir` holds another run, and where the
    system does not give a checkpoint's content.
    """
    choice = str(resume).lower()
    named = choice not in ("true", "false")
    place = Path(str(resume)) if named else run_dir
    if named and not place.exists():
        raise UserError(f"resume={resume}: there is no such checkpoint or run folder")
    here = run_dir.resolve() in (place.resolve(), place.resolve().parent.parent)
    ours = checkpoints(run_dir)
    if ours and named and not here and _began_from(run_dir) == str(resume):
        log.info("%s began from %s: going on with it", run_dir, resume)
        place, here = run_dir, True
    if ours and (choice == "false" or not here):
        raise UserError(f"{str(run_dir)!r} holds a run: resume=true goes on with it, or name another folder")
    if choice == "false":
        return None
    if place.is_file():
        resumed = _read(place)
        if later := [path for path in ours if path.name > f"{resumed.images_seen:09d}.ckpt"]:
            raise UserError(
                f"resume={resume}: its run went on to {later[0].name}: remove what came later, "
                "or name another folder with hydra.run.dir=DIR"
            )
        return resumed
    for path in checkpoints(place):
        try:
            return _read(path)
        except (UserError, FileNotFoundError) as error:
            # of one that cannot be read now, an older one would lose what it may hold; a damaged one may have been set
            # aside by rank 0 meanwhile
            if isinstance(error, UnreadableError) and path.exists():
                raise
            log.warning("passed over: %s", error)
            if here and rank() == 0:
                path.replace(path.with_name(f"{path.name}.damaged"))  # else it would count as one to keep
    if named:
        raise UserError(f"resume={resume}: there is no checkpoint in that folder")
    if any((run_dir / "checkpoints").glob("*.damaged")):
        log.warning("no whole checkpoint is left in %s: starting anew", run_dir)
    else:
        log.info("Nothing to go on from in %s: starting", run_dir)
    return None


def _began_from(run_dir: Path) -> str | None:
    """What the run in a folder was told to go on from, where that was another's."""
    try:
        config = yaml.safe_load((run_dir / "config.yaml").read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return config.get("resume") if isinstance(config, dict) else None


def run_of(place: Path) -> Path:
    """The folder of the run that a checkpoint is of, or that `place` is itself."""
    return Path(os.path.normpath(place / ".." / "..")) if place.is_file() else place


def begun_with(place: Path) -> list[str]:
    """The words that a run was begun with, by its folder or a checkpoint in it; none where it has not noted them."""
    try:
        words = yaml.safe_load((run_of(place) / OVERRIDES).read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return []
    return [word for word in words if isinstance(word, str)] if isinstance(words, list) else []


@contextmanager
def alone(run_dir: Path) -> Iterator[None]:
    """Hold a run's folder, which is made if need be. Raises `UserError` where another process trains there."""
    if rank() != 0:  # the first process holds it for all
        yield
        return
    busy = f"another process trains in {str(run_dir)!r}: wait for it, or name another folder with hydra.run.dir=DIR"
    with held(run_dir, busy, PATIENCE):
        yield


def _read(path: Path) -> Resumed:
    content, whole = load_training_checkpoint(path), load_archive(path)
    if not whole.keys() >= {"loops", "optimizer_states", "lr_schedulers", "pytorch-lightning_version"}:
        raise UserError(f"{str(path)!r} holds a network without its optimizer: it cannot go on")
    if not isinstance(whole["loops"], Mapping) or "fit_loop" not in whole["loops"]:
        raise UserError(f"{str(path)!r} does not say how far its training had come: it cannot go on")
    # copied, as an archive's are mapped to its file, which Windows then neither replaces nor removes
    content["net"] = {name: weights.clone() for name, weights in content["net"].items()}
    validated_at, callbacks = whole.get("validated_at"), whole.get("callbacks")
    if not isinstance(validated_at, int):
        validated_at = content["images_seen"]
    return Resumed(path, content, validated_at, callbacks if isinstance(callbacks, Mapping) else {})


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested record as dotted names → values."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
