"""The image transformation network of Johnson et al. 2016, with instance norm.

Sources: Johnson et al. (arXiv:1603.08155) and its supplement (layers); Ulyanov et al.
(arXiv:1607.08022, instance norm); Odena et al. 2016, "Deconvolution and Checkerboard Artifacts"
(nearest-neighbour upsampling + convolution).
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from impasto.errors import UserError
from impasto.models.moments import Moments


class InstanceNorm2d(nn.Module):
    """y = weight * (x - mean) / sqrt(var + eps) + bias, mean and variance over each channel's pixels.

    Statistics in float32 whatever the input's dtype. Differs from `nn.InstanceNorm2d`: it keeps the
    memory format (the eager kernel of torch falls back to contiguous).

    Source: Ulyanov et al. 2016 (arXiv:1607.08022), equation 4.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(
        self, features: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Normalise each image's channels on their own."""
        if features.device.type == "cpu" and not torch.compiler.is_compiling():
            # the kernel's sums, in float32, lose what comes late: at 4 megapixels variances are 0.4 % wrong, at 16, 3 %
            if features[0, 0].numel() > 1 << 20 and not torch.is_grad_enabled():
                return torch.cat([self._summed_in_float64(image) for image in torch.split(features, 1)])
            normalised: Tensor = _ImageByImage.apply(features, self.weight, self.bias, self.eps)
            return normalised
        # for compilers, which fuse it
        wide = features.float()
        variance, mean = torch.var_mean(wide, dim=(2, 3), correction=0, keepdim=True)
        scale = self.weight[:, None, None] * torch.rsqrt(variance + self.eps)
        shift = self.bias[:, None, None] - mean * scale
        return torch.addcmul(shift, wide, scale).to(features.dtype)

    def _summed_in_float64(self, image: Tensor) -> Tensor:
        return F.batch_norm(image, *Moments([image]).mean_and_variance(), self.weight, self.bias, eps=self.eps)


class _ImageByImage(torch.autograd.Function):
    """Instance norm as batch norm of one image at a time: torch's channels_last kernels, 5 to 10 times faster."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        images = torch.split(features, 1)
        outputs, means, scales = zip(
            *(torch.native_batch_norm(image, weight, bias, None, None, True, 0.0, eps) for image in images), strict=True
        )
        ctx.save_for_backward(features, weight, *means, *scales)
        ctx.eps = eps
        return torch.cat(outputs) if len(images) > 1 else outputs[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        features, weight, *statistics = ctx.saved_tensors
        gradient, count = gradients[0].contiguous(memory_format=torch.channels_last), len(features)
        parts = [
            torch.ops.aten.native_batch_norm_backward(
                part, image, weight, None, None, mean, scale, True, ctx.eps, [True, True, True]
            )
            for part, image, mean, scale in zip(
                torch.split(gradient, 1), torch.split(features, 1), statistics[:count], statistics[count:], strict=True
            )
        ]
        to_features, to_weight, to_bias = zip(*parts, strict=True)
        return torch.cat(to_features), torch.stack(to_weight).sum(0), torch.stack(to_bias).sum(0), None


class ReflectConv2d(nn.Conv2d):
    """A convolution that keeps the size (at stride 1), its input extended by reflection."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride)
        self.border = kernel_size // 2

    def forward(
        self, features: Float[Tensor, "batch in_channels height width"]
    ) -> Float[Tensor, "batch out_channels new_height new_width"]:
        """Height and width are divided by `stride`."""
        return F.conv2d(_reflected(features, self.border), self.weight, self.bias, self.stride)


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


class UpsampleConv2d(ReflectConv2d):
    """Nearest-neighbour upsampling by 2, then a reflection-padded 3×3 convolution: 4/9 of the products.

    Each output pixel of a 2×2 block sees only 2×2 different input pixels, so its kernel is 2×2, with the sums of
    what falls on one pixel. The first row above an upsampled image, reflected, equals its border.
    Source: Aitken et al. 2017 (arXiv:1707.02937), section 3.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3)

    def forward(
        self, features: Float[Tensor, "batch in_channels height width"]
    ) -> Float[Tensor, "batch out_channels new_height new_width"]:
        """Height and width are doubled."""
        height, width = features.shape[2:]
        kernels = torch.cat([_phase(_phase(self.weight, 2, row), 3, column) for row in (0, 1) for column in (0, 1)])
        assert self.bias is not None
        blocks = F.conv2d(_edged(features), kernels, self.bias.repeat(4))
        blocks = blocks.permute(0, 2, 3, 1).reshape(-1, height + 1, width + 1, 2, 2, self.out_channels)
        rows = [
            torch.stack(
                [blocks[:, row : row + height, column : column + width, row, column] for column in (0, 1)], dim=3
            )
            for row in (0, 1)
        ]
        return torch.stack(rows, dim=2).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


class BlockConv2d(ReflectConv2d):
    """A reflection-padded convolution to few channels, computed for blocks of 2×2 pixels at a time.

    Vector units work on many output channels at once, and 3 use them badly: 12, with a kernel shifted for each
    pixel of the block, take a third of the time though they are 1.2 times the products.
    """

    def forward(
        self, features: Float[Tensor, "batch in_channels height width"]
    ) -> Float[Tensor, "batch out_channels height width"]:
        """Height and width, both even, stay."""
        kernels = torch.stack(
            [F.pad(self.weight, (column, 1 - column, row, 1 - row)) for row in (0, 1) for column in (0, 1)], dim=1
        ).flatten(0, 1)
        assert self.bias is not None
        blocks = F.conv2d(_reflected(features, self.border), kernels, self.bias.repeat_interleave(4), stride=2)
        return F.pixel_shuffle(blocks, 2)


def _reflected(features: Tensor, border: int) -> Tensor:
    with torch.autocast(features.device.type, enabled=False):  # which would pad in float32
        return F.pad(features, (border, border, border, border), mode="reflect")


def _edged(features: Tensor) -> Tensor:
    """One pixel more on each side, as the one beside it; compiled, F.pad(mode="replicate") fails in torch 2.15."""
    rows = torch.cat([features[:, :, :1], features, features[:, :, -1:]], dim=2)
    return torch.cat([rows[..., :1], rows, rows[..., -1:]], dim=3)


def _phase(kernel: Tensor, dim: int, phase: int) -> Tensor:
    """What a kernel of 3 after nearest-neighbour upsampling amounts to, for even (0) and odd (1) outputs."""
    first, second, third = kernel.unbind(dim)
    return torch.stack([first, second + third] if phase == 0 else [first + second, third], dim)


class ConvNorm(nn.Module):
    """[nearest-neighbour upsampling →] reflection-padded convolution → instance norm [→ ReLU]."""

    def __init__(self, conv: ReflectConv2d, *, relu: bool = True) -> None:
        super().__init__()
        self.conv = conv
        self.norm = InstanceNorm2d(conv.out_channels)
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

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(ReflectConv2d(channels, channels, 3))
        self.conv2 = ConvNorm(ReflectConv2d(channels, channels, 3), relu=False)

    def forward(
        self, features: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Keeps the shape."""
        return features + self.conv2(self.conv1(features))


LARGEST_MARGIN = 64  # px
LEAST_SLOPE = 0.1  # of the output's back from black and white, in training; at grey it is 0.5


class TransformerNet(nn.Module):
    """Stylizes any image in one forward pass: RGB [0, 1] in, RGB [0, 1] out, same height and width.

    `width` is the number of channels at full resolution, `depth` the number of residual blocks;
    the default has the paper's 1,679,235 parameters. Receptive field: 112 px at depth 5.
    `output` brings the last layer's values to [0, 1]: tanh(x) / 2 + 1/2, or clamp for networks trained without.
    `margin`, px, is how much more is stylized on each side, by reflection, and cut off: trained on a photo's very end,
    networks paint spots and stripes there, which please VGG's padding. So they learn from its `interior` alone.

    Differs from the paper: instance for batch norm; nearest-neighbour upsampling for fractional
    strides; reflection padding in every layer, besides the margin, for 40 px once, so blocks keep their size; in
    training, a slope back from black and white where tanh has none.
    """

    multiple = 4  # two stride-2 convolutions
    minimum = 16  # px: below, the 1 px reflection at quarter resolution has nothing to reflect

    def __init__(self, width: int = 32, depth: int = 5, output: str = "tanh", margin: int = 0) -> None:
        super().__init__()
        if width < 1 or depth < 0:
            raise UserError(f"model.width={width} should be at least 1, model.depth={depth} at least 0")
        if output not in ("tanh", "clamp"):
            raise UserError(f"model.output={output} should be tanh or clamp")
        if not 0 <= margin <= LARGEST_MARGIN:
            raise UserError(f"model.margin={margin} should be in 0…{LARGEST_MARGIN} px")
        self.arguments: dict[str, int | str] = {"width": width, "depth": depth}
        if output != "tanh":  # unsaid in files from before there was a choice
            self.arguments["output"] = output
        if margin:
            self.arguments["margin"] = margin
        self.output, self.margin = output, margin
        self.encoder = nn.Sequential(
            ConvNorm(ReflectConv2d(3, width, 9)),
            ConvNorm(ReflectConv2d(width, 2 * width, 3, stride=2)),
            ConvNorm(ReflectConv2d(2 * width, 4 * width, 3, stride=2)),
        )
        self.residual = nn.Sequential(*(ResidualBlock(4 * width) for _ in range(depth)))
        self.decoder = nn.Sequential(
            ConvNorm(UpsampleConv2d(4 * width, 2 * width)),
            ConvNorm(UpsampleConv2d(2 * width, width)),
            BlockConv2d(width, 3, 9),
        )

    def forward(
        self, content: Float[Tensor, "batch 3 height width"], interior: bool = False
    ) -> Float[Tensor, "batch 3 new_height new_width"]:
        """Stylize a batch; any height and width from 1 px on.

        Of the `interior` the photo itself is the margin: the result is smaller by it on each side.
        """
        height, width = content.shape[-2:]
        if interior:
            stylized = self._with_reflection(content, 0)
            return stylized[..., self.margin : height - self.margin, self.margin : width - self.margin]
        return self._with_reflection(content, self.margin)

    def _with_reflection(self, content: Tensor, margin: int) -> Tensor:
        height, width = content.shape[-2:]
        if not torch.compiler.is_exporting():  # when one does not ask: the answer would hold for all sizes
            below, right = (int(self._extended(size, margin)) - size - margin for size in (height, width))
            if max(margin, below) < height and max(margin, right) < width:  # in the memory format that content has
                if margin or below or right:
                    content = F.pad(content, (margin, right, margin, below), mode="reflect")
                return self.stylize_divisible(content)[..., margin : margin + height, margin : margin + width]
        device = content.device
        rows, columns = (self.reflection(size, margin, device) for size in (height, width))
        stylized = self.stylize_divisible(content.index_select(2, rows).index_select(3, columns))
        # indexed, not sliced: torch.export would make it an error that all of a picture is taken
        rows, columns = (torch.arange(size, device=device) + margin for size in (height, width))
        return stylized.index_select(2, rows).index_select(3, columns)

    def stylize_divisible(
        self, content: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch 3 height width"]:
        """Stylize a batch whose sides are multiples of `multiple`, and at least `minimum`."""
        return self.to_rgb(self.decoder(self.residual(self.encoder(content))))

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


def with_norms(net: TransformerNet, norm: Callable[[InstanceNorm2d], InstanceNorm2d]) -> TransformerNet:
    """The same network, weights shared, with other norms in place of its own: `net` may be in use meanwhile."""
    twin = copy.deepcopy(net, {id(parameter): parameter for parameter in net.parameters()})
    for layer in twin.modules():
        if isinstance(layer, ConvNorm):
            layer.norm = norm(layer.norm)
    return twin
