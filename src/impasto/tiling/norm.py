"""Instance norm of a picture that is seen in parts."""

import copy

from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn import functional as F

from impasto.models.moments import Moments
from impasto.models.transformer_net import ConvNorm, InstanceNorm2d, TransformerNet


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
    """The same network, weights shared, with norms of its own: another thread may use `net` at the same time."""
    twin = copy.deepcopy(net, {id(parameter): parameter for parameter in net.parameters()})
    for layer in twin.modules():
        if isinstance(layer, ConvNorm):
            layer.norm = PictureNorm(layer.norm)
    return twin
