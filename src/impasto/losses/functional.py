"""Loss terms as pure functions of features and images; every one is a mean, so sizes compare."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def gram_matrix(features: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels channels"]:
    """Correlations between feature channels: texture without layout.

    G[b,c,d] = sum_hw F[b,c,h,w] * F[b,d,h,w] / (C*H*W), per image, in float32 whatever the input's
    dtype and autocast.

    Source: Johnson et al. 2016 (arXiv:1603.08155), section 3.2.
    """
    with torch.autocast(features.device.type, enabled=False):
        gram: Tensor = _GramMatrix.apply(features)
        return gram


class _GramMatrix(torch.autograd.Function):
    """dL/dF = F (dL/dG + dL/dG^T) / (C*H*W): one product where autograd makes two and adds them."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        ctx.save_for_backward(features)
        rows = _rows(features).float()
        return torch.baddbmm(rows.new_zeros(()), rows.mT, rows, beta=0, alpha=1 / features[0].numel())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (features,) = ctx.saved_tensors
        symmetric = (gradients[0] + gradients[0].mT) / features[0].numel()
        # in the features' dtype, to which the result is rounded anyway; but the factor is below float16's least number
        dtype = torch.float32 if features.dtype == torch.float16 else features.dtype
        rows = (_rows(features).to(dtype) @ symmetric.to(dtype)).to(features.dtype)
        return rows.unflatten(1, features.shape[2:]).permute(0, 3, 1, 2)


def _rows(features: Tensor) -> Tensor:
    """(batch, channels, height, width) → (batch, height * width, channels), without a copy where channels are last."""
    return features.permute(0, 2, 3, 1).flatten(1, 2)


def style_reconstruction(
    gram: Float[Tensor, "batch channels channels"], target: Float[Tensor, "#batch channels channels"]
) -> Float[Tensor, ""]:
    """mean_bcd (G[b,c,d] - T[c,d])^2; `target` broadcasts over the batch.

    Differs: the paper sums over channels; the mean keeps layers of 64 and 512 channels comparable.
    Source: Johnson et al. 2016 (arXiv:1603.08155), section 3.2.
    """
    return (gram - target).square().mean()


def feature_reconstruction(
    features: Float[Tensor, "batch channels height width"], target: Float[Tensor, "batch channels height width"]
) -> Float[Tensor, ""]:
    """mean_bchw (F[b,c,h,w] - T[b,c,h,w])^2, in float32.

    Source: Johnson et al. 2016 (arXiv:1603.08155), equation 2.
    """
    return F.mse_loss(features.float(), target.float())


def total_variation(image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, ""]:
    """Mean (I[h+1,w] - I[h,w])^2 + mean (I[h,w+1] - I[h,w])^2: 0 for a flat image, 2 for a checkerboard of 0 and 1.

    Source: Johnson et al. 2016 (arXiv:1603.08155), section 3.2, with the exponent 2 of Mahendran and Vedaldi 2015.
    Differs: means for sums. A side of one pixel has no neighbours and adds 0.
    """
    image = image.float()
    vertical, horizontal = image.diff(dim=-2), image.diff(dim=-1)
    return sum((d.square().mean() for d in (vertical, horizontal) if d.numel()), image.new_zeros(()))


def grid_pattern(image: Float[Tensor, "batch channels height width"], period: int = 4) -> Float[Tensor, ""]:
    """Variance of the means of the `period`² interleaved pictures that each take every `period`-th row and column.

    0 where no pattern repeats with the grid on which a network of stride `period` upsamples; such a weave costs
    style layers nothing, and eyes much. A side below `period` has no grid and adds 0.
    """
    height, width = (side // period for side in image.shape[-2:])
    if not (height and width):
        return image.float().sum() * 0
    whole = image[..., : height * period, : width * period].float()
    means = whole.reshape(*whole.shape[:2], height, period, width, period).mean((2, 4))
    return (means - means.mean((2, 3), keepdim=True)).square().mean()
