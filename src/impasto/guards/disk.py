"""Disk space: enough before a run starts, watched while it goes; and the clock."""

import logging
import shutil
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

import pytorch_lightning as pl
from rich.filesize import decimal
from torch import nn

from impasto.errors import UserError
from impasto.files import nearest_existing

log = logging.getLogger("impasto")

CHECKPOINTS = 4  # three are kept, one is being written
PICTURES = 24  # bytes a pixel: four photos and their pictures at each validation, as if PNG saved nothing
CURVES = 4000  # bytes a log entry: 1.3 kB measured


def space_needed(net: nn.Module, image_size: int, validations: int, entries: int) -> int:
    """Bytes that a run writes and keeps at most: checkpoints with Adam's moments, the network, pictures, curves."""
    weights = 4 * sum(parameter.numel() for parameter in net.parameters())  # float32
    return (3 * CHECKPOINTS + 1) * weights + validations * PICTURES * image_size**2 + entries * CURVES


def free_space(folder: Path) -> int:
    """Bytes free where `folder` is, or will be."""
    return shutil.disk_usage(nearest_existing(folder)).free


def still_needed(run_dir: Path, needed: int) -> int:
    """Of the bytes that a whole run takes, those that are not in its folder yet."""
    written = 0
    for path in run_dir.rglob("*"):
        with suppress(OSError):  # an earlier checkpoint that is removed right now
            written += path.stat().st_size
    return max(0, needed - written)


def check_space(run_dir: Path, needed: int) -> None:
    """Raise `UserError` where a run would fill the disk; `needed` are the bytes that it is still to write."""
    if (free := free_space(run_dir)) < needed:
        raise UserError(
            f"{str(run_dir.parent)!r} has {decimal(free)} free, the run takes about {decimal(needed)}: "
            "hydra.run.dir=DIR puts it elsewhere"
        )


class MachineWatch(pl.Callback):
    """`machine/disk_free_gb` of the run folder, `machine/hours` since training started; warns of a disk that fills.

    Early and once: as soon as less is free than the rest takes of `needed`, bytes of the whole run.
    """

    def __init__(self, run_dir: Path, needed: int) -> None:
        self.run_dir, self.needed, self.told = run_dir, needed, False

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Start the clock."""
        self._start = perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Log where Lightning logs."""
        if trainer.global_step % trainer.log_every_n_steps:  # type: ignore[attr-defined]  # set by Trainer
            return
        free = free_space(self.run_dir)
        pl_module.log_dict({"machine/disk_free_gb": free / 1e9, "machine/hours": (perf_counter() - self._start) / 3600})
        if free < self.needed and not self.told and free < (rest := still_needed(self.run_dir, self.needed)):
            self.told = True
            log.warning(
                "%s left where %s is, the run may take %s more: make room, or checkpoints cannot be written, nor the "
                "network at the end",
                decimal(free),
                self.run_dir,
                decimal(rest),
            )
