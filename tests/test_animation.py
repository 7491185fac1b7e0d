import numpy as np
import pytest
from PIL import Image

from impasto.animation import read_animation, write_animation
from impasto.errors import UserError
from impasto.picture import Picture

from .conftest import noise_image

COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]


def film(path, **options):
    frames = [Image.new("RGB", (24, 18), colour) for colour in COLOURS]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=[70, 250, 130], loop=3, **options)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_frames_and_their_timing_survive(tmp_path, suffix):
    film(tmp_path / f"film{suffix}", **({"lossless": True} if suffix == ".webp" else {}))
    animation = read_animation(tmp_path / f"film{suffix}")
    inverted = animation.painted(lambda picture: Picture(255 - picture.pixels, picture.alpha))
    write_animation(inverted, tmp_path / f"out{suffix}", suffix, 95)
    again = read_animation(tmp_path / f"out{suffix}")
    assert again.durations == animation.durations == (70, 250, 130)
    assert again.loop == animation.loop
    for frame, colour in zip(again.frames, COLOURS, strict=True):
        assert np.abs(frame.pixels.astype(int) - (255 - np.array(colour))).max() <= 8


def test_a_still_image_is_none(tmp_path):
    noise_image(9, 9).save(tmp_path / "a.gif")
    noise_image(9, 9).save(tmp_path / "a.jpg")
    assert read_animation(tmp_path / "a.gif") is None
    assert read_animation(tmp_path / "a.jpg") is None


def test_all_frames_count_against_the_limit(tmp_path):
    film(tmp_path / "film.gif")
    with pytest.raises(UserError, match=r"3 frames of 24×18 px are more than max_megapixels=0.001"):
        read_animation(tmp_path / "film.gif", 0.001)
