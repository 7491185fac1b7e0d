import copy

import pytest
import torch
from torch.testing import assert_close

from impasto.errors import UserError
from impasto.losses.functional import total_variation
from impasto.losses.perceptual import LossWeights, PerceptualLoss
from impasto.models.vgg import VGG19Features

STYLE = {"relu1_1": 2.0, "relu2_1": 0.5, "relu3_1": 1.0}
CONTENT = {"relu2_2": 3.0}


@pytest.fixture(scope="module")
def features():
    return VGG19Features([*STYLE, *CONTENT])


@pytest.fixture
def painting():
    return torch.rand(1, 3, 40, 48)


@pytest.fixture
def loss(features, painting):
    return PerceptualLoss(features, painting, STYLE, CONTENT)


def test_terms_are_named_and_unweighted(loss):
    stylized, content = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    terms = loss(stylized, content)
    assert set(terms) == {"content", "style", "tv", "grid", "content/relu2_2", *(f"style/{name}" for name in STYLE)}
    assert_close(terms["style"], sum(weight * terms[f"style/{name}"] for name, weight in STYLE.items()))
    assert_close(terms["content"], 3 * terms["content/relu2_2"])
    assert_close(terms["tv"], total_variation(stylized))


def test_relative_terms_are_1_for_the_reference(features, painting):
    reference = torch.rand(3, 3, 32, 32)
    relative = PerceptualLoss(features, painting, STYLE, CONTENT, reference)
    terms = relative(reference, reference.roll(1, 0))
    for name in ("tv", "grid", "content/relu2_2", *(f"style/{layer}" for layer in STYLE)):
        assert terms[name].item() == pytest.approx(1, rel=1e-5)
    assert terms["style"].item() == pytest.approx(sum(STYLE.values()), rel=1e-5)


def test_relative_terms_do_not_depend_on_the_scale_of_vgg(features, painting):
    """A VGG whose features are ten times as large has Gram distances 10^4 times as large."""
    reference, stylized, content = (torch.rand(2, 3, 32, 32) for _ in range(3))
    larger = copy.deepcopy(features)
    larger.relu1_1_kernel.mul_(10)
    for name in larger.layers:
        getattr(larger, f"{name}_bias").mul_(10)
    one, other = (PerceptualLoss(v, painting, STYLE, CONTENT, reference)(stylized, content) for v in (features, larger))
    for name in one:
        assert_close(one[name], other[name], rtol=1e-3, atol=0)
    raw = [PerceptualLoss(v, painting, STYLE, CONTENT)(stylized, content)["style"] for v in (features, larger)]
    assert raw[1] / raw[0] > 9e3


def test_a_vgg_that_sees_nothing_has_nothing_to_be_relative_to(features, painting):
    photos = torch.rand(2, 3, 32, 32)
    PerceptualLoss(features, painting, STYLE, CONTENT, photos)
    blind = copy.deepcopy(features)
    blind.relu1_1_kernel.zero_()
    with pytest.raises(UserError, match="content/relu2_2 is 0 for photos: nothing to be relative to"):
        PerceptualLoss(blind, painting, STYLE, CONTENT, photos)


def test_sums_are_not_for_relative_terms(features, painting):
    """The reference's would be of its size, the terms' of theirs."""
    with pytest.raises(UserError, match="loss.content_reduction=sum grows with the picture.*loss.relative=false"):
        PerceptualLoss(features, painting, STYLE, CONTENT, torch.rand(2, 3, 32, 32), "sum")


def test_content_is_zero_for_the_photo_and_style_for_the_painting(loss, painting):
    terms = loss(painting, painting)
    assert terms["content"] == 0
    assert terms["style"].item() == pytest.approx(0, abs=1e-4)
    assert loss(torch.rand_like(painting), painting)["style"] > 100


def test_style_of_a_batch_is_the_mean_of_its_images(loss):
    batch = torch.rand(3, 3, 32, 32)
    alone = torch.stack([loss(image[None], image[None])["style"] for image in batch])
    assert_close(loss(batch, batch)["style"], alone.mean())


def test_a_sum_is_of_each_image(features, painting):
    """As in Gatys' loss; of a batch, their mean."""
    stylized, content = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    mean, total = (
        PerceptualLoss(features, painting, STYLE, CONTENT, content_reduction=reduction)(stylized, content)["content"]
        for reduction in ("mean", "sum")
    )
    assert_close(total, mean * (128 * 16 * 16))  # relu2_2's


def test_gradient_reaches_the_stylized_only(loss):
    stylized, content = (torch.rand(1, 3, 32, 32, requires_grad=True) for _ in range(2))
    LossWeights(content=1, style=1, tv=1, grid=1).total(loss(stylized, content)).backward()
    assert stylized.grad.abs().sum() > 0
    assert content.grad is None
    assert not list(loss.parameters())
    assert not loss.state_dict()


def test_terms_are_float32_under_autocast(loss):
    with torch.autocast("cpu", torch.bfloat16):
        terms = loss(torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32))
    assert {term.dtype for term in terms.values()} == {torch.float32}


def test_weights_make_the_total():
    terms = {
        "content": torch.tensor(2.0),
        "style": torch.tensor(3.0),
        "tv": torch.tensor(5.0),
        "grid": torch.tensor(0.5),
        "style/x": torch.tensor(7),
    }
    assert LossWeights(content=1, style=10, tv=100, grid=2).total(terms) == 533


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"content": 1, "style": 1, "grid": 1}, "loss.weights.tv is missing"),
        ({"content": 1, "style": 1, "tv": 1, "grid": 1, "styel": 1}, "loss.weights.styel is no term"),
        ({"content": 1, "style": -1, "tv": 1}, "loss.weights.style is a number from 0 on, not -1"),
        ({"content": 1, "style": "much", "tv": 1}, "not 'much'"),
        ({"content": 1, "style": float("nan"), "tv": 1}, "not nan"),
        ({"content": 0, "style": 0, "tv": 0, "grid": 0}, "loss.weights are all 0, which leaves nothing to minimise"),
    ],
)
def test_wrong_weights_are_named(weights, message):
    with pytest.raises(UserError, match=message):
        LossWeights(**weights)


def test_wrong_layer_weights_are_named(features, painting):
    with pytest.raises(UserError, match=r"loss.style_layers.relu1_1 is a number from 0 on, not -2"):
        PerceptualLoss(features, painting, {"relu1_1": -2}, CONTENT)


def test_a_vgg_on_another_device_takes_the_painting_there(painting):
    devices = []

    class Elsewhere(VGG19Features):
        def forward(self, image, layers):
            devices.append(image.device.type)
            return {name: torch.rand(2, 4, 3, 3) for name in layers}

    vgg = Elsewhere(["relu1_1", "relu2_1"]).to("meta")  # which stands for a GPU
    reference = torch.rand(2, 3, 32, 32)
    with pytest.raises(RuntimeError, match="meta tensors"):  # which have no numbers
        PerceptualLoss(vgg, painting, {"relu1_1": 1.0}, {"relu2_1": 1.0}, reference)
    assert devices == ["meta", "meta"]


def test_a_painting_too_small_is_named(features):
    with pytest.raises(UserError, match="3×2 px is too small"):
        PerceptualLoss(features, torch.rand(1, 3, 2, 3), STYLE, CONTENT)
