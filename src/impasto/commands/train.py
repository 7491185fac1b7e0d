"""`python train.py`: Hydra's configuration → `impasto.training.train`, with every mistake in one line."""

import logging
import re
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from impasto import cli
from impasto.commands.configuration import combinations, compose, plain
from impasto.errors import UserError

log = logging.getLogger("impasto")

USAGE = """
Train a network that paints any photo in the style of one painting.

  python train.py style=starry_night
  python train.py style.image=my_painting.jpg
  python train.py style=great_wave data=folder data.root=photos/ schedule=full trainer=gpu
  python train.py style=starry_night resume=true
  python train.py style=starry_night trainer=ddp trainer.devices=4 schedule=full
  torchrun --nproc-per-node=4 train.py style=starry_night schedule=full
  sbatch scripts/train.sbatch style=starry_night schedule=full
  python train.py -m style=starry_night,great_wave
  python train.py -m style.image=mine.jpg,another.jpg strength=0.5,1

  style=NAME                one of the paintings in configs/style
  style.image=PATH          a painting of yours; style.name= (default: the file's stem)
  strength=S stroke=PX      of the style, default 1: 0.3 keeps more of the photo, 3 less; the painting's short side,
                            default 320: strokes as large as in a painting of this size
  preview=true              instead of training, a sheet of strengths and strokes for one photo, in two minutes
  data=bundled|coco|coco2014|folder  photos to learn from; data.root=DIR, data.image_size= (px), data.batch_size= (per
                            device; auto: the largest power of two that fits), data.pack=auto|true|false (decode once,
                            to data.packs=DIR), data.workers=, data.timeout= (s without photos until training stops);
                            corrupt, tiny, grey and duplicate ones are left out, up to data.max_rejects=0.05 of them,
                            but for data.keep=grey,tiny,duplicate
  schedule=quick|full       8 to 13 minutes on two cores, or the paper's 160,000 images; schedule.images= (in all),
                            schedule.learning_rate=, schedule.warmup= (images), schedule.final=
  trainer=auto|cpu|gpu|ddp  trainer.devices= (torchrun and srun say how many themselves, on any number of nodes),
                            trainer.precision=, trainer.compile=auto|true|false, trainer.gradient_clip= (largest
                            norm; default: 30, of the papers' losses inf)
  loss=default|johnson|gatys  terms relative to photos, or the papers' weights; loss.weights.…= (content, style, tv),
                            loss.style_layers.relu1_1= …, loss.content_layers.relu4_2=
  model=johnson|slim        slim: half the channels; model.width= (channels at full resolution), model.depth= (blocks)
  vgg=oxford|torchvision    or vgg=file vgg.path=FILE vgg.preprocessing=torchvision|caffe; vgg.pooling=max|average
  init=auto|random|FILE|NAME  weights to start from: of a style that ships (if it has this width and depth), none, or
                            of an inference file or style
  resume=true|PATH          go on from the run folder's newest checkpoint if there is one, or from a checkpoint; words
                            that its run was begun with hold on where no others are given
  guards.on_divergence=lower|stop  where the loss blows up: back to the last good weights, 0.3 times the learning rate,
                            three times at most; or stop there
  guards.on_collapse=stop|warn  where validation pictures are constant or all the same, twice running
  checkpoint.every=N|Tmin   images (at most ten minutes of work are lost), or minutes, such as 10min
  validation.every= (images), seed=
  hydra.run.dir=DIR         default: runs/<style>/<when>
  --config-dir=DIR          has style/, schedule/, … of yours, with files as in configs/: style=mine
  -m                        a run for each combination of the values that have commas between them: one per GPU, or as
                            many as a CPU's cores permit, with a log beside each folder; one that fails stops no other

Paths need no quoting beyond your shell's own. Watch with: tensorboard --logdir runs

Ctrl-C, SIGTERM, SIGUSR1 and a closed terminal end the step, save and exit with status 130, 143, 138 and 129:
resume=true goes on as if nothing had happened. A second one exits at once. Mistakes exit with 1.
"""

