"""The network's layers, made for the memory format and the CPU's vector units.

With torch's own results where torch has such a layer: it has no norms that know sizes, and no waves.

Sources: Ulyanov et al. (arXiv:1607.08022, instance norm); Odena et al. 2016, "Deconvolution and Checkerboard
Artifacts" (nearest-neighbour upsampling + convolution).
"""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from impasto.models.moments import Moments

GROWTH = "_growth"  # ends the names of what sizes make of weights and biases
DOUBLINGS = (-1.0, 1.0)  # beyond, weights stay: what 192 to 512 px teach goes too far at 1024 px
BANDS = 6  # of wavelengths
WAVES = 8  # in each band
SHORTEST = 4.0  # wave, pixels of the features, which has the longest at 20: still longer ones tint whole areas
OCTAVE = 20  # waves to twice the length
FAR = 10_000  # places, down and across, where training happens: 490 of the longest wave
GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))


class InstanceNorm2d(nn.Module):
    """y = weight * (x - mean) / sqrt(var + eps) + bias, mean and variance over each channel's pixels.

    With `side`, weight and bias depend on the picture's size: d being how often that side (px, of a square of features)
    doubles to the input's, in `DOUBLINGS`, they are weight + d * weight_growth and bias + d * bias_growth.

    Statistics in float32 whatever the input's dtype. Differs from `nn.InstanceNorm2d`: it keeps the
    memory format (the eager kernel of torch falls back to contiguous).

    Source: Ulyanov et al. 2016 (arXiv:1607.08022), equation 4; weights that a condition decides: Dumoulin et al. 2017
    (arXiv:1610.07629), equation 5, whose condition is the style.
    """

    def __init__(self, channels: int, eps: float = 1e-5, side: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps, self.side = eps, side
        if side is not None:
            self.weight_growth = nn.Parameter(torch.zeros(channels))
            self.bias_growth = nn.Parameter(torch.zeros(channels))

    @classmethod
    def sharing(cls, norm: "InstanceNorm2d") -> "InstanceNorm2d":
        """A norm of this class with the parameters of another."""
        twin = cls(len(norm.weight), norm.eps, norm.side)
        for name, parameter in norm.named_parameters():
            twin.register_parameter(name, parameter)
        return twin

    def affine(self, pixels: int | torch.SymInt) -> tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]]:
        """Weight and bias for so many pixels."""
        if self.side is None:
            return self.weight, self.bias
        doublings: Tensor | float
        if isinstance(pixels, int) and not torch.compiler.is_compiling():
            doublings = min(max(math.log2(pixels / self.side**2) / 2, DOUBLINGS[0]), DOUBLINGS[1])
        else:  # in a graph for any size: as a number, it would hold for a range of them
            count = torch.full((), pixels, dtype=torch.float32, device=self.weight.device)
            doublings = (torch.log2(count / self.side**2) / 2).clamp(*DOUBLINGS)
        return self.weight + doublings * self.weight_growth, self.bias + doublings * self.bias_growth

    def forward(
        self, features: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Normalise each image's channels on their own."""
        weight, bias = self.affine(features.shape[2] * features.shape[3])
        if features.device.type == "cpu" and not torch.compiler.is_compiling():
            # the kernel's sums, in float32, lose what comes late: at 4 megapixels variances are 0.4 % wrong, at 16, 3 %
            if features[0, 0].numel() > 1 << 20 and not torch.is_grad_enabled():
                images = [(image, Moments([image]).mean_and_variance()) for image in torch.split(features, 1)]
                return torch.cat([F.batch_norm(image, *known, weight, bias, eps=self.eps) for image, known in images])
            normalised: Tensor = _ImageByImage.apply(features, weight, bias, self.eps)
            return normalised
        # for compilers, which fuse it
        wide = features.float()
        variance, mean = torch.var_mean(wide, dim=(2, 3), correction=0, keepdim=True)
        scale = weight[:, None, None] * torch.rsqrt(variance + self.eps)
        shift = bias[:, None, None] - mean * scale
        return torch.addcmul(shift, wide, scale).to(features.dtype)


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


class UpsampleConv2d(ReflectConv2d):
    """Nearest-neighbour upsampling by 2, then a reflection-padded 3×3 convolution: 4/9 of the products.

    Each output pixel of a 2×2 block sees only 2×2 different input pixels, so its kernel is 2×2, with the sums of
    what falls on one pixel. The first row above an upsampled image, reflected, equals its border.
    In bfloat16 these sums round differently, and instance norm would make a grid of that in a picture of one colour:
    so they meet features less their means, and the means' share, alike for all four, comes from the whole kernel.
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
        means = features.detach().mean((2, 3), keepdim=True)  # their gradients would cancel
        share = F.conv2d(means, self.weight.sum((2, 3), keepdim=True), self.bias)
        blocks = F.conv2d(_edged(features).sub_(means), kernels).add_(share.repeat(1, 4, 1, 1))
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


class Waves(nn.Module):
    """Features and, mixed for each channel, `BANDS` of waves that depend on nothing but the place.

    To convolutions, all places of an even area are alike: without, they paint a logo or a white sky flat.
    A band is the sum of `WAVES` plane waves, sin(2π (x cos a + y sin a) / wavelength + phase), of all directions and of
    unit variance: smooth noise that is known everywhere, in a tile as in the whole. The weights are zero at first.

    Source: of noise as input, Ulyanov et al. 2016 (arXiv:1603.03417); of noise as a sum of waves, Shinozuka 1971,
    "Simulation of Multivariate and Multidimensional Random Processes".
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels, BANDS, 1, 1))

    def forward(
        self, features: Float[Tensor, "batch channels height width"], place: Int[Tensor, "2"] | None = None
    ) -> Float[Tensor, "batch channels height width"]:
        """Keeps the shape; `place` is the row and column of the first pixel."""
        bands = self.bands(features.shape[2], features.shape[3], features.device, place)
        return features + F.conv2d(bands, self.weight)

    @staticmethod
    def place(images_seen: int) -> Int[Tensor, "2"]:
        """Row and column, in pixels of the features, of training's next batch: elsewhere each time, yet resumable."""
        return torch.randint(FAR, (2,), generator=torch.Generator().manual_seed(images_seen))

    @staticmethod
    def bands(
        height: int | torch.SymInt,
        width: int | torch.SymInt,
        device: torch.device,
        place: Int[Tensor, "2"] | None = None,
    ) -> Float[Tensor, "1 bands height width"]:
        """The waves at the pixels from `place` on."""
        numbers = torch.arange(BANDS * WAVES, dtype=torch.float32, device=device)
        lengths = SHORTEST * 2 ** (numbers / OCTAVE)
        directions, phases = GOLDEN_ANGLE * numbers, GOLDEN_ANGLE * numbers**2  # each unlike all others
        y, x = (torch.arange(size, device=device) for size in (height, width))
        if place is not None:
            y, x = y + place[0], x + place[1]
        down = 2 * math.pi * y * (directions.sin() / lengths)[:, None] + phases[:, None]
        across = 2 * math.pi * x * (directions.cos() / lengths)[:, None]
        # sin(a + b) = sin a cos b + cos a sin b: of all pixels, a product of matrices
        rows = torch.stack([down.sin(), down.cos()], 1).reshape(BANDS, 2 * WAVES, -1)
        columns = torch.stack([across.cos(), across.sin()], 1).reshape(BANDS, 2 * WAVES, -1)
        return (rows.transpose(1, 2) @ columns * math.sqrt(2 / WAVES))[None]


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
