"""How long a run is, its optimizer and its learning rate."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import cos, pi
from typing import Any

import torch
from torch import nn

from impasto.errors import UserError
from impasto.soap import SOAP

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "soap": SOAP}


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: durations count images, so that batch size does not change their meaning.

    The learning rate rises linearly over the first `warmup` images, then falls along half a cosine to
    `final` times its peak at the last image (`final` = 1: constant).
    `optimizer` is adam, as in the paper, or soap, which learns more from an image.

    Raises `UserError` for a value out of its range.
    """

    images: int
    learning_rate: float = 1e-3
    warmup: int = 0
    final: float = 1.0
    optimizer: str = "adam"

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.images < 1 or self.warmup < 0:
            raise UserError(f"schedule.images={self.images} should be at least 1, schedule.warmup={self.warmup} 0")
        if not (self.learning_rate > 0 and 0 <= self.final <= 1):
            raise UserError(
                f"schedule.learning_rate={self.learning_rate} should be above 0, schedule.final={self.final} in 0…1"
            )
        if self.optimizer not in OPTIMIZERS:
            raise UserError(f"schedule.optimizer={self.optimizer} should be {' or '.join(OPTIMIZERS)}")

    def optimize(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer of a run's parameters."""
        return OPTIMIZERS[self.optimizer](parameters, lr=self.learning_rate)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Schedule":
        """What a `schedule` configuration describes; `name` is said for the reader. Raises `UserError`."""
        return cls(**{key: value for key, value in config.items() if key != "name"})

    def rate(self, images_seen: int) -> float:
        """Learning rate of the step that starts after `images_seen` images."""
        progress = min(1.0, max(0, images_seen - self.warmup) / max(1, self.images - self.warmup))
        decay = self.final + (1 - self.final) * (1 + cos(pi * progress)) / 2
        return self.learning_rate * decay * min(1.0, (images_seen + 1) / (self.warmup + 1))
