import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from impasto.errors import UserError
from impasto.models import layers, transformer_net
from impasto.models.transformer_net import TransformerNet


def test_has_the_papers_parameters():
    assert sum(parameter.numel() for parameter in TransformerNet().parameters()) == 1_679_235
    assert sum(parameter.numel() for parameter in TransformerNet(sized=True).parameters()) == 1_679_235 + 3200
    assert sum(parameter.numel() for parameter in TransformerNet(waves=True).parameters()) == 1_679_235 + 768


def test_width_and_depth_scale_the_network():
    net = TransformerNet(width=16, depth=3)
    assert net.arguments == {"width": 16, "depth": 3}
    assert len(net.residual) == 3
    assert net.encoder[0].conv.out_channels == 16
    with pytest.raises(ValueError, match="width"):
        TransformerNet(width=0)


def test_sizes_count_for_sized_networks_alone():
    """Trained on one size they are plain ones; what growth there is changes other sizes, in all layers but the last."""
    plain, sized = TransformerNet(2, 1).eval(), TransformerNet(2, 1, sized=True).eval()
    assert sized.arguments == {**plain.arguments, "sized": True}
    assert sized.load_state_dict(plain.state_dict(), strict=False).missing_keys == [
        f"{name}.{kind}_growth"
        for name, layer in sized.named_modules()
        if isinstance(layer, layers.InstanceNorm2d)
        for kind in ("weight", "bias")
    ]
    small, middle = torch.rand(1, 3, 128, 128), torch.rand(1, 3, 128, 512)
    assert_close(sized(small), plain(small))
    for name, parameter in sized.named_parameters():
        if name.endswith("_growth"):
            nn.init.normal_(parameter, std=0.3)
    assert_close(sized(middle), plain(middle))  # of 256² pixels
    assert (sized(small) - plain(small)).abs().mean() > 0.01
    sized.learn_growth(False)
    assert [name for name, each in sized.named_parameters() if each.requires_grad] == [*plain.state_dict()]


def test_waves_tell_places_of_an_even_area_apart():
    plain, net = TransformerNet(2, 1).eval(), TransformerNet(2, 1, waves=True).eval()
    assert net.arguments == {**plain.arguments, "waves": True}
    assert net.load_state_dict(plain.state_dict(), strict=False).missing_keys == ["waves.weight"]
    photo, grey = torch.rand(1, 3, 50, 61), torch.full((1, 3, 128, 128), 0.5)
    assert torch.equal(net(photo), plain(photo))  # zero at first
    assert plain(grey).std((2, 3)).max() < 1e-3
    nn.init.normal_(net.waves.weight)
    assert net(grey).std((2, 3)).min() > 0.02
    assert torch.equal(net(photo), net(photo))
    assert torch.equal(net(photo), net(photo, place=torch.tensor([0, 0])))
    assert (net(photo) - net(photo, place=torch.tensor([0, 7]))).abs().mean() > 0.01


SMALL = TransformerNet(width=2, depth=1).eval()


def test_a_residual_block_adds_to_what_it_is_given():
    block, features = transformer_net.ResidualBlock(4), torch.randn(1, 4, 6, 5)
    added = block.conv2(block.conv1(features))
    assert added.abs().mean() > 0.1
    assert_close(block(features), features + added)


def test_pixels_are_finer_than_bfloat16():
    features = torch.linspace(0.2, 2, 300).expand(1, 3, 1, 300).bfloat16()
    pixels = TransformerNet(width=2, depth=0).eval().to_rgb(features)
    assert pixels.dtype == torch.float32
    assert_close(pixels, torch.tanh(features.double()).mul(0.5).add(0.5).float())


def test_training_and_painting_give_the_same_pixels():
    features = torch.randn(1, 3, 8, 8) * 5
    net = TransformerNet(width=2, depth=0)
    assert torch.equal(net.train().to_rgb(features), net.eval().to_rgb(features))


@pytest.mark.parametrize(("wanted", "slope"), [("darker", 0.0), ("brighter", transformer_net.LEAST_SLOPE)])
def test_black_can_be_left_and_is_not_deepened(wanted, slope):
    features = torch.full((1, 3, 4, 4), -12.0, requires_grad=True)
    rgb = TransformerNet(width=2, depth=0).train().to_rgb(features)
    (rgb if wanted == "darker" else -rgb).sum().backward()  # a step against the gradient
    assert_close(features.grad.abs(), torch.full_like(features, slope), rtol=0, atol=1e-6)


def test_a_black_network_learns_white():
    net = TransformerNet(width=2, depth=0).train()
    with torch.no_grad():
        net.decoder[-1].bias.fill_(-20)
    optimizer = torch.optim.Adam(net.parameters(), 0.3)
    for _ in range(150):
        optimizer.zero_grad()
        loss = (net(torch.rand(1, 3, 16, 16)) - 1).square().mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.05


