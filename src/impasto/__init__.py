"""Feed-forward style transfer: train a network per painting, stylize any image in one pass.

From Johnson et al. 2016 (arXiv:1603.08155) to the code:

- image transformation network: `impasto.models.transformer_net.TransformerNet`
- loss network: `impasto.models.vgg.VGG19Features`, with Oxford's original weights; torchvision's or a file by `vgg=`
- feature and style reconstruction, Gram matrix, total variation: `impasto.losses.functional`
- the terms of one batch: `impasto.losses.perceptual.PerceptualLoss`; their sum, λ_c ℓ_feat + λ_s ℓ_style + λ_TV ℓ_TV:
  `impasto.losses.objective.Objective`; the weights: `configs/loss`, the papers' by `loss=gatys` and `loss=johnson`
- figure 5: `impasto.evaluation.worth`; its yardstick, Gatys et al.'s optimisation: `impasto.optimization`
- training: `impasto.module.StyleTransferModule`, `impasto.training`

Differences from the paper:

- VGG19 with the layers of Gatys et al. 2015 (arXiv:1508.06576), content relu4_2, style relu1_1 … relu5_1, for VGG16;
  every term is relative to what unstylized photos have, and a mean where the paper sums
- instance norm (Ulyanov et al. 2016, arXiv:1607.08022) for batch norm
- nearest-neighbour upsampling for fractional strides
- instance norm's weights depend on the picture's size (`model.sized`): large photos are smoother, pixel for pixel
- noise beside the photo, waves of the place (`model.waves`): without, large even areas are painted flat
- reflection padding in every layer, and of 8 px around the photo that are cut off (`model.margin`)
- a term against patterns that repeat with the upsampling's grid of 4 px
- gradients back from pure black and white, where tanh has none
- a cosine learning rate
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from impasto.stylizer import Stylizer as Stylizer

__version__ = "0.1.0"
__all__ = ["Stylizer", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Stylizer":  # which takes seconds to import: only for those who use it
        from impasto.stylizer import Stylizer

        return Stylizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
