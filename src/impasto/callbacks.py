"""What a run shows while it goes: pictures and images per second."""

import logging
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import RichProgressBar
from torch import Tensor
from torchvision.utils import make_grid

from impasto.data.photos import ValidationPhotos
from impasto.errors import UserError
from impasto.events import Events
from impasto.image import save_image, to_image
from impasto.tensors import to_tensor

log = logging.getLogger("impasto")


class StylizedPictures(pl.Callback):
    """Fixed validation photos next to their stylized selves, to TensorBoard and `preview.jpg`, at every validation."""

    def __init__(self, photos: list[Path], size: int, folder: Path, count: int = 4) -> None:
        self.photos, self.size, self.folder, self.count = photos, size, folder, count

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Stylize and write, on rank 0."""
        if not trainer.is_global_zero or not isinstance(trainer.logger, Events):
            return
        crops = ValidationPhotos(self.photos[: self.count], self.size)
        content = torch.stack([crops[index] for index in range(len(crops))]).to(pl_module.device).float() / 255
        with torch.no_grad():
            # the network itself, not the compiled one: another shape would compile it anew
            stylized = torch.cat([type(pl_module.net).forward(pl_module.net, image[None]) for image in content])
        pairs = torch.stack([content, stylized], dim=1).flatten(0, 1)
        grid: Tensor = make_grid(pairs.cpu(), nrow=2, padding=4, pad_value=1.0)
        trainer.logger.add_image("val/pictures", grid, pl_module.images_seen)
        try:
            save_image(to_image(grid[None].cpu().numpy()), self.folder / "preview.jpg")
        except UserError as error:  # a full disk ends no run
            log.warning("%s", error)


class StyleTarget(pl.Callback):
    """The painting, once in a run, beside the curves."""

    def __init__(self, painting: Any) -> None:
        self.painting = painting

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Write it on rank 0."""
        if pl_module.images_seen == 0 and isinstance(trainer.logger, Events):
            trainer.logger.add_image("style", to_tensor(self.painting)[0], 0)


class TrainingProgress(RichProgressBar):
    """Lightning's bar with the losses to three digits."""

    def get_metrics(self, trainer: pl.Trainer, pl_module: Any) -> dict[str, int | str | float | dict[str, float]]:
        """Losses to three digits; no version number, as the run folder has the name."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return {name: f"{value:.3g}" for name, value in metrics.items()}

    def _get_train_description(self, current_epoch: int) -> str:
        return "Training"  # one pass over positions, whatever Lightning calls an epoch


class ProgressLines(pl.Callback):
    """A line at every validation, for logs, where a bar that moves cannot be seen."""

    _start: tuple[float, int] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Start the clock."""
        self._start = (perf_counter(), pl_module.images_seen)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Images, validation loss, images per second, time left."""
        seen, images, total = pl_module.images_seen, pl_module.images, float(trainer.callback_metrics["val/total"])
        speed = ""
        if self._start is not None and seen > self._start[1]:  # not after a validation that a stopped run had left
            each = (perf_counter() - self._start[0]) / (seen - self._start[1])
            left = timedelta(seconds=round(each * max(0, images - seen)))
            speed = f", {1 / each:.3g} images/s, {left} left"
        log.info("%d of %d images, val/total %.3g%s", seen, images, total, speed)


class Throughput(pl.Callback):
    """`train/images_per_second`: over the steps between two log entries, all ranks together."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Start the clock."""
        self._mark = (perf_counter(), pl_module.images_seen)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Validation is not training time."""
        self._mark = (perf_counter(), pl_module.images_seen)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Log where Lightning logs."""
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]  # set by Trainer
            now, (then, images) = perf_counter(), self._mark
            if pl_module.images_seen > images:
                pl_module.log("train/images_per_second", (pl_module.images_seen - images) / (now - then))
            self._mark = (now, pl_module.images_seen)
