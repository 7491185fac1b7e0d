"""Configuration → objects → `fit` → the inference file."""

import io
import logging
import shlex
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from impasto.assets import provenance
from impasto.callbacks import ProgressLines, StyleTarget, StylizedPictures, Throughput, TrainingProgress
from impasto.checkpoint import load_training_checkpoint, save_network
from impasto.data.content import ContentDataModule
from impasto.errors import UserError
from impasto.files import whole_file, write_text
from impasto.initialisation import initialise
from impasto.losses.objective import build_objective, read_painting
from impasto.machine import (
    check_accelerator,
    choose_precision,
    count_devices,
    placement,
    rank,
    share_cores,
    worth_compiling,
)
from impasto.models.transformer_net import TransformerNet
from impasto.models.vgg import smallest_input
from impasto.module import StyleTransferModule
from impasto.schedule import Schedule

log = logging.getLogger("impasto")


def train(config: dict[str, Any], run_dir: Path) -> Path:
    """Train as the resolved configuration says; returns the inference file, `run_dir/<style>.safetensors`.

    The run folder also gets config.yaml, TensorBoard's events, checkpoints/ and preview.jpg.
    Raises `UserError`, before the folder is made where the mistake can be known by then.
    """
    if rank() != 0:
        log.setLevel(logging.ERROR)  # one process speaks
    _quieten_libraries()
    if not 0 <= config["seed"] < 2**32:
        raise UserError(f"seed={config['seed']} should be in 0…{2**32 - 1}")
    check_accelerator(config["trainer"]["accelerator"])
    pl.seed_everything(config["seed"], verbose=False)
    name = config["style"]["name"]
    if not isinstance(name, str) or name != Path(name).name or not name.strip("."):
        raise UserError(f"style.name={name!r} should do as a file name")
    resumed = _resumed(config["resume"], run_dir)
    module, painting = _module(config)
    if resumed:
        _check_same_network(resumed, module)
    data = ContentDataModule(**config["data"], images=module.images, seed=config["seed"])
    if data.image_size < (smallest := smallest_input(module.objective.loss.vgg.layers)):
        raise UserError(f"data.image_size={data.image_size} is too small for VGG19: it takes {smallest} px")
    module.record["content"] = {
        "name": data.name,
        "photos": len(data.training),
        "validation": len(data.validation),
    }
    images_seen = resumed[1]["images_seen"] if resumed else 0
    trainer = _trainer(config, run_dir, data, painting, images_seen, resumed[1]["step"] if resumed else 0)
    compiled = worth_compiling(config["trainer"], module.images - images_seen)
    if trainer.precision == "bf16-mixed":
        module.objective.loss.vgg.round_kernels(torch.bfloat16)
    _start_folder(config, run_dir)

    if resumed:
        log.info("Going on from %s: %d of %d images seen", resumed[0], images_seen, module.images)
    if resumed and images_seen >= module.images:  # nothing to train: export what there is
        module.net.load_state_dict(resumed[1]["net"])
        module.images_seen = images_seen
    else:
        if compiled:
            module.net.compile()
            module.objective.loss.compile()
        _fit(trainer, module, data, run_dir, resumed[0] if resumed else None)
    exported = run_dir / f"{name}.safetensors"
    if trainer.is_global_zero:
        save_network(exported, module.net, {**module.record, "images_seen": module.images_seen})
        log.info("Wrote %s; now paint:", exported)
        log.info("  python stylize.py ckpt=%s input=photo.jpg", shlex.quote(str(exported)))
    return exported


class WholeCheckpoints(TorchCheckpointIO):
    """Training checkpoints, whole or not at all, also on a full disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write `checkpoint` to `path`. Raises `UserError` when it cannot be written."""
        content = io.BytesIO()  # torch's own writer turns a full disk into an error that names no cause
        torch.save(checkpoint, content)
        with whole_file(path) as temporary:
            temporary.write_bytes(content.getbuffer())


def checkpoints(run_dir: Path) -> list[Path]:
    """Training checkpoints of a run, newest first: their names are the images seen."""
    return sorted((run_dir / "checkpoints").glob("[0-9]*.ckpt"), key=lambda path: path.name, reverse=True)


def _module(config: dict[str, Any]) -> tuple[StyleTransferModule, Any]:
    """The module and its painting."""
    style, loss = config["style"], config["loss"]
    schedule = Schedule(**{key: value for key, value in config["schedule"].items() if key != "name"})
    painting = read_painting(style["image"], config["stroke"])
    objective = build_objective(painting, loss, config["vgg"], config["strength"])
    net = TransformerNet(**config["model"]).to(memory_format=torch.channels_last)
    init = initialise(str(config["init"]), net, provenance(style["image"])["sha256"])
    record = {
        "style": {"name": style["name"], "stroke": config["stroke"], **provenance(style["image"])},
        "init": init,
        "strength": config["strength"],
        "loss": loss,
        "vgg": {key: config["vgg"][key] for key in ("source", "preprocessing", "pooling")},
        "schedule": config["schedule"],
        "image_size": config["data"]["image_size"],
        "batch_size": config["data"]["batch_size"],
        "seed": config["seed"],
        "versions": {name: version(name) for name in ("impasto", "torch", "pytorch-lightning")},
    }
    module = StyleTransferModule(
        net,
        objective,
        schedule,
        record,
        config["trainer"]["gradient_clip"],
    )
    return module, painting


