"""How long a run is, and its learning rate."""

from dataclasses import dataclass
from math import cos, pi

from impasto.errors import UserError


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: durations count images, so that batch size does not change their meaning.

    The learning rate rises linearly over the first `warmup` images, then falls along half a cosine to
    `final` times its peak at the last image (`final` = 1: constant).

    Raises `UserError` for a value out of its range.
    """

    images: int
    learning_rate: float = 1e-3
    warmup: int = 0
    final: float = 1.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.images < 1 or self.warmup < 0:
            raise UserError(f"schedule.images={self.images} should be at least 1, schedule.warmup={self.warmup} 0")
        if not (self.learning_rate > 0 and 0 <= self.final <= 1):
            raise UserError(
                f"schedule.learning_rate={self.learning_rate} should be above 0, schedule.final={self.final} in 0…1"
            )

    def rate(self, images_seen: int) -> float:
        """Learning rate of the step that starts after `images_seen` images."""
        progress = min(1.0, max(0, images_seen - self.warmup) / max(1, self.images - self.warmup))
        decay = self.final + (1 - self.final) * (1 + cos(pi * progress)) / 2
        return self.learning_rate * decay * min(1.0, (images_seen + 1) / (self.warmup + 1))
