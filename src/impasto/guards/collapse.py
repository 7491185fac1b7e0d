"""A network that paints the same whatever it is shown is noticed while it trains."""

import logging
from math import isnan
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from impasto.errors import TrainingError, UserError

log = logging.getLogger("impasto")

POLICIES = ("stop", "warn")
COLLAPSED = 0.05  # of the photos' own contrast or variety
THUMBNAIL = 8  # px: what a picture shows, not its strokes


class Collapse(pl.Callback):
    """Warns where validation pictures have become constant or all the same; stops when they are so twice running.

    Contrast is the pixels' standard deviation in each picture, variety that between the pictures' thumbnails: both as
    shares of what the photos themselves have (`val/contrast`, `val/variety`), so that flat photos make no collapse.
    Measured: the styles that ship have contrasts of 0.60 to 1.0 and varieties of 0.41 to 0.69, random weights 0.55 and
    0.21, networks that have collapsed at most 0.0012 and 0.0002.
    `policy` is `stop`, or `warn` to go on all the same. All ranks decide alike, by all pictures.
    Raises `UserError` for another policy, `TrainingError` to stop.
    """

    def __init__(self, policy: str) -> None:
        if policy not in POLICIES:
            raise UserError(f"guards.on_collapse is {' or '.join(POLICIES)}, not {policy!r}")
        self.policy, self.times = policy, 0
        self.contrasts: list[Tensor] = []
        self.thumbnails: list[Tensor] = []

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Start anew."""
        self.contrasts, self.thumbnails = [], []

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Tensor, *_: Any, **__: Any
    ) -> None:
        """Measure photos and pictures, side by side."""
        pictures = torch.stack([batch, outputs], dim=1).float()  # (batch, 2, 3, height, width)
        self.contrasts.append(pictures.std(dim=(-2, -1)).mean(-1))
        self.thumbnails.append(F.adaptive_avg_pool2d(pictures.flatten(0, 1), THUMBNAIL).reshape(len(batch), 2, -1))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Compare, log and judge."""
        contrasts, thumbnails = _of_all_ranks(torch.cat(self.contrasts)), _of_all_ranks(torch.cat(self.thumbnails))
        contrast, variety = _share(contrasts.mean(0)), _share(thumbnails.std(0, correction=0).mean(-1))
        pl_module.log_dict({"val/contrast": contrast, "val/variety": variety}, sync_dist=True)  # the same on all
        if contrast >= COLLAPSED and variety >= COLLAPSED:
            self.times = 0
            return
        self.times += 1
        now = "not finite" if isnan(contrast + variety) else "constant" if contrast < COLLAPSED else "all the same"
        problem = f"the validation pictures are {now} at {pl_module.images_seen} images (val/pictures in TensorBoard)"
        if self.policy == "stop" and self.times > 1:
            raise TrainingError(
                f"{problem}, twice running: lower schedule.learning_rate={pl_module.schedule.learning_rate:g} or "
                "strength= and start anew, or resume= from a checkpoint before"
            )
        log.warning("%s: the network no longer paints the photo", problem)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"times": self.times}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on, unless a validation has been judged here since that checkpoint."""
        if not self.contrasts:
            self.times = state_dict["times"]


def _share(pair: Tensor) -> float:
    """What the photos have of it that the pictures have; 1 where the photos have none."""
    photos, pictures = pair.tolist()
    return pictures / photos if photos > 0 else 1.0


def _of_all_ranks(values: Tensor) -> Tensor:
    """One after another; each rank has equally many."""
    if not torch.distributed.is_initialized():
        return values
    parts = [torch.empty_like(values) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, values)
    return torch.cat(parts)
