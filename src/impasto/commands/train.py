"""`python train.py`: Hydra's configuration → `impasto.training.train`, with every mistake in one line."""

import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from impasto import cli
from impasto.assets import PHOTOS, nearest, painting
from impasto.errors import UserError

USAGE = """
Train a network that paints any photo in the style of one painting.

  python train.py style=starry_night
  python train.py style.image=my_painting.jpg
  python train.py style=great_wave data=folder data.root=photos/ schedule=full trainer=gpu
  python train.py style=starry_night resume=true
  torchrun --nproc-per-node=4 train.py style=starry_night trainer=ddp schedule=full
  python train.py -m style=starry_night,great_wave

  style=NAME                one of the paintings in configs/style
  style.image=PATH          a painting of yours; style.name= (default: the file's stem), style.image_size= (px)
  data=bundled|coco|folder  photos to learn from; data.root=DIR, data.image_size= (px), data.batch_size= (per device),
                            data.pack=auto|true|false (decode once, to data.packs=DIR)
  schedule=quick|full       7 minutes on two cores, or the paper's 160,000 images; schedule.images= (in all),
                            schedule.learning_rate=, schedule.warmup= (images), schedule.final=
  trainer=auto|cpu|gpu|ddp  trainer.devices=, trainer.num_nodes=, trainer.precision=, trainer.compile=auto|true|false,
                            trainer.gradient_clip=
  loss.weights.…=           content, style, tv; loss.style_layers.relu1_1= …, loss.content_layers.relu4_2=
  model=johnson|slim        slim: half the channels; model.width= (channels at full resolution), model.depth= (blocks)
  vgg=oxford|torchvision    or vgg=file vgg.path=FILE vgg.preprocessing=torchvision|caffe; vgg.pooling=max|average
  start=auto|random|FILE|NAME  weights to start from: of the network that ships (if it has this width and depth), none,
                            or of an inference file or style
  resume=true|PATH          go on from the run folder's newest checkpoint if there is one, or from a checkpoint
  checkpoint.every= validation.every= (images), seed=
  hydra.run.dir=DIR         default: runs/<style>/<when>

Paths need no quoting beyond your shell's own. Watch with: tensorboard --logdir runs
"""

# values that are taken as they are; every other one is read by Hydra's grammar
LITERAL = (
    "style.image",
    "style.name",
    "data.root",
    "data.validation_root",
    "data.packs",
    "vgg.path",
    "start",
    "resume",
    "hydra.run.dir",
)

# values without a default, and how to give them
EXAMPLES = {
    "style.image": "style=starry_night, or style.image=my_painting.jpg",
    "data.root": "data.root=DIR",
    "vgg.path": "vgg.path=FILE",
}

# kind of a default → kinds that may replace it, and their name
NUMBERS = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((float, int), "a number"),
}


def main(config_dir: Path) -> None:
    """Run training on the command line, with the configuration in `config_dir`."""
    OmegaConf.register_new_resolver("painting", lambda name: str(painting(name)), replace=True)
    OmegaConf.register_new_resolver("photos", lambda: str(PHOTOS), replace=True)
    OmegaConf.register_new_resolver("stem", _stem, replace=True)
    OmegaConf.register_new_resolver("run_dir", _run_dir, replace=True)
    cli.run(lambda words: _train(config_dir, words), USAGE)


def _train(config_dir: Path, words: list[str]) -> None:
    words = [cli.literal(word, LITERAL) for word in words]
    words += _choices_for_this_machine(words)
    if any(word.startswith("-") for word in words):  # Hydra's own flags: --multirun, --cfg, …
        sys.argv[1:] = words
        hydra.main(version_base="1.3", config_path=str(config_dir), config_name="train")(_job)()
        return
    config = compose(config_dir, words)
    _start(_plain(config), Path(config.hydra.run.dir))


