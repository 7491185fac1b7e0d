"""Training that waits for photos is noticed, and told what it waits for."""

import logging
import re
from collections.abc import Callable
from threading import Event, Thread
from time import perf_counter
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.profilers import PassThroughProfiler

from impasto.data.content import ContentDataModule
from impasto.errors import UserError, one_line

log = logging.getLogger("impasto")

STALLED = 30.0  # s without a batch until a line says so
LOOK = 1.0  # s between two looks at it
WAITING = 0.3  # share of the time between two log entries
LONG_ENOUGH = 20.0  # s of training by which the share is judged; the first photos come late


class LoaderClock(PassThroughProfiler):
    """Measures how long the training loop waits for batches: Lightning tells its profiler."""

    def __init__(self) -> None:
        super().__init__()
        self.waited = 0.0  # s, for training photos
        self.since: float | None = None  # when the wait began that goes on now, for photos of any kind
        self.training = True  # whether it is for training photos

    def start(self, action_name: str) -> None:
        """The loop asks for a batch."""
        if action_name.endswith("_next"):
            self.since, self.training = perf_counter(), action_name.endswith("train_dataloader_next")

    def stop(self, action_name: str) -> None:
        """It has got one."""
        if action_name.endswith("_next") and self.since is not None:
            if self.training:
                self.waited += perf_counter() - self.since
            self.since = None


class LoaderWatch(pl.Callback):
    """Names a loader that gives no batch for `STALLED` seconds, and once one that training waits for too long.

    `train/loader_wait`: the share of the time since the last log entry, or validation, that training has waited for
    photos.
    """

    def __init__(self, data: ContentDataModule) -> None:
        self.clock, self.data = LoaderClock(), data
        self.told = False
        self._stop: Callable[[], None] = lambda: None

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Have the training loop tell the clock."""
        trainer.profiler = self.clock  # type: ignore[attr-defined]  # set by Trainer

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Watch from a thread of its own, as the loop itself is what waits."""
        over = Event()
        Thread(target=self._watch, args=(over, pl_module), daemon=True).start()
        self._stop = over.set

    def teardown(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Stop watching."""
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """Stop watching, as Lightning then leaves `teardown` out."""
        self._stop()

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Start the clock."""
        self._start = perf_counter()
        self._mark: tuple[float, float] | None = None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Validation is not training time."""
        self._mark = (perf_counter(), self.clock.waited)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Log where Lightning logs."""
        if trainer.global_step % trainer.log_every_n_steps:  # type: ignore[attr-defined]  # set by Trainer
            return
        now, waited = perf_counter(), self.clock.waited
        if self._mark is not None:
            share = (waited - self._mark[1]) / (now - self._mark[0])
            pl_module.log("train/loader_wait", share)
            if share > WAITING and now - self._start > LONG_ENOUGH and not self.told:
                self.told = True
                log.warning("training waits for photos %.0f %% of the time: %s", 100 * share, self.data.reading())
        self._mark = (now, waited)

    def _watch(self, over: Event, pl_module: Any) -> None:
        told: float | None = None
        while not over.wait(LOOK):
            since = self.clock.since
            if since is not None and since != told and perf_counter() - since > STALLED:
                told = since
                reading = f"to validate with, as {str(self.data.validation[0])!r}"
                if self.clock.training:
                    reading = self.data.reading(pl_module.images_seen)
                log.warning("no photos for %.0f s: %s", STALLED, reading)


def loader_error(error: Exception, data: ContentDataModule, images_seen: int) -> UserError | None:
    """What to say of an error of torch's loader; None for any other."""
    if isinstance(error, UserError):  # torch puts a worker's traceback around what it says
        _, _, said = str(error).rpartition("UserError: ")
        return UserError(said.strip()) if "in DataLoader worker" in str(error) else None
    if "DataLoader timed out" in str(error):
        reading = data.reading(images_seen)
        return UserError(f"no photos for data.timeout={data.timeout:g} s: {reading}; then resume=true goes on")
    if re.search("</torch_|shared memory", str(error)):  # files of torch's there
        return UserError(
            f"the shared memory, /dev/shm, is full of photos ({one_line(error)}): data.workers=0 does without, "
            "a smaller data.batch_size takes less, docker run --shm-size= gives more"
        )
    if "DataLoader worker (pid" in str(error):
        return UserError(f"a process that reads photos has died ({one_line(error)}): data.workers=0 does without")
    return None
