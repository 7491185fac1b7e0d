"""Loss terms as pure functions of features and images; every one is a mean, so sizes compare."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def gram_matrix(features: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels channels"]:
    """Correlations between feature channels: texture without layout.

    G[b,c,d] = sum_hw F[b,c,h,w] * F[b,d,h,w] / (C*H*W), per image, in float32 whatever the input's
    dtype and autocast; features are scaled before the product, so that no partial sum grows large.

    Source: Johnson et al. 2016 (arXiv:1603.08155), section 3.2.
    """
    with torch.autocast(features.device.type, enabled=False):
        flat = features.flatten(2).float()
        flat = flat * (flat.shape[1] * flat.shape[2]) ** -0.5
        return flat @ flat.mT


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
