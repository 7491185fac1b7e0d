import numpy as np
import pytest

from impasto.controls import LUMA, Controls, _colour_transfer, check_mask, finish, read_mask
from impasto.errors import UserError
from impasto.levels import composite, unit
from impasto.picture import Picture


@pytest.fixture(params=["uint8", "uint16"])
def pair(request):
    levels = np.iinfo(request.param).max
    random = np.random.default_rng(0)
    return tuple(random.integers(levels // 3, levels * 2 // 3, (600, 20, 3), dtype=request.param) for _ in range(2))


def test_strength_blends_from_the_photo_to_the_networks_picture_and_beyond(pair):
    stylized, photo = pair
    assert finish(stylized, photo, Controls(strength=0)) is photo
    np.testing.assert_array_equal(finish(stylized, photo, Controls()), stylized)
    for strength in (0.25, 1.3):
        expected = unit(photo) + strength * (unit(stylized) - unit(photo))
        result = finish(stylized, photo, Controls(strength=strength))
        assert result.dtype == photo.dtype
        assert np.abs(unit(result) - expected).max() <= 0.51 / np.iinfo(photo.dtype).max + 1e-6


def test_luminance_keeps_the_photos_chroma(pair):
    stylized, photo = map(unit, pair)
    result = finish(stylized, photo, Controls(preserve_color="luminance"))
    inside = ((result > 0) & (result < 1)).all(axis=2)
    np.testing.assert_allclose((result @ LUMA)[inside], (stylized @ LUMA)[inside], atol=1e-5)
    for image in (result, photo):
        image -= (image @ LUMA)[..., None]
    np.testing.assert_allclose(result[inside], photo[inside], atol=1e-5)


def test_brightness_is_what_the_eye_has_of_each_colour():
    photo = np.full((1, 3, 3), 0.2, np.float32)
    stylized = np.eye(3, dtype=np.float32)[None] * 0.5
    result = finish(stylized, photo, Controls(preserve_color="luminance"))
    np.testing.assert_allclose(result[0], 0.5 * np.float32([[0.299] * 3, [0.587] * 3, [0.114] * 3]), atol=1e-6)


def test_strength_blends_what_can_be_shown():
    """Red, brought to the brightness of white, would be above 1."""
    photo, white = np.float32([[[0.9, 0.1, 0.1]]]), np.ones((1, 1, 3), np.float32)
    whole = finish(white, photo, Controls(preserve_color="luminance"))
    assert whole[0, 0, 0] == 1
    half = finish(white, photo, Controls(preserve_color="luminance", strength=0.5))
    np.testing.assert_allclose(half, (photo + whole) / 2, atol=1e-6)


def test_histogram_takes_the_photos_mean_and_covariance():
    """Of two pictures whose channels go together differently."""
    random = np.random.default_rng(1)
    mixing, other = random.random((2, 3, 3)) * 0.1
    photo = (0.5 + random.standard_normal((500, 40, 3)) @ mixing * 0.5).astype(np.float32).clip(0, 1)
    stylized = (0.4 + random.standard_normal((500, 40, 3)) @ other).astype(np.float32).clip(0, 1)
    result = finish(stylized, photo, Controls(preserve_color="histogram"))
    np.testing.assert_allclose(result.mean((0, 1)), photo.mean((0, 1)), atol=2e-3)
    np.testing.assert_allclose(np.cov(result.reshape(-1, 3).T), np.cov(photo.reshape(-1, 3).T), atol=2e-4)


@pytest.mark.parametrize(("period", "side"), [(2, 2001), (4, 4000)])
def test_colours_of_a_large_screened_picture_are_its_own(period, side):
    """Every n-th pixel is on the same side of a screen: a halftone came back white all over."""
    photo = np.zeros((side, side, 3), np.uint8)
    photo[::period, ::period] = 255
    stylized = np.random.default_rng(0).integers(0, 256, photo.shape, dtype=np.uint8)
    *_, mean = _colour_transfer(stylized, photo, None)
    np.testing.assert_allclose(mean, photo.mean() / 255, atol=0.005)
    *_, mean = _colour_transfer(stylized, photo, photo[..., 0])  # what is transparent has no say
    np.testing.assert_allclose(mean, 1)


def test_what_is_transparent_has_no_say_in_colours():
    """Of a picture that was cut out, whose colours around it mean nothing."""
    random = np.random.default_rng(2)
    photo, stylized = (
        random.uniform(low, high, (60, 60, 3)).astype(np.float32) for low, high in ((0.1, 0.6), (0.4, 0.7))
    )
    alpha = np.zeros((60, 60), np.float32)
    alpha[:, :20] = 1
    expected = finish(stylized[:, :20], photo[:, :20], Controls(preserve_color="histogram"))
    photo[:, 20:], stylized[:, 20:] = 1, 0
    result = finish(stylized, photo, Controls(preserve_color="histogram"), alpha)
    np.testing.assert_allclose(result[:, :20], expected, atol=1e-4)
    assert np.isfinite(finish(stylized, photo, Controls(preserve_color="histogram"), 0 * alpha)).all()


def test_a_style_without_colours_gets_no_noise_for_them():
    """As an ink drawing's, of which rounding is all the colour."""
    random = np.random.default_rng(3)
    grey = random.integers(0, 256, (200, 200, 1))
    stylized = (grey + random.integers(-1, 2, (200, 200, 3))).clip(0, 255).astype(np.uint8)
    photo = random.integers(0, 256, (20, 20, 3)).repeat(10, 0).repeat(10, 1).astype(np.uint8)
    result = finish(stylized, photo, Controls(preserve_color="histogram")).astype(int)
    assert (result[..., 2] - result[..., 1]).std() < 40  # the photo's has 104


def test_sizes():
    assert Controls().sizes(400, 300) == ((400, 300), (400, 300))
    assert Controls(size=200).sizes(400, 300) == ((200, 150), (200, 150))
    assert Controls(size=200, upscale=True).sizes(400, 300) == ((200, 150), (400, 300))
    assert Controls(stroke=100).sizes(400, 300) == ((100, 75), (400, 300))
    assert Controls(stroke=100, size=800).sizes(400, 300) == ((100, 75), (800, 600))
    assert Controls(size=1).sizes(400, 1) == ((1, 1), (1, 1))


def test_a_mask_chooses_and_blends_between(pair):
    inside, outside = pair
    levels = np.zeros((600, 20, 3), np.uint8)
    levels[300:] = 255
    sharp = read_mask(Picture(levels), (20, 600), 0)
    np.testing.assert_array_equal(composite(inside, outside, sharp), np.concatenate([outside[:300], inside[300:]]))
    soft = read_mask(Picture(levels), (20, 600), 16)
    assert soft[300, 0] == pytest.approx(0.5, abs=0.05)
    assert soft[260, 0] == 0
    assert soft[340, 0] == 1
    assert (np.diff(soft[:, 0]) >= 0).all()


@pytest.mark.parametrize(
    ("size", "stretched"), [((90, 60), False), ((41, 27), False), ((1, 1), False), ((60, 90), True)]
)
def test_a_mask_of_another_shape_is_told(caplog, size, stretched):
    read_mask(Picture(np.zeros((400, 600, 3), np.uint8)), size, 0)
    assert caplog.messages == ["the mask of 600×400 px is stretched to 60×90 px"] * stretched


def test_what_is_transparent_in_a_mask_is_black(caplog):
    """As drawing programs export a layer on which it was drawn."""
    drawn, alpha = np.full((4, 6, 3), 255, np.uint8), np.zeros((4, 6), np.uint8)
    alpha[:, :3] = 255
    cover = read_mask(Picture(drawn, alpha), (6, 4), 0)
    np.testing.assert_array_equal(cover, np.where(alpha, 1.0, 0.0))
    check_mask(Picture(drawn, alpha))
    assert not caplog.messages
    check_mask(Picture(0 * drawn, alpha))
    check_mask(Picture(drawn))
    assert caplog.messages == [f"the mask is {level} all over" for level in ("black or transparent", "white")]


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"strength": -0.1}, "strength=-0.1 should be in 0…10"),
        ({"strength": float("nan")}, "strength=nan should be in"),
        ({"preserve_color": "all"}, "preserve_color is none, luminance, histogram, not 'all'"),
        ({"strength": "0.5"}, "strength='0.5' should be a number"),
        ({"strength": None}, "strength=None should be a number"),
        ({"size": True}, "size=True should be a whole number"),
        ({"size": "32"}, "size='32' should be a whole number"),
        ({"stroke": 320.5}, "stroke=320.5 should be a whole number"),
        ({"size": 0}, "size=0 should be in 1…1000000 px"),
        ({"stroke": -4}, "stroke=-4 should be in 1…1000000 px"),
        ({"stroke": 3_000_000_000}, "stroke=3000000000 should be in 1…1000000 px"),
        ({"upscale": "no", "size": 9}, "upscale='no' should be true or false"),
        ({"upscale": True, "stroke": 9}, "upscale=true takes size=, the long side at which the network sees the photo"),
    ],
)
def test_values_out_of_range_are_named(values, line):
    with pytest.raises(UserError, match=line):
        Controls(**values)
