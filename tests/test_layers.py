import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from impasto.models import layers
from impasto.models.layers import BlockConv2d, InstanceNorm2d, ReflectConv2d, UpsampleConv2d, Waves


def assert_same_function(ours, theirs, *inputs):
    """Equal outputs and equal gradients of every input."""
    inputs = [tensor.detach().double().requires_grad_() for tensor in inputs]
    expected = theirs(*inputs)
    weights = torch.rand_like(expected)
    gradients = torch.autograd.grad((expected * weights).sum(), inputs)
    result = ours(*inputs)
    assert_close(result, expected)
    assert_close(torch.autograd.grad((result * weights).sum(), inputs), gradients)


@pytest.mark.parametrize("images", [1, 3])
def test_instance_norm_is_torchs_own_with_its_gradients(images):
    norm = InstanceNorm2d(6).double()

    def ours(features, weight, bias):
        return torch.func.functional_call(norm, {"weight": weight, "bias": bias}, (features,))

    def theirs(features, weight, bias):
        return F.instance_norm(features, weight=weight, bias=bias, eps=norm.eps)

    features = torch.randn(images, 6, 9, 7).to(memory_format=torch.channels_last) * 3e-3 + 5  # where eps counts
    assert_same_function(ours, theirs, features, torch.rand(6), torch.randn(6))


@pytest.mark.parametrize("side", [None, 7])
def test_instance_norm_compiles_to_the_same(monkeypatch, side):
    norm, features = InstanceNorm2d(6, side=side), 3e-3 * torch.randn(2, 6, 9, 7)  # where eps counts
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    eager = norm(features)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert_close(norm(features), eager)


def test_a_sized_norms_weights_grow_with_each_doubling():
    norm = InstanceNorm2d(3, side=64)
    weight, bias, weight_growth, bias_growth = (nn.init.normal_(parameter) for parameter in norm.parameters())
    for pixels, doublings in [(64 * 64, 0), (128 * 128, 1), (32 * 512, 1), (256 * 256, 1), (9999**2, 1), (45 * 91, 0)]:
        expected = weight + doublings * weight_growth, bias + doublings * bias_growth
        assert_close(norm.affine(pixels), expected, rtol=0, atol=2e-3)
    assert_close(norm.affine(32 * 32), norm.affine(1))  # below half, too, they stay
    assert_close(norm.affine(1)[0], weight - weight_growth)
    features = torch.randn(2, 3, 90, 90).to(memory_format=torch.channels_last)
    assert_close(norm(features), F.instance_norm(features, None, None, *norm.affine(90 * 90)))
    features.pow(2).mul(norm(features)).sum().backward()
    assert_close(norm.weight_growth.grad, norm.weight.grad * math.log2(90 / 64))
    assert_close(norm.bias_growth.grad, norm.bias.grad * math.log2(90 / 64))


def test_waves_are_sums_of_plane_waves():
    bands = Waves.bands(40, 50, torch.device("cpu"))
    assert bands.shape == (1, 6, 40, 50)
    golden, expected = math.pi * (3 - math.sqrt(5)), 0.0
    for number in range(24, 32):  # of the fourth band
        length, angle = 4 * 2 ** (number / 20), golden * number
        turns = (21 * math.cos(angle) + 13 * math.sin(angle)) / length
        expected += math.sin(2 * math.pi * turns + golden * number**2) / 2
    assert_close(bands[0, 3, 13, 21].item(), expected, rtol=0, atol=1e-3)


def test_waves_are_noise_that_is_known_everywhere():
    bands = Waves.bands(1500, 1500, torch.device("cpu"))
    assert_close(bands.std((0, 2, 3)), torch.ones(6), rtol=0, atol=0.02)
    alike = torch.corrcoef(bands.flatten(2)[0]) - torch.eye(6)
    assert alike.abs().max() < 0.02
    part = Waves.bands(70, 80, torch.device("cpu"), torch.tensor([1100, 7]))
    assert_close(part, bands[..., 1100:1170, 7:87])
    waves = Waves(3)
    features = torch.rand(2, 3, 70, 80)
    assert torch.equal(waves(features), features)  # at first
    nn.init.normal_(waves.weight)
    added = torch.einsum("cb,bhw->chw", waves.weight[:, :, 0, 0], part[0])
    assert_close(waves(features, torch.tensor([1100, 7])), features + added)


