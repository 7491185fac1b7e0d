import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from impasto.losses.functional import (
    feature_reconstruction,
    gram_matrix,
    grid_pattern,
    style_reconstruction,
    total_variation,
)


@pytest.fixture
def features():
    return torch.randn(2, 6, 5, 7)


def test_gram_matrix_of_a_constant():
    # every product is 2 * 2, summed over 12 pixels, over C*H*W = 3 * 12
    assert_close(gram_matrix(torch.full((1, 3, 3, 4), 2.0)), torch.full((1, 3, 3), 4 / 3))


def test_gram_matrix_is_the_papers_sum(features):
    expected = torch.einsum("bchw,bdhw->bcd", features, features) / (6 * 5 * 7)
    assert_close(gram_matrix(features), expected)


def test_gram_matrix_is_symmetric_and_positive_semidefinite(features):
    gram = gram_matrix(features)
    assert_close(gram, gram.mT)
    assert torch.linalg.eigvalsh(gram.double()).min() > -1e-6


def test_gram_matrix_ignores_pixel_order(features):
    order = torch.randperm(features[0, 0].numel())
    shuffled = features.flatten(2)[..., order].view_as(features)
    assert_close(gram_matrix(shuffled), gram_matrix(features))


@settings(deadline=None)
@given(st.floats(0.01, 100))
def test_gram_matrix_is_quadratic_in_scale(scale):
    features = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert_close(gram_matrix(scale * features), scale**2 * gram_matrix(features), rtol=1e-4, atol=1e-6)


def test_gram_matrix_of_each_image_alone(features):
    assert_close(gram_matrix(features)[1:], gram_matrix(features[1:]))


def test_gram_matrix_is_float32_under_autocast_and_does_not_overflow():
    features = torch.full((1, 64, 32, 32), 6e4, dtype=torch.float16)
    with torch.autocast("cpu", torch.bfloat16):
        gram = gram_matrix(features)
    assert gram.dtype == torch.float32
    expected = features[0, 0, 0, 0].double() ** 2 / 64
    assert_close(gram, torch.full_like(gram, float(expected)), rtol=1e-5, atol=0)


def test_reconstructions_are_zero_at_the_target_and_means_elsewhere(features):
    gram = gram_matrix(features)
    assert style_reconstruction(gram, gram) == 0
    assert_close(style_reconstruction(gram + 3, gram), torch.tensor(9.0))
    assert feature_reconstruction(features, features) == 0
    assert_close(feature_reconstruction(features - 2, features), torch.tensor(4.0))


def test_total_variation_of_known_images():
    assert total_variation(torch.full((1, 3, 5, 5), 0.3)) == 0
    ramp = torch.linspace(0, 1, 11).expand(1, 3, 4, 11)
    assert_close(total_variation(ramp), torch.tensor(0.01))
    board = (torch.arange(6)[:, None] + torch.arange(6)) % 2
    assert_close(total_variation(board.float().expand(1, 3, 6, 6)), torch.tensor(2.0))
    assert total_variation(torch.rand(1, 3, 1, 1)) == 0


@pytest.mark.parametrize(
    "term", [total_variation, grid_pattern, lambda image: feature_reconstruction(image, image / 3)]
)
def test_terms_of_narrow_numbers_are_those_of_wide_ones(term):
    image = torch.rand(2, 3, 40, 40).bfloat16()
    assert term(image).dtype == torch.float32
    assert_close(term(image), term(image.float()), rtol=1e-2 if term.__name__ == "<lambda>" else 1e-6, atol=0)


def test_gram_matrix_has_the_gradient_of_any_function_of_it(features):
    features = features.clone().requires_grad_()
    weights = torch.randn(features.shape[1], features.shape[1])  # not symmetric
    flat = features.flatten(2)
    (expected,) = torch.autograd.grad((flat @ flat.mT * weights).sum() / features[0].numel(), features)
    (gradient,) = torch.autograd.grad((gram_matrix(features) * weights).sum(), features)
    assert_close(gradient, expected)


def test_gradients_of_float16_features_keep_what_float16_cannot_hold():
    features = torch.randn(1, 64, 64, 64, generator=torch.Generator().manual_seed(0)).relu()
    target = gram_matrix(features) * 0.9
    gradients = []
    for dtype in (torch.float32, torch.float16):
        leaf = features.detach().to(dtype, copy=True).requires_grad_()
        (65536 * (gram_matrix(leaf) - target).square().mean()).backward()  # scaled, as for 16-mixed
        gradients.append(leaf.grad.float().flatten())
    assert torch.cosine_similarity(*gradients, dim=0) > 0.999
    assert gradients[1].norm() == pytest.approx(float(gradients[0].norm()), rel=1e-2)


def test_gradients_are_finite_differences():
    image = torch.rand(1, 2, 4, 5, requires_grad=True)
    features = torch.randn(1, 3, 4, 4, requires_grad=True)
    for function, argument in (
        (total_variation, image),
        (lambda f: style_reconstruction(gram_matrix(f), torch.ones(1, 3, 3)), features),
    ):
        (gradient,) = torch.autograd.grad(function(argument), argument)
        direction = torch.randn_like(argument)
        step = 1e-2 * direction
        with torch.no_grad():
            slope = (function(argument + step) - function(argument - step)) / 2e-2
        assert_close((gradient * direction).sum(), slope, rtol=0.02, atol=1e-4)


def test_grid_pattern_sees_only_what_repeats_with_the_grid():
    image = torch.rand(1, 3, 64, 64).mul(0).add(0.5)
    assert grid_pattern(image) == 0
    striped = image.clone()
    striped[..., ::4] += 0.4  # a quarter of the columns: variance 0.4^2 * 1/4 * 3/4
    assert grid_pattern(striped).item() == pytest.approx(0.16 * 3 / 16, rel=1e-4)
    checkered = image.clone()
    checkered[..., ::2, ::2] += 0.2
    checkered[..., 1::2, 1::2] += 0.2
    assert grid_pattern(checkered).item() == pytest.approx(0.01, rel=1e-4)
    assert grid_pattern(torch.rand(1, 3, 512, 512)).item() < 1e-5  # noise: 1/12 over 16,384 samples
    assert grid_pattern(torch.rand(1, 3, 3, 9)) == 0  # no whole period
    assert grid_pattern(torch.rand(2, 3, 1, 1).expand(2, 3, 8, 8)).item() < 1e-12  # of colour, but no pattern
    ramp = torch.linspace(0, 1, 400).expand(1, 3, 400, 400)
    assert grid_pattern(ramp).item() < 1e-4