def _trainer(
    config: dict[str, Any],
    run_dir: Path,
    data: ContentDataModule,
    painting: Any,
    images_seen: int,
    step: int,
) -> pl.Trainer:
    options = config["trainer"]
    for key, least in (("log_every", 1), ("gradient_clip", 0)):
        if not options[key] >= least:
            raise UserError(f"trainer.{key}={options[key]} should be at least {least}")
    share_cores()
    devices, nodes, environment = placement(options)
    world_size = count_devices(devices, options["accelerator"]) * nodes
    batch = data.batch_size * world_size
    remaining = max(0, -(-(config["schedule"]["images"] - images_seen) // batch))
    validate_every = min(max(1, config["validation"]["every"] // batch), max(1, remaining))
    callbacks: list[Callback] = [
        StylizedPictures(data.validation, max(data.image_size, 256), run_dir),
        StyleTarget(painting),
        Throughput(),
        TrainingProgress() if sys.stdout.isatty() else ProgressLines(),
        # saves last, so that it holds what the others did; three, so that a damaged one costs little
        ModelCheckpoint(
            run_dir / "checkpoints",
            filename="{step:09d}",  # images seen: the module logs them as `step`
            monitor="step",
            mode="max",
            save_top_k=3,
            auto_insert_metric_name=False,
            every_n_train_steps=max(1, config["checkpoint"]["every"] // batch),
            save_on_exception=world_size == 1,  # of several ranks the others may be dead: waiting for them hangs
            enable_version_counter=False,
        ),
    ]
    ddp = options["strategy"] == "ddp" or world_size > 1
    try:
        return pl.Trainer(
            accelerator=options["accelerator"],
            devices=devices,
            num_nodes=nodes,
            strategy=DDPStrategy(gradient_as_bucket_view=True, broadcast_buffers=False) if ddp else options["strategy"],
            plugins=[WholeCheckpoints(), *([environment] if environment else [])],
            precision=choose_precision(options),
            max_epochs=-1,
            max_steps=step + remaining,
            val_check_interval=validate_every,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            log_every_n_steps=min(options["log_every"], max(1, remaining)),
            use_distributed_sampler=False,  # the data module shares out positions itself
            enable_model_summary=False,
            enable_progress_bar=sys.stdout.isatty(),
            # what a killed run logged after its checkpoint is logged anew
            logger=TensorBoardLogger(run_dir, name="", version="", purge_step=images_seen + 1 if images_seen else None),
            callbacks=callbacks,
        )
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise UserError(f"trainer: {str(error).splitlines()[0]}") from None


def _fit(
    trainer: pl.Trainer,
    module: StyleTransferModule,
    data: ContentDataModule,
    run_dir: Path,
    checkpoint: Path | None,
) -> None:
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        if module.validated_at != module.images_seen:
            trainer.validate(module, datamodule=data, verbose=False)
        trainer.save_checkpoint(run_dir / "checkpoints" / f"{module.images_seen:09d}.ckpt")
    except (SystemExit, KeyboardInterrupt):  # Lightning turns Ctrl-C into an exit, after a last checkpoint
        log.warning("stopped at %d images; go on with resume=%s", module.images_seen, shlex.quote(str(run_dir)))
        sys.exit(130)
    except RuntimeError as error:  # torch.OutOfMemoryError, and the CPU allocator's plain RuntimeError
        if "out of memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        raise UserError(
            f"data.batch_size={data.batch_size} at data.image_size={data.image_size} takes more memory than there is: "
            f"try data.batch_size={max(1, data.batch_size // 2)}"
        ) from None


def _resumed(resume: str | bool, run_dir: Path) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint to go on from and what it holds: the newest whole one of the run, or the one named."""
    choice = str(resume).lower()
    if choice == "false":
        if checkpoints(run_dir):
            raise UserError(f"{str(run_dir)!r} holds a run: resume=true goes on with it, or name another folder")
        return None
    named = choice != "true"
    place = Path(str(resume)) if named else run_dir
    if named and not place.exists():
        raise UserError(f"resume={resume}: there is no such checkpoint or run folder")
    if place.is_file():
        return place, load_training_checkpoint(place)
    for path in checkpoints(place):
        try:
            return path, load_training_checkpoint(path)
        except UserError as error:
            log.warning("passed over: %s", error)
    if named:
        raise UserError(f"resume={resume}: there is no checkpoint in that folder")
    log.info("Nothing to go on from in %s: starting", run_dir)
    return None


def _check_same_network(resumed: tuple[Path, dict[str, Any]], module: StyleTransferModule) -> None:
    path, content = resumed
    for key, now in (("architecture", module.architecture), ("style", module.record["style"])):
        if changed := sorted(name for name in now if content[key].get(name) != now[name]):
            before, after = content[key].get(changed[0]), now[changed[0]]
            raise UserError(f"{str(path)!r} was trained with {key} {changed[0]}={before}, not {after}: it cannot go on")


@rank_zero_only
def _start_folder(config: dict[str, Any], run_dir: Path) -> None:
    write_text(run_dir / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    for left_over in (run_dir / "checkpoints").glob(".*.ckpt"):  # by a run killed while it wrote
        left_over.unlink()
    log.info("Run: %s; watch with tensorboard --logdir %s", run_dir, shlex.quote(str(run_dir.parent.parent)))


def _quieten_libraries() -> None:
    """Leave out advice that does not apply; what is left is worth reading."""
    for library in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*`log_every_n_steps`.*",
        ".*Checkpoint directory .* exists.*",
        ".*LeafSpec.*",
        ".*`broadcast_buffers` is deprecated.*",  # what torch 2.15 has for it, 2.11 has not
    ):
        warnings.filterwarnings("ignore", message=message)
