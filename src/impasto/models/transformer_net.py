"""The image transformation network of Johnson et al. 2016, with instance norm.

Source: Johnson et al. (arXiv:1603.08155) and its supplement (layers).
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from impasto.errors import UserError
from impasto.models.layers import GROWTH, BlockConv2d, InstanceNorm2d, ReflectConv2d, UpsampleConv2d, Waves


class ConvNorm(nn.Module):
    """[nearest-neighbour upsampling →] reflection-padded convolution → instance norm [→ ReLU]."""

    def __init__(self, conv: ReflectConv2d, *, relu: bool = True, side: int | None = None) -> None:
        super().__init__()
        self.conv = conv
        self.norm = InstanceNorm2d(conv.out_channels, side=side)
        self.relu = relu

    def forward(
        self, features: Float[Tensor, "batch in_channels height width"]
    ) -> Float[Tensor, "batch out_channels new_height new_width"]:
        """Height and width become those of the convolution."""
        return self.normed(self.conv(features))

    def normed(
        self, features: Float[Tensor, "batch out_channels height width"]
    ) -> Float[Tensor, "batch out_channels height width"]:
        """What follows the convolution: instance norm [→ ReLU]."""
        features = self.norm(features)
        return F.relu_(features) if self.relu else features


class ResidualBlock(nn.Module):
    """x + norm(conv(relu(norm(conv(x))))), without a ReLU after the sum (Gross and Wilber 2016)."""

    def __init__(self, channels: int, side: int | None = None) -> None:
        super().__init__()
        self.conv1 = ConvNorm(ReflectConv2d(channels, channels, 3), side=side)
        self.conv2 = ConvNorm(ReflectConv2d(channels, channels, 3), relu=False, side=side)

    def forward(
        self, features: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Keeps the shape."""
        return features + self.conv2(self.conv1(features))


LARGEST_MARGIN = 64  # px
SIZED_FROM = 256  # px, side of the square for which sized norms have their plain weights
LEAST_SLOPE = 0.1  # of the output's back from black and white, in training; at grey it is 0.5


