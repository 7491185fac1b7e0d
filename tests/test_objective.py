import logging

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageOps

from impasto.assets import PHOTOS, painting
from impasto.errors import UserError
from impasto.image import read_image
from impasto.losses.functional import gram_matrix
from impasto.losses.objective import build_objective, read_painting, reference_photos
from impasto.models.vgg import VGG19Features
from impasto.tensors import to_tensor

from .conftest import ROOT, noise_image

LAYERS = [f"relu{block}_1" for block in range(1, 6)]


def loss_config(name):
    config = yaml.safe_load((ROOT / f"configs/loss/{name}.yaml").read_text())
    return config.get("loss", config)


@pytest.fixture(scope="module")
def objective():
    return build_objective(read_painting(painting("poppies"), 160), loss_config("default"), {}, 1.0)


def test_the_default_is_relative_to_the_photos_that_ship(objective):
    photos = reference_photos()
    assert photos.shape == (15, 3, 192, 192)
    with torch.no_grad():
        terms = objective(photos, photos.roll(1, 0))
    assert terms["style"].item() == pytest.approx(1, rel=1e-3)
    assert terms["content"].item() == pytest.approx(1, rel=1e-3)
    assert terms["tv"].item() == pytest.approx(1, rel=1e-3)


def test_strength_means_the_same_from_128_to_256_px(objective):
    """The style of photos as they are against the content of others: at 512 px, as said, it counts more."""
    ratios = {}
    for size in (128, 256, 512):
        photos = [ImageOps.fit(read_image(PHOTOS / f"{name}.jpg"), (size, size)) for name in ("cat", "forest_stream")]
        batch = torch.cat([to_tensor(photo) for photo in photos])
        with torch.no_grad():
            terms = objective(batch, batch.roll(1, 0))
        ratios[size] = (terms["style"] / terms["content"]).item()
    assert 0.7 < ratios[256] / ratios[128] < 1.4
    assert 1.1 < ratios[512] / ratios[256] < 2