# values that are taken as they are; every other one is read by Hydra's grammar
LITERAL = (
    "style.image",
    "style.name",
    "data.root",
    "data.validation_root",
    "data.packs",
    "data.keep",
    "vgg.path",
    "init",
    "resume",
    "hydra.run.dir",
)

NAME = 200  # letters, at most, of a folder's name that says what is swept


def main(config_dir: Path) -> None:
    """Run training on the command line, with the configuration in `config_dir`."""
    cli.run(lambda words: _train(config_dir, words), USAGE)


def composed(config_dir: Path, words: Sequence[str], when: datetime | None = None) -> DictConfig:
    """The configuration that words of the command line, but for -m, make, `when` (now) they do. Raises `UserError`."""
    OmegaConf.register_new_resolver("run_dir", partial(_run_dir, when or datetime.now()), replace=True)
    return compose(config_dir, "train", [cli.literal(word, LITERAL) for word in _with_search_path(words)])


def _train(config_dir: Path, words: list[str]) -> None:
    words = _with_search_path(words)
    if several := {"-m", "--multirun"} & set(words):
        words = [word for word in words if word not in several]
    if flags := [word for word in words if word.startswith("-")]:
        raise UserError(
            f"{flags[0]} is unknown: there are -m, --config-dir=DIR and --help; config.yaml is in a run's folder"
        )
    if several:
        _train_all(config_dir, words)
        return
    for word in words:
        if word.partition("=")[0] not in LITERAL and len(combinations([word])) > 1:
            raise UserError(f"{word} are several: python train.py -m {word} trains one after another")
    words = _as_begun(config_dir, words)
    words = [*words, *_choices_for_this_machine(words)]
    config = composed(config_dir, words)
    _start(config_dir, words, plain(config), Path(config.hydra.run.dir))


def _as_begun(config_dir: Path, words: list[str]) -> list[str]:
    """With the words that a run to go on with was begun with, but for those that are given now."""
    from impasto.resume import begun_with

    given = {word.partition("=")[0]: word for word in words}
    resume = given.get("resume", "resume=false").partition("=")[2]
    if resume.lower() == "false":
        return words
    if resume.lower() == "true":
        config = composed(config_dir, words)
        plain(config)  # which says what is missing
        place = Path(config.hydra.run.dir)
        words = [*words, *([] if "hydra.run.dir" in given else [f"hydra.run.dir={place}"])]  # whatever its own words
    else:
        place = Path(cli.at_home(resume))
    begun = begun_with(place)
    # another data= ends what was said of the one before, as data.root=, and another data.root= what data= it was
    changed = tuple(f"{key}." for key, word in given.items() if word not in begun)
    kept = [
        word
        for word in begun
        if (key := word.partition("=")[0]) not in given
        and not key.startswith(changed)
        and not (key == "data" and "data.root." in changed)
    ]
    if kept:
        _say(f"As the run was begun: {' '.join(kept)}")
    return [*kept, *words]


def _with_search_path(words: Sequence[str]) -> list[str]:
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
    return [*rest, f"hydra.searchpath=[{','.join(folders)}]"] if folders else rest


def _start(config_dir: Path, words: Sequence[str], config: dict[str, Any], run_dir: Path) -> None:
    if config["preview"]:
        from impasto.preview import preview

        preview(config, run_dir)
        return
    from impasto.launcher import end_with_launcher, launch, one_voice, ranks_to_launch

    if ranks := ranks_to_launch(config["trainer"]):
        if config["data"]["batch_size"] == "auto":
            from impasto.guards.batch_size import with_batch_size
            from impasto.resume import find

            config = with_batch_size(config, find(config["resume"], run_dir))
            words = [*words, f"data.batch_size={config['data']['batch_size']}"]
        command = [str(config_dir.parent / "train.py"), *words, f"hydra.run.dir={run_dir}"]
        launch(command, ranks, config["trainer"])
        return
    end_with_launcher()
    with one_voice():
        from impasto.training import train  # Lightning takes seconds: mistakes in the words are answered at once

        own = ("resume", "hydra.run.dir")  # of this start
        train(config, run_dir, [word for word in words if word.partition("=")[0] not in own])


