"""The image transformation network of Johnson et al. 2016, with instance norm.

Sources: Johnson et al. (arXiv:1603.08155) and its supplement (layers); Ulyanov et al.
(arXiv:1607.08022, instance norm); Odena et al. 2016, "Deconvolution and Checkerboard Artifacts"
(nearest-neighbour upsampling + convolution).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from impasto.errors import UserError


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
        wide = features.float()
        variance, mean = torch.var_mean(wide, dim=(2, 3), correction=0, keepdim=True)
        scale = self.weight[:, None, None] * torch.rsqrt(variance + self.eps)
        shift = self.bias[:, None, None] - mean * scale
        return torch.addcmul(shift, wide, scale).to(features.dtype)


class ConvNorm(nn.Module):
    """[nearest-neighbour upsampling →] reflection-padded convolution → instance norm [→ ReLU]."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        upsample: int = 1,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, padding_mode="reflect"
        )
        self.norm = InstanceNorm2d(out_channels)
        self.upsample = upsample
        self.relu = relu

    def forward(
        self, features: Float[Tensor, "batch in_channels height width"]
    ) -> Float[Tensor, "batch out_channels new_height new_width"]:
        """Height and width are multiplied by `upsample` and divided by `stride`."""
        if self.upsample > 1:
            features = F.interpolate(features, scale_factor=float(self.upsample), mode="nearest")
        features = self.norm(self.conv(features))
        return F.relu(features) if self.relu else features


class ResidualBlock(nn.Module):
    """x + norm(conv(relu(norm(conv(x))))), without a ReLU after the sum (Gross and Wilber 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, channels)
        self.conv2 = ConvNorm(channels, channels, relu=False)

    def forward(
        self, features: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Keeps the shape."""
        return features + self.conv2(self.conv1(features))


class TransformerNet(nn.Module):
    """Stylizes any image in one forward pass: RGB [0, 1] in, RGB [0, 1] out, same height and width.

    `width` is the number of channels at full resolution, `depth` the number of residual blocks;
    the default has the paper's 1,679,235 parameters. Receptive field: 112 px at depth 5.

    Differs from the paper: instance for batch norm; nearest-neighbour upsampling for fractional
    strides; reflection padding in every layer for 40 px once, so blocks keep their size.
    """

    multiple = 4  # two stride-2 convolutions
    minimum = 16  # px: below, the 1 px reflection at quarter resolution has nothing to reflect

    def __init__(self, width: int = 32, depth: int = 5) -> None:
        super().__init__()
        if width < 1 or depth < 0:
            raise UserError(f"model.width={width} should be at least 1, model.depth={depth} at least 0")
        self.arguments = {"width": width, "depth": depth}
        self.encoder = nn.Sequential(
            ConvNorm(3, width, 9),
            ConvNorm(width, 2 * width, stride=2),
            ConvNorm(2 * width, 4 * width, stride=2),
        )
        self.residual = nn.Sequential(*(ResidualBlock(4 * width) for _ in range(depth)))
        self.decoder = nn.Sequential(
            ConvNorm(4 * width, 2 * width, upsample=2),
            ConvNorm(2 * width, width, upsample=2),
            nn.Conv2d(width, 3, 9, padding=4, padding_mode="reflect"),
        )

    def forward(self, content: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
        """Stylize a batch; any height and width from 1 px on."""
        height, width = content.shape[-2:]
        rows, columns = (self._reflected(size, content.device) for size in (height, width))
        padded = content.index_select(2, rows).index_select(3, columns)
        features = self.decoder(self.residual(self.encoder(padded)))
        # in float32, as bfloat16 has only 128 steps between 0.5 and 1
        return (torch.tanh(features.float()) * 0.5 + 0.5)[..., :height, :width]

    def _reflected(self, size: int | torch.SymInt, device: torch.device) -> Tensor:
        """Indices that extend `size` pixels by reflection to what the strides divide.

        Differs from `F.pad(mode="reflect")`: reflects as often as it takes, so that one pixel will do.
        """
        extended = torch.sym_max((size + self.multiple - 1) // self.multiple * self.multiple, self.minimum)
        there = torch.arange(size, device=device)
        wave = torch.cat([there, there[1:-1].flip(0)])
        # indexed, not sliced: torch.export of torch 2.11 loses track of a slice's size
        return wave.repeat(self.minimum)[torch.arange(extended, device=device)]