class TransformerNet(nn.Module):
    """Stylizes any image in one forward pass: RGB [0, 1] in, RGB [0, 1] out, same height and width.

    `width` is the number of channels at full resolution, `depth` the number of residual blocks;
    the default has the paper's 1,679,235 parameters. Receptive field: 111 px at depth 5.
    `output` brings the last layer's values to [0, 1]: tanh(x) / 2 + 1/2, or clamp for networks trained without.
    `margin`, px, is how much more is stylized on each side, by reflection, and cut off: trained on a photo's very end,
    networks paint spots and stripes there, which please VGG's padding. So they learn from its `interior` alone.
    `sized` has the norms depend on a picture's size: large photos are smoother, pixel for pixel.
    `waves`, added before the residual blocks, tell the places of an even area apart.

    Differs from the paper: instance for batch norm; nearest-neighbour upsampling for fractional
    strides; reflection padding in every layer, besides the margin, for 40 px once, so blocks keep their size; in
    training, a slope back from black and white where tanh has none.
    """

    multiple = 4  # two stride-2 convolutions
    minimum = 16  # px, to which smaller ones are extended; the layers themselves take 8

    def __init__(
        self,
        width: int = 32,
        depth: int = 5,
        output: str = "tanh",
        margin: int = 0,
        sized: bool = False,
        waves: bool = False,
    ) -> None:
        super().__init__()
        if width < 1 or depth < 0:
            raise UserError(f"model.width={width} should be at least 1, model.depth={depth} at least 0")
        if output not in ("tanh", "clamp"):
            raise UserError(f"model.output={output} should be tanh or clamp")
        if type(margin) is not int or not 0 <= margin <= LARGEST_MARGIN:
            raise UserError(f"model.margin={margin} should be a whole number in 0…{LARGEST_MARGIN} px")
        for name, flag in (("sized", sized), ("waves", waves)):
            if not isinstance(flag, bool):
                raise UserError(f"model.{name}={flag} should be true or false")
        self.arguments: dict[str, int | str] = {"width": width, "depth": depth}
        if output != "tanh":  # unsaid in files from before there was a choice
            self.arguments["output"] = output
        if margin:
            self.arguments["margin"] = margin
        if sized:
            self.arguments["sized"] = sized
        if waves:
            self.arguments["waves"] = waves
        self.output, self.margin = output, margin
        full, half, quarter = (SIZED_FROM // stride if sized else None for stride in (1, 2, 4))
        self.encoder = nn.Sequential(
            ConvNorm(ReflectConv2d(3, width, 9), side=full),
            ConvNorm(ReflectConv2d(width, 2 * width, 3, stride=2), side=half),
            ConvNorm(ReflectConv2d(2 * width, 4 * width, 3, stride=2), side=quarter),
        )
        self.waves = Waves(4 * width) if waves else None
        self.residual = nn.Sequential(*(ResidualBlock(4 * width, quarter) for _ in range(depth)))
        self.decoder = nn.Sequential(
            ConvNorm(UpsampleConv2d(4 * width, 2 * width), side=half),
            ConvNorm(UpsampleConv2d(2 * width, width), side=full),
            BlockConv2d(width, 3, 9),
        )

    def learn_growth(self, learn: bool) -> None:
        """Whether sized norms learn what sizes make of them: from one size alone, they cannot."""
        for name, parameter in self.named_parameters():
            if name.endswith(GROWTH):
                parameter.requires_grad_(learn)

    def forward(
        self,
        content: Float[Tensor, "batch 3 height width"],
        interior: bool = False,
        place: Int[Tensor, "2"] | None = None,
    ) -> Float[Tensor, "batch 3 new_height new_width"]:
        """Stylize a batch; any height and width from 1 px on.

        Of the `interior` the photo itself is the margin: the result is smaller by it on each side.
        `place` is where in the waves the batch lies, row and column in units of `multiple` px; (0, 0) if not given.
        """
        if interior:
            return self.inside(self._with_reflection(content, 0, place))
        return self._with_reflection(content, self.margin, place)

    def inside(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 new_height new_width"]:
        """A photo's, or its picture's, `interior`: what is left without the margin on each side."""
        height, width = image.shape[-2:]
        return image[..., self.margin : height - self.margin, self.margin : width - self.margin]

    def _with_reflection(self, content: Tensor, margin: int, place: Tensor | None) -> Tensor:
        height, width = content.shape[-2:]
        if not torch.compiler.is_exporting():  # when one does not ask: the answer would hold for all sizes
            below, right = (int(self._extended(size, margin)) - size - margin for size in (height, width))
            if max(margin, below) < height and max(margin, right) < width:  # in the memory format that content has
                if margin or below or right:
                    content = F.pad(content, (margin, right, margin, below), mode="reflect")
                return self.stylize_divisible(content, place)[..., margin : margin + height, margin : margin + width]
        device = content.device
        rows, columns = (self.reflection(size, margin, device) for size in (height, width))
        stylized = self.stylize_divisible(content.index_select(2, rows).index_select(3, columns), place)
        # indexed, not sliced: torch.export would make it an error that all of a picture is taken
        rows, columns = (torch.arange(size, device=device) + margin for size in (height, width))
        return stylized.index_select(2, rows).index_select(3, columns)

    def stylize_divisible(
        self, content: Float[Tensor, "batch 3 height width"], place: Int[Tensor, "2"] | None = None
    ) -> Float[Tensor, "batch 3 height width"]:
        """Stylize a batch whose sides are multiples of `multiple`, and at least `minimum`."""
        features = self.encoder(content)
        if self.waves is not None:
            features = self.waves(features, place)
        return self.to_rgb(self.decoder(self.residual(features)))

    def to_rgb(self, features: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
        """The decoder's output brought to [0, 1], in float32: bfloat16 has only 128 steps between 0.5 and 1."""
        features = features.float()
        if self.output == "clamp":
            return features.clamp(0, 1)
        if self.training:
            rgb: Tensor = _Recovering.apply(features)
            return rgb
        return torch.tanh(features) * 0.5 + 0.5

    def _extended(self, size: int | torch.SymInt, margin: int) -> int | torch.SymInt:
        """The size with margins that the strides divide and the reflections allow."""
        return torch.sym_max((size + 2 * margin + self.multiple - 1) // self.multiple * self.multiple, self.minimum)

    def reflection(self, size: int | torch.SymInt, margin: int, device: torch.device) -> Tensor:
        """Indices that extend `size` pixels by reflection: by `margin` on both sides, then to what the strides divide.

        Differs from `F.pad(mode="reflect")`: reflects as often as it takes, so that one pixel will do.
        """
        there = torch.arange(size, device=device)
        wave = torch.cat([there, there[1:-1].flip(0)])
        places = torch.arange(self._extended(size, margin), device=device) - margin
        return wave.repeat(self.minimum + margin)[places.abs()]  # the wave is even, too


class _Recovering(torch.autograd.Function):
    """tanh(x) / 2 + 1/2, whose slope back from black and white is `LEAST_SLOPE` at least.

    tanh has next to none there: what a network once paints black, as round spots in dark and even areas, stays black.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        squashed = torch.tanh(features)
        ctx.save_for_backward(squashed)
        return squashed * 0.5 + 0.5

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (squashed,), (gradient,) = ctx.saved_tensors, gradients
        slope = (1 - squashed * squashed) * 0.5
        return gradient * torch.where(gradient * squashed > 0, slope.clamp(min=LEAST_SLOPE), slope)


def with_norms(net: TransformerNet, norm: Callable[[InstanceNorm2d], InstanceNorm2d]) -> TransformerNet:
    """The same network, weights shared, with other norms in place of its own: `net` may be in use meanwhile."""
    twin = copy.deepcopy(net, {id(parameter): parameter for parameter in net.parameters()})
    for layer in twin.modules():
        if isinstance(layer, ConvNorm):
            layer.norm = norm(layer.norm)
    return twin
