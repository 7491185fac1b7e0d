"""When and how a run saves itself: between two steps, whole files, the old ones kept until then."""

import logging
import re
import shlex
import shutil
from pathlib import Path
from time import monotonic
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from impasto.errors import TrainingError, UserError
from impasto.events import Events
from impasto.files import whole_file
from impasto.resume import Resumed, checkpoints, write_checkpoint
from impasto.stopping import StopSignals

log = logging.getLogger("impasto")

LONGEST = 600.0  # s between two checkpoints that are counted in images: a slow machine loses no more
AGREE = 10  # steps between two moments at which ranks on GPUs, which to ask makes wait, agree on what to do
KEPT = 3  # checkpoints, so that a damaged one costs little


def read_interval(every: int | str) -> tuple[int | None, float]:
    """What `checkpoint.every` says: images, if it counts them, and the longest time in seconds.

    Raises `UserError` for anything but a number of images and minutes such as 10min.
    """
    text = str(every)
    if re.fullmatch(r"\d+", text) and int(text):
        return int(text), LONGEST
    if (minutes := re.fullmatch(r"(\d+|\d*\.\d+)min", text)) and float(minutes[1]):
        return None, 60 * float(minutes[1])
    raise UserError(f"checkpoint.every={every} should be images, such as 300, or minutes, such as 10min")


class WholeCheckpoints(TorchCheckpointIO):
    """Training checkpoints, whole or not at all; `failure` is what kept the last one from being written, if anything.

    A failure is no exception, as the other ranks wait for the one that writes.
    """

    failure: UserError | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write `checkpoint` to `path`."""
        self.failure = None
        try:
            write_checkpoint(checkpoint, path)
        except UserError as error:
            self.failure = error


class SavedRun(Checkpoint):
    """Saves a run into `folder`/checkpoints where `every` (see `read_interval`) is due, and where it is to stop.

    Always before a step, when all of the one before is done, judged and logged: then nothing is missing or twice in
    what a resumed run adds. A wish to stop ends the process, also in the middle of a validation, which the resumed
    run then begins with. All ranks act on the highest rank's wish.

    Without room for a checkpoint the run goes on, and tries again when the next one is due. Begun from a checkpoint of
    another run, it takes a copy first: killed before it saves, it begins there again.
    """

    def __init__(
        self,
        folder: Path,
        every: int | str,
        files: WholeCheckpoints,
        stops: StopSignals,
        resumed: Resumed | None = None,
    ) -> None:
        self.folder, self.files, self.stops, self.resumed = folder, files, stops, resumed
        self.images, self.seconds = read_interval(every)

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Start the clock, and take the signals back from Lightning, whose handler makes ranks wait for ever."""
        self.stops.install()
        self._saved = (monotonic(), pl_module.images_seen)
        self._begun = (trainer.global_step, pl_module.images_seen)
        # no earlier: all ranks have looked into the folder by now
        if self.resumed and trainer.is_global_zero and not checkpoints(self.folder):
            try:
                with whole_file(self.folder / "checkpoints" / f"{self.resumed.images_seen:09d}.ckpt") as temporary:
                    shutil.copyfile(self.resumed.path, temporary)
            except UserError as error:
                log.warning("%s: the newest whole checkpoint is %s", error, self.resumed.path)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """The same where a validation is all there is to do."""
        self.stops.install()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Save or stop, as due after the steps before."""
        self._begun = (trainer.global_step, pl_module.images_seen)
        on_cpu = trainer.strategy.root_device.type == "cpu"
        alike = trainer.world_size == 1 or on_cpu or trainer.global_step % AGREE == 0
        if self.stops.patient and alike:  # a step has been made
            # a signal's number + 1, and 1 where a checkpoint is due
            mine = self.stops.wish + 1 if self.stops.wish else int(self._due(pl_module.images_seen))
            if wish := self._agreed(trainer, mine):
                self.save(trainer)
            if wish > 1:
                self._stop(trainer, wish - 1)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """From the first step on there is something to save."""
        self.stops.patient = True

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Save where an error ends training between two steps; of one rank alone, the others would wait for ever."""
        alike = trainer.world_size == 1 or isinstance(exception, TrainingError)
        if self.stops.patient and isinstance(exception, Exception) and alike:
            step, seen = self._begun
            if trainer.global_step > step or pl_module.images_seen == seen:
                self.save(trainer)

    def on_validation_batch_start(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Stop in the middle of a validation."""
        if self.stops.patient and (wish := self._agreed(trainer, self.stops.wish)):
            self.save(trainer)
            self._stop(trainer, wish)

    def save(self, trainer: pl.Trainer) -> None:
        """Write a checkpoint, then remove the oldest; without room for it, say so. To be called on all ranks."""
        if isinstance(trainer.logger, Events):
            trainer.logger.settle()
        seen = trainer.lightning_module.images_seen
        trainer.save_checkpoint(self.folder / "checkpoints" / f"{seen:09d}.ckpt")
        self._saved = (monotonic(), seen)
        if not trainer.is_global_zero:
            return
        if self.files.failure is not None:
            there = next(iter(checkpoints(self.folder)), None)
            log.warning("%s: the newest whole checkpoint is %s", self.files.failure, there or "none yet")
            return
        for old in checkpoints(self.folder)[KEPT:]:
            old.unlink(missing_ok=True)

    def _due(self, images_seen: int) -> bool:
        then, saved = self._saved
        in_images = self.images is not None and images_seen // self.images > saved // self.images
        return in_images or monotonic() - then >= self.seconds

    def _agreed(self, trainer: pl.Trainer, wish: int) -> int:
        """The greatest of all ranks' wishes."""
        if trainer.world_size == 1:
            return wish
        return int(trainer.strategy.reduce(torch.tensor(wish, device=trainer.strategy.root_device), reduce_op="max"))

    def _stop(self, trainer: pl.Trainer, wish: int) -> None:
        seen = trainer.lightning_module.images_seen
        log.warning("stopped at %d images; go on with resume=%s", seen, shlex.quote(str(self.folder)))
        self.stops.exit(wish)