def _job(config: DictConfig) -> None:
    """One job of a multirun."""
    try:
        _start(_plain(config), Path(HydraConfig.get().runtime.output_dir))
    except UserError as error:
        sys.exit(f"error: {error}")


def _start(config: dict[str, Any], run_dir: Path) -> None:
    from impasto.training import train  # Lightning takes seconds: mistakes in the words are answered at once

    train(config, run_dir)


def _plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain data, all interpolations resolved."""
    for key, example in EXAMPLES.items():
        if OmegaConf.is_missing(config[key.split(".")[0]], key.split(".")[1]):
            raise UserError(f"{key}=… is missing: say {example}")
    try:
        container: Any = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"the configuration does not resolve: {str(error).splitlines()[0]}") from None
    container.pop("hydra", None)
    return {str(key): value for key, value in container.items()}


def compose(config_dir: Path, words: Sequence[str]) -> DictConfig:
    """Hydra's configuration with its `hydra` node. Raises `UserError` for a word that does not fit."""
    with hydra.initialize_config_dir(str(config_dir), version_base="1.3"):
        try:
            config = hydra.compose("train", list(words), return_hydra_config=True)
            choices = [word for word in words if (config_dir / word.partition("=")[0]).is_dir()]
            _check_types(config, hydra.compose("train", choices))
            return config
        except MissingConfigException as error:
            group, _, name = (error.missing_cfg_file or "").rpartition("/")
            known = list(error.options or [])
            raise UserError(f"{group} {name!r} is unknown{nearest(name, known)}; known: {', '.join(known)}") from None
        except OverrideParseException as error:
            raise UserError(f"{error.override!r} is not understood: write key=value, see --help") from None
        except HydraException as error:
            problem = str(error).splitlines()[0].removesuffix(".")
            key = problem.split("'")[1] if "'" in problem else ""
            known = cli.flatten(OmegaConf.to_container(hydra.compose("train")))
            if key and key not in known:
                problem = f"{key!r} is unknown"
            raise UserError(f"{problem}{nearest(key, known)}; --help lists the options") from None


def _check_types(config: DictConfig, defaults: DictConfig, prefix: str = "") -> None:
    """Compare each number of the configuration with the kind of number that is its default."""
    for key in map(str, defaults):
        if any(OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key) for node in (config, defaults)):
            continue
        name, value, default = f"{prefix}{key}", config[key], defaults[key]
        if isinstance(default, DictConfig) and isinstance(value, DictConfig):
            _check_types(value, default, f"{name}.")
        allowed, description = NUMBERS.get(type(default), ((type(value),), ""))
        if type(value) not in allowed:
            raise UserError(f"{name}={value!r} should be {description}")


def _choices_for_this_machine(words: Sequence[str]) -> list[str]:
    """Data and schedule where the user names none, each said in one line."""
    import torch

    from impasto.data.content import prepared_coco

    given = {word.partition("=")[0] for word in words}
    if "data=coco" in words and "data.root" not in given and not prepared_coco():
        raise UserError("COCO is not in data/coco: python scripts/fetch_coco.py fetches it; data.root= says where else")
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


def _stem(path: str) -> str:
    """A name for files and folders from a path: `My painting (1).jpg` → `My_painting_1`."""
    words = "".join(letter if letter.isalnum() or letter in "-_" else " " for letter in Path(path).stem).split()
    return "_".join(words) or "style"


def _run_dir(style: str, resume: str) -> str:
    """Where a run goes: a new folder, or when resuming the folder that holds what to go on from."""
    from impasto.training import checkpoints

    if resume.lower() == "true":
        runs = sorted(path for path in Path("runs", style).glob("*") if checkpoints(path))
        if runs:
            return str(runs[-1])
    elif resume.lower() != "false":
        place = Path(resume)
        run = place.parent.parent if place.is_file() else place
        if checkpoints(run):
            return str(run)
    return str(Path("runs", style, datetime.now().strftime("%Y-%m-%d_%H-%M-%S")))
