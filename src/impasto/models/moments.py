"""Mean and variance of more numbers than float32 adds up."""

from collections.abc import Iterable

import torch
from jaxtyping import Float, Float32
from torch import Tensor


class Moments:
    """Mean and variance of each channel, of features that come in parts."""

    def __init__(self, parts: Iterable[Float[Tensor, "batch channels _ _"]] = ()) -> None:
        self.count = 0
        self.sums: Tensor | float = 0.0  # of the features and of their squares, (2, channels)
        for part in parts:
            self.add(part)

    def add(self, features: Float[Tensor, "batch channels height width"]) -> None:
        """Count these in: in float64, as millions of pixels add up."""
        wide_type = torch.float32 if features.device.type == "mps" else torch.float64  # which MPS lacks
        for rows in torch.split(features, 8, dim=2):  # so few stay in the processor's cache: 6 times faster
            wide = rows.permute(0, 2, 3, 1).flatten(0, 2).to(wide_type)
            self.count += len(wide)
            self.sums = self.sums + torch.stack([wide.sum(0), wide.square().sum(0)])

    def mean_and_variance(self) -> tuple[Float32[Tensor, " channels"], Float32[Tensor, " channels"]]:
        """Of all that was added."""
        assert isinstance(self.sums, Tensor), "nothing was added"
        mean, square = self.sums / self.count
        return mean.float(), (square - mean.square()).clamp(min=0).float()