@pytest.mark.parametrize("sign", [-1, 1])
def test_within_the_range_gradients_are_those_of_tanh(sign):
    features = torch.linspace(-1, 1, 48).reshape(1, 3, 4, 4).requires_grad_()
    (sign * TransformerNet(width=2, depth=0).train().to_rgb(features)).sum().backward()
    assert_close(features.grad, sign * (1 - torch.tanh(features.detach()) ** 2) / 2)


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 70), width=st.integers(1, 70))
def test_keeps_every_size_and_the_range(height, width):
    with torch.no_grad():
        stylized = SMALL(torch.rand(2, 3, height, width))
    assert stylized.shape == (2, 3, height, width)
    assert stylized.min() >= 0
    assert stylized.max() <= 1


@pytest.mark.parametrize("size", [1, 2, 3, 5, 15, 16, 17, 100])
def test_padding_reflects_like_numpy(size):
    for margin in (0, 8, 37):
        indices = SMALL.reflection(size, margin, torch.device("cpu"))
        extended = max(16, -(-(size + 2 * margin) // 4) * 4)
        ends = (margin, extended - size - margin)
        assert indices.tolist() == np.pad(np.arange(size), ends, mode="reflect").tolist()


@pytest.mark.parametrize("size", [(1, 1), (8, 24), (16, 40), (36, 72)])  # others are extended elsewhere
def test_a_margin_is_reflected_and_cut_off(size):
    net = TransformerNet(4, 1, margin=8).eval()
    bare = TransformerNet(4, 1).eval()
    bare.load_state_dict(net.state_dict())
    content = torch.rand(1, 3, *size)
    large = torch.from_numpy(np.pad(content.numpy(), [(0, 0), (0, 0), (8, 8), (8, 8)], mode="reflect"))
    with torch.no_grad():
        assert_close(net(content), bare(large)[..., 8:-8, 8:-8])
        assert_close(net(large, interior=True), bare(large)[..., 8:-8, 8:-8])
        assert_close(bare(content, interior=True), bare(content))


@pytest.mark.parametrize("margin", [-1, 65, True])
def test_a_margin_beyond_reason_is_refused(margin):
    with pytest.raises(UserError, match=f"model.margin={margin} should be a whole number in 0…64 px"):
        TransformerNet(4, 1, margin=margin)


def test_images_of_a_batch_do_not_mix():
    batch = torch.rand(3, 3, 20, 24)
    with torch.no_grad():
        assert_close(SMALL(batch)[1:2], SMALL(batch[1:2]))


def checkerboard(decoder_like) -> float:
    """Spectral energy at the upsampling frequencies (period 2 and 4) over that beside them, of a net at birth."""
    ratios = []
    for seed in range(6):
        torch.manual_seed(seed)
        net = decoder_like()
        smooth = nn.functional.interpolate(torch.rand(1, 3, 9, 9), size=128, mode="bicubic").clamp(0, 1)
        with torch.no_grad():
            row = net(smooth)[..., 16:112, 16:112]
        power = torch.fft.rfft(row - row.mean(), dim=-1).abs().square().mean(dim=(0, 1, 2))
        ratios += [power[i] / torch.cat([power[i - 5 : i - 1], power[i + 2 : i + 6]]).mean() for i in (24, 48)]
    return float(torch.stack(ratios).max())


def with_transposed_convolutions() -> nn.Module:
    net = TransformerNet(width=8, depth=1)
    for block in net.decoder[:2]:
        channels = block.conv.in_channels, block.conv.out_channels
        block.conv = nn.ConvTranspose2d(*channels, 3, stride=2, padding=1, output_padding=1)
    return net


def test_no_checkerboard_at_birth():
    ours = checkerboard(lambda: TransformerNet(width=8, depth=1))
    theirs = checkerboard(with_transposed_convolutions)
    assert ours < 10 < theirs, (ours, theirs)


def border_shift() -> float:
    """How far the mean along the border lies from the interior's, in standard deviations, for noise."""
    shifts = []
    for seed in range(6):
        torch.manual_seed(seed)
        net = TransformerNet(width=8, depth=1)
        with torch.no_grad():
            stylized = net(torch.rand(4, 3, 96, 96))
        border = torch.cat([stylized[..., :3, :].flatten(2), stylized[..., -3:, :].flatten(2)], dim=2)
        interior = stylized[..., 24:72, 24:72].flatten(2)
        shifts.append(((border.mean(2) - interior.mean(2)).abs() / interior.std(2)).mean())
    return float(torch.stack(shifts).mean())


def test_no_border_artefacts_at_birth(monkeypatch):
    ours = border_shift()
    monkeypatch.setattr(layers, "_reflected", lambda features, border: F.pad(features, (border,) * 4))
    zeros = border_shift()
    assert ours < 0.2 < zeros, (ours, zeros)
