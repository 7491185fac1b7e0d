"""What augmentation torchvision lacks, or has at several times the cost: on uint8 crops, shape (3, side, side)."""

import torch
from torch import Tensor


def shift_hue(crop: Tensor, turn: float) -> Tensor:
    """Turn all hues by `turn` (1: the whole circle), brightest and darkest channel unchanged.

    With V = max(R,G,B), C = V - min(R,G,B) and the hue h in 0…6, each channel is V - C * clamp(min(k, 4 - k), 0, 1),
    k = (h + n) mod 6 for n = 5, 3, 1: a third of the time of torchvision's `adjust_hue`, and within one level of it.

    Source: Wikipedia, "HSL and HSV", section "HSV to RGB alternative".
    """
    red, green, blue = channels = crop.float()
    value = channels.amax(0)
    chroma = value - channels.amin(0)
    hue = torch.where(
        value == red, green - blue, torch.where(value == green, blue - red + 2 * chroma, red - green + 4 * chroma)
    )
    hue = hue / chroma.clamp(min=1)  # without chroma, any
    k = (hue + (torch.tensor([5.0, 3.0, 1.0])[:, None, None] + 6 * turn)).remainder_(6)
    return (value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1)).round_().to(torch.uint8)


def with_patch(crop: Tensor) -> Tensor:
    """Cover a rectangle (0.4 to 0.9 of each side) of a crop, in place, with one colour or a linear gradient of two.

    Half are of greys, half of these black or white: bars, blown-out skies, backdrops.
    Not all of it: an image without any variance has an infinite gradient through stacked instance norms.
    """
    side = crop.shape[-1]
    height, width = (int(side * (0.4 + 0.5 * torch.rand(()))) for _ in range(2))
    top, left = (int(torch.randint(side - extent + 1, ())) for extent in (height, width))
    # any colours, or greys, of which a quarter each are at 0 and 1
    colours = torch.rand(2, 3, 1, 1) if torch.rand(()) < 0.5 else (2 * torch.rand(2, 1, 1, 1) - 0.5).clamp(0, 1)
    first, second = colours.expand(2, 3, 1, 1) * 255
    if torch.rand(()) < 0.5:
        second = first
    angle = torch.rand(()) * 2 * torch.pi
    y, x = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)
    ramp = (x * angle.cos() + y * angle.sin()) / 2**1.5 + 0.5
    crop[:, top : top + height, left : left + width] = torch.lerp(first, second, ramp).to(torch.uint8)
    return crop
