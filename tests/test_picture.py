import struct

import numpy as np
import pytest
from PIL import Image

from impasto.picture import SRGB, Picture, from_pil, is_srgb
from impasto.picture_files import read_picture

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


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_resizing_keeps_what_is_half_transparent_so(dtype):
    alpha = np.full((16, 30), np.iinfo(dtype).max // 3, dtype)
    half = Picture(np.full((16, 30, 3), np.iinfo(dtype).max // 5, dtype), alpha).resized((15, 8))
    assert (np.abs(half.alpha.astype(int) - int(alpha[0, 0])) <= 1).all()
    assert (np.abs(half.pixels.astype(int) - np.iinfo(dtype).max // 5) <= 1).all()


def test_srgb_is_not_converted(monkeypatch):
    assert is_srgb(SRGB)
    monkeypatch.setattr("PIL.ImageCms.profileToProfile", None)
    image = noise_image(9, 9)
    image.info["icc_profile"] = SRGB
    assert np.array_equal(from_pil(image).pixels, np.asarray(image))


def linear(profile):
    """sRGB's profile with its curve made linear, its name and all else as they were."""
    curve = struct.pack(">4s4xHxxi", b"para", 3, round(2.4 * 65536))
    assert curve in profile
    return profile.replace(curve, struct.pack(">4s4xHxxi", b"para", 0, 65536))


def test_linear_light_that_calls_itself_srgb_is_converted():
    """As do profiles of programs that paint in it."""
    assert not is_srgb(linear(SRGB))
    image = Image.new("RGB", (2, 2), (64, 64, 64))
    image.info["icc_profile"] = linear(SRGB)
    expected = 1.055 * (64 / 255) ** (1 / 2.4) - 0.055
    assert from_pil(image).pixels[0, 0] == pytest.approx(expected * 255, abs=1.5)


@pytest.mark.parametrize("mode", ["L", "LA", "CMYK"])
def test_a_profile_of_colours_fits_grey_too_and_what_fits_nothing_is_passed_over(mode):
    image = Image.new("L", (2, 2), 64).convert(mode)
    levels = np.asarray(image.convert("RGB"))
    expected = 1.055 * (levels / 255) ** (1 / 2.4) - 0.055
    converted = from_pil(with_profile(image, linear(SRGB))).pixels
    np.testing.assert_allclose(converted, expected * 255, atol=1.5)
    assert np.array_equal(from_pil(with_profile(image, b"no profile")).pixels, levels)


@pytest.mark.parametrize("kind", ["L", "LA", "La", "transparent", "I;16"])
def test_grey_is_converted_by_its_profile(tmp_path, grey_profile, kind):
    grey = Image.new("L", (2, 2), 64)
    if kind == "I;16":
        grey = Image.fromarray(np.full((2, 2), 64 * 257, np.uint16))
    elif kind in ("LA", "La"):
        grey.putalpha(128)
        grey = grey.convert(kind)
    if kind == "La":
        picture = from_pil(with_profile(grey, grey_profile))
    else:
        grey.save(
            tmp_path / "a.png", icc_profile=grey_profile, **({"transparency": 9} if kind == "transparent" else {})
        )
        picture = read_picture(tmp_path / "a.png")
    levels = np.iinfo(picture.pixels.dtype).max
    assert levels == (65535 if kind == "I;16" else 255)
    expected = 1.055 * (64 / 255) ** (1 / 2.4) - 0.055
    assert picture.pixels[0, 0] / levels == pytest.approx(expected, abs=0.007)
    if "a" in kind.lower() and kind != "transparent":
        assert (picture.alpha == 128).all()


def with_profile(image, profile):
    image.info["icc_profile"] = profile
    return image


@pytest.fixture
def grey_profile():
    """Of linear light, version 2."""
    white = struct.pack(">3i", *(round(value * 65536) for value in (0.9642, 1, 0.8249)))
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 2) + b"g\0" + bytes(78),
        b"wtpt": b"XYZ " + bytes(4) + white,
        b"kTRC": struct.pack(">4s4xI", b"curv", 0),  # no entry: the identity
    }
    table, data = struct.pack(">I", len(tags)), b""
    for name, tag in tags.items():
        table += struct.pack(">4sII", name, 128 + 4 + 12 * len(tags) + len(data), len(tag))
        data += tag + bytes(-len(tag) % 4)
    header = struct.pack(">I4xI4s4s4s", 128 + len(table + data), 0x02200000, b"mntr", b"GRAY", b"XYZ ") + bytes(12)
    header += b"acsp" + bytes(28) + white
    return header.ljust(128, b"\0") + table + data


def test_16_bits_of_grey_keep_their_levels_beside_a_transparent_one(tmp_path):
    levels = np.arange(0, 64000, 8000, dtype=np.uint16).reshape(2, 4)
    image = Image.fromarray(levels)
    image.info["transparency"] = 8000
    picture = from_pil(image)
    assert np.array_equal(picture.pixels[..., 0], levels)
    assert np.array_equal(picture.alpha == 0, levels == 8000)


def test_32_bits_of_grey_mean_what_pillow_means_by_them(tmp_path):
    grey = Image.fromarray(np.arange(0, 256, 16, dtype=np.uint8).reshape(4, 4))
    for mode in ("I", "F"):
        assert np.array_equal(from_pil(grey.convert(mode)).pixels[..., 0], np.asarray(grey) * np.uint16(257))
    share = Image.fromarray(np.asarray(grey, np.float32) / 255)
    assert np.array_equal(from_pil(share).pixels[..., 0], np.asarray(grey) * np.uint16(257))
    Image.fromarray(np.asarray(grey, np.int32)).save(tmp_path / "dark.tif")  # 16 bits of a dark picture
    with Image.open(tmp_path / "dark.tif") as image:
        assert np.array_equal(from_pil(image).pixels[..., 0], np.asarray(grey))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_over_white(dtype):
    levels = 1 if dtype == "float32" else np.iinfo(dtype).max
    pixels = np.zeros((1, 3, 3), dtype)
    alpha = np.array([[0, levels / 2, levels]]).astype(dtype)
    opaque = Picture(pixels, alpha).over_white()
    assert opaque.alpha is None and opaque.pixels.dtype == dtype
    np.testing.assert_allclose(opaque.pixels[0, :, 0] / levels, [1, 0.5, 0], atol=1 / 255)
