"""The warping error: nothing for what only moves, the amount for what flickers."""

import json

import numpy as np
import pytest
from PIL import Image

from impasto.commands.flicker import flicker
from impasto.errors import UserError
from impasto.evaluation.flicker import motion, sharpness, warping_error
from impasto.temporal import warp

from .conftest import noise_image


@pytest.fixture(scope="module")
def moving():
    """A soft texture that moves 3 px to the left each frame."""
    texture = noise_image(24, 12).resize((192, 96), Image.Resampling.BICUBIC)
    pixels = np.asarray(texture, dtype=np.float32) / 255
    return [pixels[:, 3 * step : 3 * step + 128] for step in range(4)]


def test_what_moves_has_no_error_but_its_flow(moving):
    assert warping_error(moving, moving) < 0.02
    places, seen = motion(moving[0], moving[1])
    inside = np.s_[8:-8, 8:-8]
    assert seen[inside].mean() > 0.95
    assert not seen[:, -1].any()  # came into view
    assert np.abs(warp(moving[0], places) - moving[1])[inside].mean() < 0.01


def test_flicker_is_measured_by_its_amount(moving):
    flickering = [frame + 0.1 * (step % 2) for step, frame in enumerate(moving)]
    still = [moving[0]] * 4
    assert warping_error(still, still) < 0.002
    lit = [frame + 0.1 * (step % 2) for step, frame in enumerate(still)]
    assert warping_error(still, lit) == pytest.approx(0.1 * 3**0.5, rel=0.01)
    assert warping_error(moving, flickering) == pytest.approx(0.1 * 3**0.5, rel=0.1)


def test_frames_of_one_colour_and_results_alone_on_stdout(forked, tmp_path, network_file):
    for number in range(2):
        Image.new("RGB", (32, 32)).save(tmp_path / f"{number}.png")
    result = forked("scripts/flicker.py", f"ckpt={network_file}", f"input={tmp_path}", "smooth=0", "size=32")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["frames"] == 2
    assert "2 frames of" in result.stderr


def test_sharpness_is_the_differences_between_neighbours():
    ramp = np.tile(np.arange(8, dtype=np.float32)[None, :, None] / 10, (8, 1, 3))
    assert sharpness([ramp]) == pytest.approx(0.1**2 / 2)
    assert sharpness([ramp, 0 * ramp]) == pytest.approx(0.1**2 / 4)


@pytest.mark.parametrize("word", ["size=0", "size=-5", "size=15"])
def test_a_size_at_which_nothing_can_be_measured_is_refused(word):
    with pytest.raises(UserError, match=f"{word} should be at least 16 px"):
        flicker(["ckpt=starry_night", "input=clip.mp4", word])
