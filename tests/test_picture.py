import numpy as np
import pytest
from PIL import Image

from impasto.picture import SRGB, Picture, from_pil

from .conftest import noise_image


def test_what_is_transparent_takes_the_colours_around():
    """A red disc on transparent black: no black is left for a network to see, and red stays as it was."""
    rows, columns = np.mgrid[:40, :60]
    disc = (rows - 20) ** 2 + (columns - 30) ** 2 < 100
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[disc] = (200, 30, 10)
    filled = Picture(pixels, disc.astype(np.uint8) * 255).filled()
    assert (np.abs(filled.astype(int) - (200, 30, 10)) <= 2).all()
    np.testing.assert_array_equal(filled[disc], pixels[disc])


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_resizing_keeps_hidden_colours_out(dtype):
    pixels = np.zeros((20, 40, 3), dtype)
    pixels[:, 20:] = np.iinfo(dtype).max  # white, beside transparent black
    alpha = pixels[..., 0]
    half = Picture(pixels, alpha).resized((15, 8))
    assert half.pixels.dtype == half.alpha.dtype == dtype
    seen = half.alpha > np.iinfo(dtype).max // 20
    assert (half.pixels[seen] > 0.97 * np.iinfo(dtype).max).all()


def test_srgb_is_not_converted(monkeypatch):
    monkeypatch.setattr("PIL.ImageCms.profileToProfile", None)
    image = noise_image(9, 9)
    image.info["icc_profile"] = SRGB
    assert np.array_equal(from_pil(image).pixels, np.asarray(image))


def test_16_bits_of_grey_keep_their_levels_beside_a_transparent_one(tmp_path):
    levels = np.arange(0, 64000, 8000, dtype=np.uint16).reshape(2, 4)
    image = Image.fromarray(levels)
    image.info["transparency"] = 8000
    picture = from_pil(image)
    assert np.array_equal(picture.pixels[..., 0], levels)
    assert np.array_equal(picture.alpha == 0, levels == 8000)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_over_white(dtype):
    levels = 1 if dtype == "float32" else np.iinfo(dtype).max
    pixels = np.zeros((1, 3, 3), dtype)
    alpha = np.array([[0, levels / 2, levels]]).astype(dtype)
    opaque = Picture(pixels, alpha).over_white()
    assert opaque.alpha is None and opaque.pixels.dtype == dtype
    np.testing.assert_allclose(opaque.pixels[0, :, 0] / levels, [1, 0.5, 0], atol=1 / 255)
