"""Configuration → objects → `fit` → the inference file."""

import logging
import shlex
import sys
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.metadata import version
from math import inf, isfinite
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from impasto.assets import provenance
from impasto.callbacks import ProgressLines, StyleTarget, StylizedPictures, Throughput, TrainingProgress
from impasto.checkpoint import learned_in_all, same_photos, save_network
from impasto.checks import check_names, check_words, schedule_of
from impasto.data.content import ContentDataModule
from impasto.data.scan import fingerprint, write_rejects
from impasto.errors import UserError
from impasto.events import Events
from impasto.files import check_place, write_text
from impasto.guards import explained, watches
from impasto.guards.batch_size import with_batch_size
from impasto.guards.collapse import Collapse
from impasto.guards.divergence import Divergence
from impasto.initialisation import initialise
from impasto.losses.objective import build_objective, read_painting
from impasto.machine import (
    choose_precision,
    count_devices,
    placement,
    worth_compiling,
)
from impasto.models.transformer_net import TransformerNet
from impasto.models.vgg import vgg_record
from impasto.module import StyleTransferModule
from impasto.ranks import rank, share_cores
from impasto.resume import OVERRIDES, Resumed, alone, begun_with, checkpoints, find
from impasto.saving import SavedRun, WholeCheckpoints
from impasto.stopping import StopSignals

log = logging.getLogger("impasto")

REJECTED = "rejected.jsonl"  # of the run folder: photos that are left out

# Largest norm of a gradient of relative terms. Of 1,900 logged in runs by batches of one, half are below 2, all below
# 20; a crop that is nearly even, of which instance norm makes a picture, has ten thousand, and as Adam remembers that
# for thousands of images, its steps would be small as long.
GRADIENT_CLIP = 30.0


def train(config: dict[str, Any], run_dir: Path, words: Sequence[str] = ()) -> Path:
    """Train as the resolved configuration says; returns the inference file, `run_dir/<style>.safetensors`.

    The run folder also gets config.yaml, overrides.yaml (the `words` of the command line), TensorBoard's events,
    checkpoints/ and preview.jpg.
    Raises `UserError`, before the folder is made where the mistake can be known by then, and `SystemExit` where a
    signal stops the run, saved as far as it came.
    """
    if rank() != 0:
        log.setLevel(logging.ERROR)  # one process speaks
    _quieten_libraries()
    if not 0 <= config["seed"] < 2**32:
        raise UserError(f"seed={config['seed']} should be in 0…{2**32 - 1}")
    pl.seed_everything(config["seed"], verbose=False)
    name = config["style"]["name"]
    check_names(name, run_dir)
    with StopSignals() as stops, ExitStack() as held:
        there = run_dir.is_dir()
        if there:  # before its checkpoints are looked at
            held.enter_context(alone(run_dir))
        resumed, exported = find(config["resume"], run_dir), run_dir / f"{name}.safetensors"
        if not checkpoints(run_dir):
            _check_folder(run_dir, exported)
        if resumed:
            config, words = _going_on(config, words, resumed)
        check_words(config)
        check_place(run_dir / "config.yaml")
        saved = SavedRun(run_dir, config["checkpoint"]["every"], WholeCheckpoints(), stops, resumed)
        judges = [Divergence(config["guards"]["on_divergence"]), Collapse(config["guards"]["on_collapse"])]
        config = with_batch_size(config, resumed)
        module, painting = _module(config, resumed)
        left = resumed.left(module.images) if resumed else module.images
        compiled = left > 0 and worth_compiling(config["trainer"], left)
        data = _data(config, module)
        if resumed and not same_photos(resumed.content, module.record):
            # gone on with by other photos, which leaves the first ones learned from
            module.record["init"] = {**module.record["init"], "learned": learned_in_all(resumed.content)}
        guards = [*judges, *watches(config, run_dir, module, data)]
        trainer = _trainer(config, run_dir, data, painting, resumed, saved, guards)
        module.record |= {"precision": trainer.precision, "processes": trainer.world_size}
        if resumed:
            resumed.warn_of_changes(module.record, left)
        if trainer.precision == "bf16-mixed":
            module.objective.loss.vgg.round_kernels(torch.bfloat16)
        if not there:
            held.enter_context(alone(run_dir))
            if checkpoints(run_dir):
                raise UserError(f"another run has begun in {str(run_dir)!r} meanwhile: name another folder")
        if resumed and not left:  # it was trained as it says, whatever is asked for now
            kept = (*module.record, "learning_rate_factor")  # which a guard may have added
            module.record = {key: resumed.content[key] for key in kept if key in resumed.content}
        if left or not (run_dir / "config.yaml").exists():
            _start_folder(config, run_dir, data, words)
        if resumed:
            log.info("Going on from %s: %d of %d images seen", resumed.path, resumed.images_seen, module.images)
        if compiled:
            module.net.compile()
            module.objective.loss.compile()
        _fit(config, trainer, module, data, saved, resumed, guards)
        if trainer.is_global_zero:
            save_network(exported, module.net, {**module.record, "images_seen": module.images_seen})
            log.info("Wrote %s; now paint:", exported)
            log.info("  python stylize.py ckpt=%s input=photo.jpg", shlex.quote(str(exported)))
    return exported