def test_the_total_is_weighted_and_strength_multiplies_the_style(objective, photo):
    twice = build_objective(read_painting(painting("poppies"), 160), loss_config("default"), {}, 2.0)
    with torch.no_grad():
        one, two = (each(photo, photo.flip(3)) for each in (objective, twice))
    weights = loss_config("default")["weights"]
    expected = sum(weights[name] * one[name] for name in ("content", "style", "tv", "grid"))
    assert one["total"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert (two["total"] - one["total"]).item() == pytest.approx(weights["style"] * one["style"].item(), rel=1e-4)


def test_gatys_reproduces_the_papers_equations(photo):
    """Equations 1, 4, 5 and 7 with alpha/beta = 1e-3, written out on the features."""
    config = loss_config("gatys")
    style, generated, content = torch.rand(3, 1, 3, 64, 64).unbind(0)
    image = Image.fromarray((style[0] * 255).round().byte().permute(1, 2, 0).numpy())
    style = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    ours = build_objective(image, config, {"pooling": "average"}, 1.0)(generated, content)
    vgg = VGG19Features([*LAYERS, "relu4_2"], pooling="average")
    f, p, a = (vgg(each, [*LAYERS, "relu4_2"]) for each in (generated, content, style))
    content_loss = (f["relu4_2"] - p["relu4_2"]).square().sum() / 2
    style_loss = 0.0
    for layer in LAYERS:
        _, n, height, width = f[layer].shape
        m = height * width
        generated_gram, style_gram = (each[layer].flatten(2)[0] @ each[layer].flatten(2)[0].T for each in (f, a))
        style_loss += (generated_gram - style_gram).square().sum() / (4 * n**2 * m**2) / 5
    assert ours["content"].item() == pytest.approx(content_loss.item(), rel=1e-3)
    assert ours["style"].item() == pytest.approx(style_loss.item(), rel=1e-3)
    assert ours["total"].item() == pytest.approx((content_loss + 1e3 * style_loss).item(), rel=1e-3)


def test_johnson_reproduces_the_programs_terms(photo):
    config = loss_config("johnson")
    image = noise_image(64, 64)
    ours = build_objective(image, config, {}, 1.0)(photo, photo.flip(3))
    layers = ["relu1_2", "relu2_2", "relu3_3", "relu4_3"]
    vgg = VGG19Features(layers)
    style = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    f, p, a = (vgg(each, layers) for each in (photo, photo.flip(3), style))
    content_loss = (f["relu3_3"] - p["relu3_3"]).square().mean()
    style_loss = sum((gram_matrix(f[layer]) - gram_matrix(a[layer])).square().mean() for layer in layers)
    assert ours["content"].item() == pytest.approx(content_loss.item(), rel=1e-3)
    assert ours["style"].item() == pytest.approx(style_loss.item(), rel=1e-3)
    # the program has only its gradient, 1e-6 of the differences at 0…255: that of half the sum of their squares, over
    # the pixels of four images of 256², while other terms are means over the four; a side of n has n - 1 differences
    squares = sum((255 * photo.diff(dim=axis)).square().sum() for axis in (2, 3))
    tv = squares / 2 * 4 * 256**2 / photo[0, 0].numel()
    assert config["weights"]["tv"] * ours["tv"].item() == pytest.approx(1e-6 * tv.item(), rel=0.03)
    assert ours["total"].item() == pytest.approx((content_loss + 5 * style_loss).item(), rel=1e-3)


@pytest.mark.parametrize("strength", [0, -1.0, float("nan"), float("inf")])
def test_a_strength_out_of_range_is_named(strength):
    with pytest.raises(UserError, match="strength=.* should be above 0"):
        build_objective(noise_image(64, 64), loss_config("default"), {}, strength)


def test_a_painting_too_large_for_the_memory_is_told(monkeypatch):
    """Else Linux ends the process without a word."""
    monkeypatch.setattr("impasto.losses.objective.free_memory", lambda device: 1_400 * 640 * 512 // 4)
    config = {"style_layers": {"relu1_1": 1.0}, "content_layers": {"relu1_1": 1.0}, "relative": False}
    with pytest.raises(
        UserError, match="at 640×512 px takes 458.8 MB of memory, and 114.7 MB are free: a stroke of 256 px"
    ):
        build_objective(Image.new("RGB", (640, 512)), config, {"source": "oxford"}, 1.0)


def test_the_painting_comes_at_its_stroke(tmp_path, caplog):
    noise_image(90, 60).save(tmp_path / "p.png")
    with caplog.at_level(logging.WARNING, "impasto"):
        assert read_painting(tmp_path / "p.png", 30).size == (45, 30)
        assert read_painting(tmp_path / "p.png", 90).size == (135, 90)
        assert not caplog.messages
        assert read_painting(tmp_path / "p.png", 180).size == (270, 180)
    assert caplog.messages == ["the painting has 90×60 px: enlarged 3.0 times, its strokes are blurred"]
    Image.new("RGBA", (60, 60)).save(tmp_path / "clear.png")
    with caplog.at_level(logging.WARNING, "impasto"):
        read_painting(tmp_path / "clear.png", 30)
    assert caplog.messages[1].endswith("clear.png' is of one colour all over: there is no style in it")
    with pytest.raises(UserError, match="stroke=15 should be in 16…4096 px"):
        read_painting(tmp_path / "p.png", 15)
    noise_image(500, 1).save(tmp_path / "strip.png")
    with pytest.raises(UserError, match="strip.png' has 160000×320 px at stroke=320: crop it, or lower stroke"):
        read_painting(tmp_path / "strip.png", 320)


def _grey(image):
    return image.convert("L")


def _transparent(image):
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def _palette(image):
    return image.quantize(16)


@pytest.mark.parametrize("change", [_grey, _transparent, _palette, lambda image: image.resize((3, 2)), None])
def test_any_painting_gives_a_finite_objective(tmp_path, photo, change, monkeypatch):
    """Greyscale, transparent, palette, tiny; and None: huge."""
    monkeypatch.setattr("impasto.losses.objective.reference_photos", lambda: reference_photos()[:2, :, :64, :64])
    image = noise_image(120, 100) if change else noise_image(30, 20).resize((4000, 3000))
    (change(image) if change else image).save(tmp_path / "p.png")
    objective = build_objective(read_painting(tmp_path / "p.png", 64), loss_config("default"), {}, 1.0)
    total = objective(photo.requires_grad_(), photo.detach())["total"]
    (gradient,) = torch.autograd.grad(total, photo)
    photo.requires_grad_(False)
    assert gradient.isfinite().all()
    assert 0.1 < total.item() < 100


def test_an_objective_of_one_photo_is_the_same_and_sees_it_once(monkeypatch):
    loss = {"style_layers": {"relu1_1": 1.0}, "content_layers": {"relu2_1": 1.0}, "relative": False}
    loss |= {"content_reduction": "mean", "weights": {"content": 1.0, "style": 2.0, "tv": 0.1, "grid": 0.1}}
    whole = build_objective(noise_image(48, 40), loss, {"source": "oxford"}, 1.0)
    content, stylized = torch.rand(1, 3, 32, 40), torch.rand(1, 3, 32, 40)
    expected, judge = whole(stylized, content), whole.of(content)
    monkeypatch.setattr(whole.loss, "targets", pytest.fail)
    assert judge(stylized) == expected


@pytest.mark.parametrize(("preprocessing", "told"), [("torchvision", 1), ("caffe", 0)])
def test_the_papers_weights_are_for_the_papers_features(caplog, monkeypatch, objective, preprocessing, told):
    """Those of a network that sees 0…255 are larger, the fourth power of which the style's term goes by."""
    network = objective.loss.vgg
    monkeypatch.setattr(network, "preprocessing", preprocessing)
    build_objective(read_painting(painting("poppies"), 64), loss_config("gatys"), network, 1.0)
    build_objective(read_painting(painting("poppies"), 64), loss_config("default"), network, 1.0)
    assert "\n".join(caplog.messages).count("the papers' weights are for the features of vgg=oxford") == told
