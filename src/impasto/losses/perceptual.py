"""The perceptual loss: frozen VGG19, style targets computed once, named and unweighted terms."""

from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from impasto.errors import UserError
from impasto.losses.functional import feature_reconstruction, gram_matrix, style_reconstruction, total_variation
from impasto.models.vgg import VGG19Features

TERMS = ("content", "style", "tv")


class LossWeights:
    """Weights of the terms in the total; every term has one, so that none is forgotten or misspelt.

    Raises `UserError` (a `ValueError`) for an unknown or missing name or a negative weight.
    """

    def __init__(self, **weights: float) -> None:
        _check_weights("loss.weights", weights)
        if wrong := sorted(set(weights) ^ set(TERMS)):
            problem = "is missing" if wrong[0] in TERMS else "is no term of the loss"
            raise UserError(f"loss.weights.{wrong[0]} {problem}; the terms are {', '.join(TERMS)}")
        self.weights = weights

    def total(self, terms: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """sum_i weight_i * term_i."""
        return torch.stack([weight * terms[name] for name, weight in self.weights.items()]).sum()


class PerceptualLoss(nn.Module):
    """Content and style reconstruction and total variation of a stylized batch.

    `style` is the painting, RGB [0, 1], shape (1, 3, height, width); its Gram matrices are kept.
    `style_layers` and `content_layers` map layer names to their weights within the term.

    Raises `UserError` (a `ValueError`) for an unknown layer, a negative weight or a painting too small.
    Source: Johnson et al. 2016 (arXiv:1603.08155), section 3.2; layers of Gatys et al. 2015.
    """

    def __init__(
        self,
        vgg: VGG19Features,
        style: Float[Tensor, "1 3 height width"],
        style_layers: Mapping[str, float],
        content_layers: Mapping[str, float],
    ) -> None:
        super().__init__()
        _check_weights("loss.style_layers", style_layers)
        _check_weights("loss.content_layers", content_layers)
        self.vgg = vgg
        self.style_layers, self.content_layers = dict(style_layers), dict(content_layers)
        with torch.no_grad():
            for name, features in vgg(style, self.style_layers).items():
                self.register_buffer(f"{name}_gram", gram_matrix(features), persistent=False)

    def forward(
        self, stylized: Float[Tensor, "batch 3 height width"], content: Float[Tensor, "batch 3 height width"]
    ) -> dict[str, Float[Tensor, ""]]:
        """Unweighted terms `content`, `style`, `tv`, and each layer's own, such as `style/relu1_1`."""
        with torch.no_grad():
            targets = self.vgg(content, self.content_layers)
        features = self.vgg(stylized, {**self.content_layers, **self.style_layers})
        content_terms = {
            f"content/{name}": feature_reconstruction(features[name], targets[name]) for name in self.content_layers
        }
        style_terms = {
            f"style/{name}": style_reconstruction(gram_matrix(features[name]), self.get_buffer(f"{name}_gram"))
            for name in self.style_layers
        }
        return {
            "content": _weighted(content_terms.values(), self.content_layers.values()),
            "style": _weighted(style_terms.values(), self.style_layers.values()),
            "tv": total_variation(stylized),
            **content_terms,
            **style_terms,
        }


def _weighted(terms: Iterable[Tensor], weights: Iterable[float]) -> Tensor:
    return torch.stack([weight * term for term, weight in zip(terms, weights, strict=True)]).sum()


def _check_weights(option: str, weights: Mapping[str, float]) -> None:
    if not weights:
        raise UserError(f"{option} names nothing")
    for name, weight in weights.items():
        if not (isinstance(weight, int | float) and 0 <= weight < float("inf")):
            raise UserError(f"{option}.{name} is a number from 0 on, not {weight!r}")