def _going_on(config: dict[str, Any], words: Sequence[str], resumed: Resumed) -> tuple[dict[str, Any], Sequence[str]]:
    """Configuration and words with the `init=` that the run was begun with: it has its weights, whatever is asked."""
    begun = [word for word in begun_with(resumed.path) if word.startswith("init=")]
    asked = [word for word in words if word.startswith("init=")]
    if not asked or asked == begun:
        return config, words
    log.warning("%s has no say: the run goes on with its own weights", asked[-1])
    others = [word for word in words if word not in asked]
    return {**config, "init": (begun or ["init=auto"])[-1].partition("=")[2]}, [*begun, *others]


def _check_folder(run_dir: Path, exported: Path) -> None:
    """Raise `UserError` where a new run would write over what is there."""
    if exported.exists():
        raise UserError(
            f"{str(exported)!r} is there, and no checkpoint to go on from: name another folder, or remove it"
        )
    # a run that was killed early has left its words; those of this one may be there before another rank looks
    if rank() == 0 and not (run_dir / OVERRIDES).exists():
        for name in ("config.yaml", "preview.jpg", REJECTED):
            if (own := run_dir / name).exists():
                raise UserError(f"{str(own)!r} is there, and of no run: name another folder with hydra.run.dir=DIR")


def _module(config: dict[str, Any], resumed: Resumed | None) -> tuple[StyleTransferModule, Any]:
    """The module and its painting. Raises `UserError` where they are not those of the run to go on with."""
    style, loss, schedule = config["style"], config["loss"], schedule_of(config)
    if schedule.warmup >= schedule.images:
        log.warning(
            "schedule.warmup=%d is as long as the run: the rate ends while it rises to schedule.learning_rate=%g",
            schedule.warmup,
            schedule.learning_rate,
        )
    painting = read_painting(style["image"], config["stroke"])
    origin = {"name": style["name"], "stroke": config["stroke"], **provenance(style["image"])}
    net = TransformerNet(**config["model"]).to(memory_format=torch.channels_last)
    if resumed:  # its weights come with the rest; what it had started from may be gone
        resumed.check({"name": type(net).__name__, **net.arguments}, origin)
        init = resumed.content.get("init", {})
    else:
        init = initialise(str(config["init"]), net, origin["sha256"])
    net.learn_growth(config["data"]["smallest_size"] is not None)
    objective = build_objective(painting, loss, config["vgg"], config["strength"])
    clip = config["trainer"]["gradient_clip"]
    if clip is None:
        clip = GRADIENT_CLIP if loss["relative"] else inf
    record = {
        "style": origin,
        "init": init,
        "strength": config["strength"],
        "loss": loss,
        "vgg": vgg_record(**config["vgg"]),
        "schedule": config["schedule"],
        "gradient_clip": clip if isfinite(clip) else None,  # JSON knows no infinity
        "image_size": config["data"]["image_size"],
        "smallest_size": config["data"]["smallest_size"],
        "batch_size": config["data"]["batch_size"],
        "seed": config["seed"],
        "versions": {name: version(name) for name in ("impasto", "torch", "pytorch-lightning")},
    }
    return StyleTransferModule(net, objective, schedule, record, clip), painting


def _data(config: dict[str, Any], module: StyleTransferModule) -> ContentDataModule:
    """The photos, noted in the module's record."""
    data = ContentDataModule(**config["data"], images=module.images, seed=config["seed"])
    module.record["content"] = {
        "name": data.name,
        "photos": len(data.training),
        "validation": len(data.validation),
        **({"left_out": len(data.rejects)} if data.rejects else {}),
        "sha256": fingerprint(data.training, data.root, times=False)[:16],  # another: positions show other photos
        "folder": data.folder,
        "held_out": data.held_out(),
        **data.augmentation,
    }
    return data