def test_a_norm_that_shares_parameters_has_them_all():
    norm = InstanceNorm2d(3, eps=0.1, side=64)
    twin = InstanceNorm2d.sharing(norm)
    assert (twin.eps, twin.side) == (0.1, 64)
    assert {name: id(each) for name, each in twin.named_parameters()} == {
        name: id(each) for name, each in norm.named_parameters()
    }


def test_instance_norm_of_large_means_stays_exact():
    features = (torch.randn(1, 8, 256, 256) + 100).to(memory_format=torch.channels_last)
    expected = F.instance_norm(features.double()).float()
    assert (InstanceNorm2d(8)(features) - expected).abs().max() < 2e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_instance_norm_of_many_pixels_stays_exact(dtype):
    norm = InstanceNorm2d(2)
    features = (3e-3 * torch.randn(1, 2, 2048, 2048, dtype=dtype)).to(memory_format=torch.channels_last)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([2.0, 0.5]))
        norm.bias.copy_(torch.tensor([1.0, -1.0]))
        normalised = norm(features)
        expected = F.instance_norm(features.double(), None, None, *norm.double().parameters(), eps=norm.eps)
    assert normalised.dtype == dtype
    assert (normalised.double() - expected).abs().max() < (1e-3 if dtype == torch.float32 else 0.05)
    assert (normalised.double().var((0, 2, 3)) / expected.var((0, 2, 3)) - 1).abs().max() < 1e-3


def test_what_is_reflected_under_autocast_stays_as_narrow_as_it_is():
    with torch.autocast("cpu", torch.bfloat16):
        assert layers._reflected(torch.rand(1, 2, 5, 5, dtype=torch.bfloat16), 1).dtype == torch.bfloat16
        assert ReflectConv2d(2, 2, 3)(torch.rand(1, 2, 5, 5)).shape == (1, 2, 5, 5)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (8, 5)])
def test_upsampling_convolution_is_upsampling_and_convolution(size):
    conv = UpsampleConv2d(4, 3)

    def ours(features, weight, bias):
        return torch.func.functional_call(conv, {"weight": weight, "bias": bias}, (features,))

    def theirs(features, weight, bias):
        features = F.interpolate(features, scale_factor=2.0, mode="nearest")
        return F.conv2d(F.pad(features, (1, 1, 1, 1), mode="reflect"), weight, bias)

    assert_same_function(ours, theirs, torch.randn(2, 4, *size), conv.weight, conv.bias)


def test_one_colour_stays_one_upsampled_in_bfloat16():
    """Or instance norm, which divides by the deviation, would make a grid of the rounding."""
    conv = UpsampleConv2d(64, 32)
    features = (3 * torch.rand(2, 64, 1, 1)).expand(2, 64, 16, 16).bfloat16()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        result = conv(features)
        expected = conv.weight.sum((2, 3)) @ features[..., 0, 0].float().T
    assert torch.equal(result, result[..., :1, :1].expand_as(result))
    assert_close(result[..., 0, 0].float(), expected.T + conv.bias, atol=0.05, rtol=0.02)


@pytest.mark.parametrize("size", [(6, 6), (8, 14)])
def test_block_convolution_is_a_convolution(size):
    conv = BlockConv2d(4, 3, 9)

    def ours(features, weight, bias):
        return torch.func.functional_call(conv, {"weight": weight, "bias": bias}, (features,))

    def theirs(features, weight, bias):
        return F.conv2d(F.pad(features, (4, 4, 4, 4), mode="reflect"), weight, bias)

    assert_same_function(ours, theirs, torch.randn(2, 4, *size), conv.weight, conv.bias)


def test_instance_norm_keeps_memory_format_and_dtype():
    features = torch.randn(2, 8, 6, 6, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    normed = InstanceNorm2d(8)(features)
    assert normed.is_contiguous(memory_format=torch.channels_last)
    assert normed.dtype == torch.bfloat16
