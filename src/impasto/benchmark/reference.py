"""The yardstick: style transfer in the textbook manner, as most repositories have it.

Float32, uncompiled, contiguous memory; the content photo runs through the whole loss network; upsampling, padding and
norm are torch's own modules; Gram matrices by `bmm` and autograd; the style's are repeated over the batch.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from impasto.losses.perceptual import LossWeights
from impasto.models.transformer_net import TransformerNet
from impasto.models.vgg import VGG19Features


def convolution(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    """Reflection padding, then a convolution."""
    return nn.Sequential(
        nn.ReflectionPad2d(kernel_size // 2), nn.Conv2d(in_channels, out_channels, kernel_size, stride)
    )


class ResidualBlock(nn.Module):
    """x + norm(conv(relu(norm(conv(x)))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            convolution(channels, channels, 3),
            nn.InstanceNorm2d(channels, affine=True),
            nn.ReLU(),
            convolution(channels, channels, 3),
            nn.InstanceNorm2d(channels, affine=True),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Keeps the shape."""
        return features + self.layers(features)


class ReferenceNet(nn.Module):
    """The network of `TransformerNet`, layer by layer; height and width divisible by 4."""

    def __init__(self, width: int = 32, depth: int = 5) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            convolution(3, width, 9),
            nn.InstanceNorm2d(width, affine=True),
            nn.ReLU(),
            convolution(width, 2 * width, 3, 2),
            nn.InstanceNorm2d(2 * width, affine=True),
            nn.ReLU(),
            convolution(2 * width, 4 * width, 3, 2),
            nn.InstanceNorm2d(4 * width, affine=True),
            nn.ReLU(),
            *(ResidualBlock(4 * width) for _ in range(depth)),
            nn.Upsample(scale_factor=2, mode="nearest"),
            convolution(4 * width, 2 * width, 3),
            nn.InstanceNorm2d(2 * width, affine=True),
            nn.ReLU(),
            nn.Upsample(scale_factor=2, mode="nearest"),
            convolution(2 * width, width, 3),
            nn.InstanceNorm2d(width, affine=True),
            nn.ReLU(),
            convolution(width, 3, 9),
        )

    def take(self, net: TransformerNet) -> "ReferenceNet":
        """Copy the weights of a `TransformerNet`; both name theirs in the order of the layers."""
        self.load_state_dict(dict(zip(self.state_dict(), net.state_dict().values(), strict=True)))
        return self

    def forward(self, content: Tensor) -> Tensor:
        """RGB in [0, 1] in and out."""
        return torch.tanh(self.layers(content)) * 0.5 + 0.5


class ReferenceVGG(nn.Module):
    """VGG19 as modules, from input to the deepest layer, whatever is asked for."""

    def __init__(self, vgg: VGG19Features) -> None:
        super().__init__()
        self.convolutions = nn.ModuleDict()
        for name in vgg.layers:
            kernel, bias = vgg.get_buffer(f"{name}_kernel"), vgg.get_buffer(f"{name}_bias")
            layer = nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, padding=1)
            layer.load_state_dict({"weight": kernel, "bias": bias})
            self.convolutions[name] = layer
        self.register_buffer("mean", vgg.get_buffer("mean"), persistent=False)
        self.register_buffer("std", vgg.get_buffer("std"), persistent=False)
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Features of all layers by name."""
        hidden, features = (image - self.get_buffer("mean")) / self.get_buffer("std"), {}
        for name, layer in self.convolutions.items():
            if name.endswith("_1") and name != "relu1_1":
                hidden = F.max_pool2d(hidden, 2)
            hidden = features[name] = F.relu(layer(hidden))
        return features


def gram_matrix(features: Tensor) -> Tensor:
    """F F^T / (C*H*W) of each image."""
    batch, channels, height, width = features.shape
    flat = features.reshape(batch, channels, height * width)
    return flat.bmm(flat.transpose(1, 2)) / (channels * height * width)


class ReferenceLoss(nn.Module):
    """Content, style and total variation, weighted."""

    def __init__(
        self,
        vgg: VGG19Features,
        style: Tensor,
        style_layers: Mapping[str, float],
        content_layers: Mapping[str, float],
        weights: LossWeights,
        batch_size: int,
    ) -> None:
        super().__init__()
        self.vgg = ReferenceVGG(vgg)
        self.style_layers, self.content_layers, self.weights = style_layers, content_layers, weights
        with torch.no_grad():
            features = self.vgg(style.repeat(batch_size, 1, 1, 1))
        for name in style_layers:
            self.register_buffer(f"{name}_target", gram_matrix(features[name]), persistent=False)

    def forward(self, stylized: Tensor, content: Tensor) -> Tensor:
        """The weighted total."""
        ours, theirs = self.vgg(stylized), self.vgg(content)
        content_term = sum(w * F.mse_loss(ours[name], theirs[name]) for name, w in self.content_layers.items())
        style_term = sum(
            w * F.mse_loss(gram_matrix(ours[name]), self.get_buffer(f"{name}_target")[: len(stylized)])
            for name, w in self.style_layers.items()
        )
        rows, columns = stylized[:, :, 1:] - stylized[:, :, :-1], stylized[..., 1:] - stylized[..., :-1]
        variation = rows.square().mean() + columns.square().mean()
        weights = self.weights.weights
        total: Tensor = weights["content"] * content_term + weights["style"] * style_term + weights["tv"] * variation
        return total