def _trainer(
    config: dict[str, Any],
    run_dir: Path,
    data: ContentDataModule,
    painting: Any,
    resumed: Resumed | None,
    saved: SavedRun,
    guards: list[Callback],
) -> pl.Trainer:
    options = config["trainer"]
    share_cores()
    devices, nodes, environment = placement(options)
    world_size = count_devices(devices, options["accelerator"]) * nodes
    batch = data.batch_size * world_size
    images, seen, step = config["schedule"]["images"], 0, 0
    if resumed:
        seen, step = resumed.images_seen, resumed.step
    callbacks: list[Callback] = [
        *guards,
        StylizedPictures(data.validation, max(data.image_size, 256), run_dir),
        StyleTarget(painting),
        Throughput(),
        TrainingProgress() if sys.stdout.isatty() else ProgressLines(),
        saved,  # last, so that it holds what the others did
    ]
    precision = choose_precision(options)
    ddp = options["strategy"] == "ddp" or world_size > 1
    try:
        return pl.Trainer(
            accelerator=options["accelerator"],
            devices=devices,
            num_nodes=nodes,
            strategy=DDPStrategy(gradient_as_bucket_view=True, broadcast_buffers=False) if ddp else options["strategy"],
            plugins=[saved.files, *([environment] if environment else [])],
            precision=precision,
            max_epochs=-1,
            max_steps=step + max(0, -(-(images - seen) // batch)),
            val_check_interval=max(1, config["validation"]["every"] // batch),  # steps of the run, not of its rest
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            log_every_n_steps=min(options["log_every"], -(-images // batch)),
            use_distributed_sampler=False,  # the data module shares out positions itself
            enable_model_summary=False,
            enable_progress_bar=sys.stdout.isatty(),
            logger=Events(run_dir, seen + 1 if resumed else 0),  # what came after the checkpoint is logged anew
            callbacks=callbacks,
        )
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise UserError(f"trainer: {str(error).splitlines()[0]}") from None


def _fit(
    config: dict[str, Any],
    trainer: pl.Trainer,
    module: StyleTransferModule,
    data: ContentDataModule,
    saved: SavedRun,
    resumed: Resumed | None,
    guards: Sequence[Callback],
) -> None:
    """Train the rest of the run, and save its end. A validation that was stopped comes first."""
    try:
        if resumed:
            module.net.load_state_dict(resumed.network().state_dict())
            module.images_seen, module.validated_at = resumed.images_seen, resumed.validated_at
            ended = module.images_seen >= module.images
            due = ended or resumed.step % trainer.val_check_interval == 0
            if due and module.validated_at != module.images_seen:
                judges = [callback for callback in guards if isinstance(callback, Collapse)]
                for judge in judges:  # which Lightning would tell only in `fit`
                    if state := resumed.callbacks.get(judge.state_key):
                        judge.load_state_dict(state)
                trainer.validate(module, datamodule=data, verbose=False)
                ours = resumed.path.resolve().parent == (saved.folder / "checkpoints").resolve()
                if trainer.is_global_zero and ours:  # another run's stay as they are
                    try:
                        resumed.mark_validated({judge.state_key: judge.state_dict() for judge in judges})
                    except UserError as error:  # of a full disk: it would only be validated once more
                        log.warning("%s", error)
            if ended:
                return
        trainer.fit(module, datamodule=data, ckpt_path=resumed.path if resumed else None, weights_only=True)
        if module.validated_at != module.images_seen:
            trainer.validate(module, datamodule=data, verbose=False)
        saved.save(trainer)
    except (RuntimeError, UserError) as error:
        if saved.stops.wish and trainer.world_size > 1:  # the others have ended, as this process was asked to
            saved.stops.exit(saved.stops.wish)
        if problem := explained(error, config, data, module.images_seen):
            raise problem from None
        raise


@rank_zero_only
def _start_folder(config: dict[str, Any], run_dir: Path, data: ContentDataModule, words: Sequence[str]) -> None:
    for name, content in ((OVERRIDES, list(words)), ("config.yaml", config)):
        write_text(run_dir / name, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    if data.rejects:
        write_rejects(run_dir / REJECTED, data.rejects)
    else:  # of the run before data.keep= was said
        (run_dir / REJECTED).unlink(missing_ok=True)
    for left_over in (run_dir / "checkpoints").glob(".*.ckpt"):  # by a run killed while it wrote
        left_over.unlink()
    runs = run_dir.parent.parent
    log.info("Run: %s; watch with tensorboard --logdir %s", run_dir, shlex.quote(str(runs if runs.name else run_dir)))


def _quieten_libraries() -> None:
    """Leave out advice that does not apply; what is left is worth reading."""
    for library in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*`log_every_n_steps`.*",
        ".*your dataloader is not resumable.*",  # it is: it begins where the module stands
        ".*LeafSpec.*",
        ".*`broadcast_buffers` is deprecated.*",  # what torch 2.15 has for it, 2.11 has not
    ):
        warnings.filterwarnings("ignore", message=message)
