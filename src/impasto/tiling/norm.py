"""Instance norm of a picture that is seen in parts."""

from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn import functional as F

from impasto.models.layers import InstanceNorm2d
from impasto.models.moments import Moments
from impasto.models.transformer_net import TransformerNet, with_norms


class PictureNorm(InstanceNorm2d):
    """An instance norm with the statistics of a whole picture, of which it sees tiles.

    Where nobody sets the `statistics` (mean and variance) and `pixels`, its first input does.
    """

    def __init__(self, channels: int, eps: float, side: int | None) -> None:
        super().__init__(channels, eps, side)
        self.statistics: tuple[Float32[Tensor, " channels"], Float32[Tensor, " channels"]] | None = None
        self.pixels = 0

    def measure(self, moments: Moments) -> None:
        """Set the statistics."""
        self.statistics, self.pixels = moments.mean_and_variance(), moments.count

    def forward(
        self, features: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Normalise with the picture's statistics."""
        if self.statistics is None:
            self.measure(Moments([features]))
        assert self.statistics is not None
        return F.batch_norm(features, *self.statistics, *self.affine(self.pixels), eps=self.eps)


def with_picture_norms(net: TransformerNet) -> TransformerNet:
    """The network with norms of a whole picture."""
    return with_norms(net, PictureNorm.sharing)
