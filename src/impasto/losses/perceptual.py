"""The perceptual loss: frozen VGG19, style targets computed once, named and unweighted terms."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from impasto.errors import UserError
from impasto.losses.functional import (
    feature_reconstruction,
    gram_matrix,
    grid_pattern,
    style_reconstruction,
    total_variation,
)
from impasto.models.vgg import VGG19Features

TERMS = ("content", "style", "tv", "grid")


class LossWeights:
    """Weights of the terms in the total; every term has one, so that none is forgotten or misspelt.

    Raises `UserError` (a `ValueError`) for an unknown or missing name, a negative weight, and where all are 0.
    """

    def __init__(self, **weights: float) -> None:
        _check_weights("loss.weights", weights)
        if wrong := sorted(set(weights) ^ set(TERMS)):
            problem = "is missing" if wrong[0] in TERMS else "is no term of the loss"
            raise UserError(f"loss.weights.{wrong[0]} {problem}; the terms are {', '.join(TERMS)}")
        if not any(weights.values()):
            raise UserError("loss.weights are all 0, which leaves nothing to minimise: say one above 0")
        self.weights = weights

    def total(self, terms: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """sum_i weight_i * term_i."""
        return torch.stack([weight * terms[name] for name, weight in self.weights.items()]).sum()


class PerceptualLoss(nn.Module):
    """Content and style reconstruction, total variation and grid pattern of a stylized batch.

    `style` is the painting, RGB [0, 1], shape (1, 3, height, width); its Gram matrices are kept.
    `style_layers` and `content_layers` map layer names to their weights within the term.
    With `reference`, a batch of photos, every term is relative: a layer's style distance is 1 for these photos
    unstylized, a layer's content distance is 1 between one photo and another, total variation and grid pattern are 1
    for the photos' own. So weights mean the same for any painting and any VGG. Without, terms are the papers'.
    `content_reduction` is `mean`, or `sum` over channels and pixels as Gatys et al. have it, which grows with the
    picture and so is not for relative terms.

    Raises `UserError` (a `ValueError`) for an unknown layer, a negative weight or a painting too small.
    Source: Johnson et al. 2016 (arXiv:1603.08155), section 3.2; layers of Gatys et al. 2015.
    """

    def __init__(
        self,
        vgg: VGG19Features,
        style: Float[Tensor, "1 3 height width"],
        style_layers: Mapping[str, float],
        content_layers: Mapping[str, float],
        reference: Float[Tensor, "photos 3 _ _"] | None = None,
        content_reduction: str = "mean",
    ) -> None:
        super().__init__()
        _check_weights("loss.style_layers", style_layers)
        _check_weights("loss.content_layers", content_layers)
        if content_reduction not in ("mean", "sum"):
            raise UserError(f"loss.content_reduction is mean or sum, not {content_reduction!r}")
        if content_reduction == "sum" and reference is not None:
            raise UserError("loss.content_reduction=sum grows with the picture, and is for loss.relative=false")
        self.vgg = vgg
        self.style_layers, self.content_layers = dict(style_layers), dict(content_layers)
        self.content_reduction = content_reduction
        device = next(vgg.buffers()).device  # of another objective's, a GPU maybe
        with torch.no_grad():
            for name, features in vgg(style.to(device), self.style_layers).items():
                self.register_buffer(f"{name}_gram", gram_matrix(features), persistent=False)
        self.scales: dict[str, float] = {}
        if reference is not None:
            reference = reference.to(device)
            with torch.no_grad():
                features = vgg(reference, {**self.content_layers, **self.style_layers})
                # each photo beside the next one
                others = {name: features[name].roll(1, 0) for name in self.content_layers}
                terms = self._raw(reference, features, others)
            self.scales = {name: float(term) for name, term in terms.items()}
            if flat := [name for name, scale in self.scales.items() if not scale > 0]:
                raise UserError(f"{flat[0]} is 0 for photos: nothing to be relative to")

    def targets(self, content: Float[Tensor, "batch 3 height width"]) -> dict[str, Tensor]:
        """The photos' features, by layer, that those of the stylized batch are compared with."""
        with torch.no_grad():
            features: dict[str, Tensor] = self.vgg(content, self.content_layers)
        return features

    def forward(
        self,
        stylized: Float[Tensor, "batch 3 height width"],
        content: Float[Tensor, "batch 3 height width"],
        targets: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Float[Tensor, ""]]:
        """Unweighted terms `content`, `style`, `tv`, `grid`, and each layer's own, such as `style/relu1_1`.

        `targets` of the content spare a pass over it.
        """
        targets = self.targets(content) if targets is None else targets
        features = self.vgg(stylized, {**self.content_layers, **self.style_layers})
        terms = self._raw(stylized, features, targets)
        terms = {name: term / self.scales.get(name, 1.0) for name, term in terms.items()}
        return {
            "content": _weighted(terms, "content", self.content_layers),
            "style": _weighted(terms, "style", self.style_layers),
            **terms,
        }

    def _raw(self, image: Tensor, features: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The papers' terms, layer by layer."""
        terms = {"tv": total_variation(image), "grid": grid_pattern(image)}
        for name in self.content_layers:
            size = features[name][0].numel() if self.content_reduction == "sum" else 1
            terms[f"content/{name}"] = feature_reconstruction(features[name], targets[name]) * size
        for name in self.style_layers:
            target = self.get_buffer(f"{name}_gram")
            terms[f"style/{name}"] = style_reconstruction(gram_matrix(features[name]), target)
        return terms


def _weighted(terms: Mapping[str, Tensor], term: str, layers: Mapping[str, float]) -> Tensor:
    return torch.stack([weight * terms[f"{term}/{name}"] for name, weight in layers.items()]).sum()


def _check_weights(option: str, weights: Mapping[str, float]) -> None:
    if not weights:
        raise UserError(f"{option} names nothing")
    for name, weight in weights.items():
        if not (isinstance(weight, int | float) and 0 <= weight < float("inf")):
            raise UserError(f"{option}.{name} is a number from 0 on, not {weight!r}")