def _train_all(config_dir: Path, words: Sequence[str]) -> None:
    """A run for each combination of the values given with commas. Raises `UserError` naming the logs of failed runs."""
    from impasto.machine import started_by
    from impasto.multirun import places_for, run_all

    if started_by():
        raise UserError(f"-m starts processes of its own: leave {started_by()} out")
    if wrong := [word for word in words if word.startswith(("hydra.sweep", "hydra.launcher"))]:
        raise UserError(
            f"{wrong[0]} has no say: -m trains with processes of its own, in folders beside hydra.run.dir=DIR"
        )
    if not any(word.startswith("resume=") for word in words):
        _choices_for_this_machine(words)  # says what each run will choose
    taken = [word for word in words if word.partition("=")[0].lstrip("+") in LITERAL]  # as they are, commas and all
    named = any(word.startswith("hydra.run.dir=") for word in taken)
    found, when = list[tuple[Path, list[str]]](), datetime.now()  # one time for all: folders are told apart by words
    swept = combinations([word for word in words if word not in taken])
    for word in list(taken):
        if several := _several(word):
            taken.remove(word)
            swept = [[one, *others] for one in several for others in swept]
    for combination in swept:
        config = composed(config_dir, [*combination, *taken], when)
        trainer, folder = plain(config)["trainer"], Path(config.hydra.run.dir)
        if not named and str(config.resume).lower() != "false" and folder in dict(found):
            raise UserError(
                f"several runs would go on in {str(folder)!r}: hydra.run.dir=DIR goes on with each, where DIR is the "
                "folder's name without the words that -m has added"
            )
        found.append((folder, combination))
    runs = dict[Path, list[str]]()
    for folder, combination in found:
        alike = [others for place, others in found if place == folder]
        # what tells runs of one folder apart, so that the next sweep goes on with the same ones
        apart = [word for word in combination if not all(word in others for others in alike)]
        name = "-".join([folder.name, *(re.sub(r"[^\w.+-]+", "_", word) for word in apart)])
        runs[folder.with_name(name[:NAME])] = [*combination, *taken]
    if len(runs) < len(found):
        raise UserError(f"several runs would go to {str(folder)!r}: their words are the same, or too long for a name")
    room = places_for(trainer)
    log.info("%d runs, %d at a time", len(runs), min(len(runs), len(room)))
    if failed := run_all(config_dir.parent / "train.py", runs, room):
        raise UserError(f"failed: {', '.join(map(str, failed))}")


def _several(word: str) -> list[str]:
    """A word for each value of style.image=FILE,FILE, where all are files, or of init=NAME,NAME; else none.

    A file whose own name has the comma is one.
    """

    def there(path: str) -> bool:
        return Path(cli.at_home(path)).is_file()

    key, _, value = word.partition("=")
    values = value.split(",")
    several = key == "init" or (key == "style.image" and all(map(there, values)))
    return [f"{key}={one}" for one in values] if several and len(values) > 1 and not there(value) else []


def _choices_for_this_machine(words: Sequence[str]) -> list[str]:
    """Data and schedule where the user names none, each said in one line."""
    import torch

    from impasto.data.content import prepared_coco

    given = {word.partition("=")[0] for word in words}
    for choice, part in (("data=coco", "train2017"), ("data=coco2014", "train2014")):
        if choice in words and "data.root" not in given and not prepared_coco(training=part):
            raise UserError(
                f"COCO is not in data/coco: python scripts/fetch_coco.py parts={part},val2017 fetches it; "
                "data.root= says where else"
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
    from impasto.machine import rank

    if rank() == 0:
        print(line, flush=True)


def _run_dir(when: datetime, style: str, resume: str) -> str:
    """Where a run goes: a new folder, or when resuming the folder that holds what to go on from."""
    from impasto.resume import checkpoints

    if resume.lower() == "true":
        newest = {path: saved[0] for path in sorted(Path("runs", style).glob("*")) if (saved := checkpoints(path))}
        if newest:
            return str(max(newest, key=lambda path: (newest[path].stat().st_mtime, path)))  # names can be the user's
    elif resume.lower() != "false":
        place = Path(resume)
        run = place.parent.parent if place.is_file() else place
        if checkpoints(run):
            return str(run)
    return str(Path("runs", style, when.strftime("%Y-%m-%d_%H-%M-%S")))
