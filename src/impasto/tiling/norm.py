"""Instance norm of a picture that is seen in parts."""

from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn import functional as F

from impasto.models.layers import InstanceNorm2d
from impasto.models.moments import Moments
from impasto.models.transformer_net import TransformerNet, with_norms


class PictureNorm(InstanceNorm2d):
    """An instance norm with the statistics of a whole picture, of which it sees tiles.

    Where nobody sets the `statistics` (mean and variance), its first input does.
    """

    def __init__(self, norm: InstanceNorm2d) -> None:
        super().__init__(len(norm.weight), norm.eps)
        self.weight, self.bias = norm.weight, norm.bias
        self.statistics: tuple[Float32[Tensor, " channels"], Float32[Tensor, " channels"]] | None = None

    def forward(
        self, features: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Normalise with the picture's statistics."""
        if self.statistics is None:
            self.statistics = Moments([features]).mean_and_variance()
        return F.batch_norm(features, *self.statistics, self.weight, self.bias, eps=self.eps)


def with_picture_norms(net: TransformerNet) -> TransformerNet:
    """The network with norms of a whole picture."""
    return with_norms(net, PictureNorm)
