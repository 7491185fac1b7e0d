"""What training, the optimiser and the scores all minimise: loss terms and their weights, from a configuration."""

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from rich.filesize import decimal
from torch import Tensor, nn

from impasto.assets import PHOTOS
from impasto.errors import UserError
from impasto.image import read_image, resize
from impasto.losses.perceptual import LossWeights, PerceptualLoss
from impasto.memory import free_memory
from impasto.models.vgg import VGG19Features
from impasto.tensors import to_tensor

log = logging.getLogger("impasto")

REFERENCE_SIZE = 192  # px, of the photos that relative terms are relative to
SMALLEST = 16  # px: below, nothing is left for VGG19's deepest layer
LARGEST = 4096  # px of a painting's short side
# Peak of a process on a CPU less what it held before, one pass to relu5_1 in float32, torch 2.15, 1,000 px of short
# side: 810 bytes a pixel, and 1,330 where `keep_freed_memory` holds on to what is freed.
PASS_BYTES = 1400
EVEN = 8  # levels between the darkest and the lightest of a channel, below which there are no strokes
BLURRED_FROM = 2.0  # times that a small painting is enlarged, from which on it is worth a warning


class Objective(nn.Module):
    """sum_i weight_i * term_i of a stylized batch, with every term by name."""

    def __init__(self, loss: PerceptualLoss, weights: LossWeights) -> None:
        super().__init__()
        self.loss, self.weights = loss, weights

    def forward(
        self, stylized: Float[Tensor, "batch 3 height width"], content: Float[Tensor, "batch 3 height width"]
    ) -> dict[str, Float[Tensor, ""]]:
        """The terms of `PerceptualLoss`, unweighted, and `total`."""
        return self._totalled(self.loss(stylized, content))

    def of(self, content: Float[Tensor, "batch 3 height width"]) -> Callable[[Tensor], dict[str, Float[Tensor, ""]]]:
        """What `forward` does, for one photo over and over: its features are computed once."""
        targets = self.loss.targets(content)
        return lambda stylized: self._totalled(self.loss(stylized, content, targets))

    def _totalled(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"total": self.weights.total(terms), **terms}

    def at(self, strength: float) -> "Objective":
        """The same terms, shared, with the style's weight times `strength`. Raises `UserError`."""
        check_strength(strength)
        weights = self.weights.weights
        return Objective(self.loss, LossWeights(**{**weights, "style": weights["style"] * strength}))


def build_objective(
    painting: Image.Image, loss: Mapping[str, Any], vgg: Mapping[str, Any] | VGG19Features, strength: float
) -> Objective:
    """The objective that a `loss` and a `vgg` configuration describe, for a painting at its stroke size.

    `vgg` may also be the network of another objective with the same layers. `strength` multiplies the style's weight:
    against content it counts about alike for any painting, from 128 to 256 px of short side; at 512 px, where features
    differ less from photo to photo, about one and a half times as much.
    Raises `UserError` for a wrong value, and where a CPU's memory is too little for the painting.
    """
    check_strength(strength)  # before seconds of work
    style_layers, content_layers = loss["style_layers"] or {}, loss["content_layers"] or {}
    _check_memory(painting)
    weights = LossWeights(**loss["weights"])
    network = vgg if isinstance(vgg, VGG19Features) else VGG19Features([*style_layers, *content_layers], **vgg)
    if not loss["relative"] and network.preprocessing == "torchvision":
        log.warning("the papers' weights are for the features of vgg=oxford, which are larger: weigh anew, or take it")
    perceptual = PerceptualLoss(
        network,
        to_tensor(painting),
        style_layers,
        content_layers,
        reference_photos() if loss["relative"] else None,
        loss["content_reduction"],
    )
    return Objective(perceptual.to(memory_format=torch.channels_last), weights).at(strength)


def _check_memory(painting: Image.Image) -> None:
    """Raises `UserError` where its pass would take more than is free: Linux would end the process without a word."""
    width, height = painting.size
    needed, free = PASS_BYTES * width * height, free_memory(torch.device("cpu"))
    if needed > free:
        fits = int(min(painting.size) * (max(0, free) / needed) ** 0.5)
        mend = f"a stroke of {fits} px fits" if fits >= SMALLEST else "end other programs"
        taken = f"the painting at {width}×{height} px takes {decimal(needed)} of memory"
        raise UserError(f"{taken}, and {decimal(free)} are free: {mend}")


def build_objectives(
    paintings: Iterable[Image.Image],
    loss: Mapping[str, Any],
    vgg: Mapping[str, Any],
    strength: float,
    device: torch.device,
) -> list[Objective]:
    """`build_objective` for each painting on the device, all with one VGG19."""
    objectives = list[Objective]()
    shared: Mapping[str, Any] | VGG19Features = vgg
    for painting in paintings:
        objectives.append(build_objective(painting, loss, shared, strength).to(device))
        shared = objectives[0].loss.vgg
    return objectives


def read_painting(path: str | os.PathLike[str], stroke: int) -> Image.Image:
    """A painting at `stroke` px of short side: the network's strokes are as large as those of this picture.

    Enlarges a smaller one, with a warning where that blurs it. Raises `UserError`.
    """
    check_stroke(stroke)
    painting = read_image(path, stroke)
    factor = stroke / min(painting.size)
    width, height = (round(side * factor) for side in painting.size)
    if width * height > 2 * LARGEST**2:
        raise UserError(f"{str(path)!r} has {width}×{height} px at stroke={stroke}: crop it, or lower stroke")
    if factor >= BLURRED_FROM:
        width, height = painting.size
        log.warning("the painting has %d×%d px: enlarged %.1f times, its strokes are blurred", width, height, factor)
    if np.ptp(np.asarray(painting), axis=(0, 1)).max() < EVEN:
        log.warning("%r is of one colour all over: there is no style in it", str(path))
    return resize(painting, factor) if factor > 1 else painting


def check_strength(strength: float) -> None:
    """Raises `UserError` for one out of range."""
    if not (isinstance(strength, int | float) and 0 < strength < float("inf")):
        raise UserError(f"strength={strength} should be above 0; 1 is the default, 2 twice the style's weight")


def check_stroke(stroke: int) -> None:
    """Raises `UserError` for one out of range."""
    if not SMALLEST <= stroke <= LARGEST:
        raise UserError(f"stroke={stroke} should be in {SMALLEST}…{LARGEST} px")


@cache
def reference_photos() -> Float[Tensor, "photos 3 height width"]:
    """The photos that ship, their middles at `REFERENCE_SIZE`: the same for every painting, data set and machine."""
    photos = [to_tensor(read_image(path, REFERENCE_SIZE)) for path in sorted(PHOTOS.glob("*.jpg"))]
    tops = [((photo.shape[-2] - REFERENCE_SIZE) // 2, (photo.shape[-1] - REFERENCE_SIZE) // 2) for photo in photos]
    return torch.cat(
        [
            photo[..., top : top + REFERENCE_SIZE, left : left + REFERENCE_SIZE]
            for photo, (top, left) in zip(photos, tops, strict=True)
        ]
    )
