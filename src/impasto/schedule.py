"""How long a run is, and its learning rate."""

from dataclasses import dataclass
from math import cos, pi

from impasto.errors import UserError

HIGHEST = 1e30  # learning rate, which float32 holds


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
        for key, fits, range_ in (
            ("images", self.images >= 1, "at least 1"),
            ("warmup", self.warmup >= 0, "at least 0"),
            ("learning_rate", 0 < self.learning_rate <= HIGHEST, f"above 0 and at most {HIGHEST:g}"),
            ("final", 0 <= self.final <= 1, "in 0…1"),
        ):
            if not fits:
                raise UserError(f"schedule.{key}={getattr(self, key)} should be {range_}")

    def rate(self, images_seen: int) -> float:
        """Learning rate of the step that starts after `images_seen` images."""
        progress = min(1.0, max(0, images_seen - self.warmup) / max(1, self.images - self.warmup))
        decay = self.final + (1 - self.final) * (1 + cos(pi * progress)) / 2
        return self.learning_rate * decay * min(1.0, (images_seen + 1) / (self.warmup + 1))
