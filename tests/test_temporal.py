"""Engines that remember: strokes move with what they are painted on, cuts stay cuts."""

import numpy as np
import pytest
from PIL import Image

from impasto.evaluation.flicker import sharpness, warping_error
from impasto.temporal import SIDE, Motion, SteadyEngine, at_rest, consistent, find_motion, warp, with_contrast_of

from .conftest import noise_image


class Boiling:
    """Paints each frame with strokes of its own."""

    metadata, device, precision = {"style": {"name": "boiling"}}, "cpu", "float32"

    def __init__(self):
        self.random = np.random.default_rng(0)

    def __call__(self, content):
        strokes = self.random.normal(0, 0.1, content.shape).astype(np.float32)
        return (content + strokes).clip(0, 1)


@pytest.fixture(scope="module")
def moving():
    """A soft texture that moves 3 px to the left each frame."""
    texture = noise_image(24, 12).resize((224, 96), Image.Resampling.BICUBIC)
    pixels = np.asarray(texture, dtype=np.float32) / 255
    return [arranged(pixels[:, 3 * step : 3 * step + 128]) for step in range(10)]


def arranged(frame):
    return np.ascontiguousarray(frame.transpose(2, 0, 1)[None])


def frames(arrays):
    return [array[0].transpose(1, 2, 0) for array in arrays]


def levels(array):
    return (array[0].transpose(1, 2, 0) * 255 + 0.5).astype(np.uint8)


def test_motion_is_found_and_leads_back(moving):
    motion = find_motion(levels(moving[0]), levels(moving[1]))
    rows, columns = np.indices((96, 128))
    inside = np.s_[8:-8, 8:-8]
    assert np.abs(motion.places[..., 0] - columns - 3)[inside].mean() < 0.2
    assert np.abs(motion.places[..., 1] - rows)[inside].mean() < 0.2
    assert motion.trust[inside].mean() > 0.95
    assert not motion.trust[:, -1].any()  # came into view
    larger = motion.resized(192, 256)
    assert np.abs(larger.places[..., 0] - np.indices((192, 256))[1] - 6)[16:-16, 16:-16].mean() < 0.4
    assert larger.trust.shape == (192, 256)


def test_flows_that_contradict_each_other_are_not_consistent():
    flow = np.full((8, 16, 2), (2, 0), dtype=np.float32)
    assert consistent(flow, -flow)[:, :-2].all()
    assert not consistent(flow, -flow)[:, -2:].any()  # from outside
    assert not consistent(flow, flow).any()


def test_flows_lead_back_within_a_hundredth_of_their_squares_and_half_a_pixel():
    """Within the root of 0.01 * (10^2 + 8.4^2) + 0.5, 1.49 px, for the larger of these."""
    flow = np.full((4, 40, 2), (10, 0), dtype=np.float32)
    for error, agree in ((1.45, True), (1.65, False)):
        assert (consistent(flow, -flow + np.float32([error, 0]))[:, :-10] == agree).all()
    assert consistent(0 * flow, 0 * flow + np.float32(0.49)).all()
    assert not consistent(0 * flow, 0 * flow + np.float32(0.51)).any()


def test_the_way_back_begins_where_the_way_there_ends():
    backward = np.full((4, 40, 2), (10, 0), dtype=np.float32)
    forward = np.zeros_like(backward)
    forward[:, 20:] = -10, 0
    np.testing.assert_array_equal(consistent(backward, forward)[0], (np.arange(40) >= 10) & (np.arange(40) < 30))


def test_motion_in_frames_of_another_shape_is_as_far():
    motion = Motion(at_rest(10, 20) + np.float32([3, 1]), np.ones((10, 20), np.float32)).resized(20, 80)
    np.testing.assert_allclose(motion.places - at_rest(20, 80), np.broadcast_to([12, 2], (20, 80, 2)), atol=1e-4)


def test_a_frame_goes_on_beyond_its_edges():
    white = np.ones((4, 6, 3), np.float32)
    for shift in (-0.4, 0.4, 9):
        np.testing.assert_allclose(warp(white, at_rest(4, 6) + np.float32(shift)), white, atol=1e-6)


def test_what_one_flow_alone_finds_is_not_trusted(monkeypatch):
    photo, same = np.full((2, 16, 32, 3), 128, np.uint8)
    flows = {True: np.zeros((16, 32, 2), np.float32), False: np.zeros((16, 32, 2), np.float32)}
    flows[False][:, :8] = 3  # of the photo before, to the next
    monkeypatch.setattr("impasto.temporal._flow", lambda one, other: flows[one is same])
    trust = find_motion(photo, same).trust
    np.testing.assert_array_equal(trust, np.where(np.arange(32) < 8, 0, 1) + np.zeros((16, 1)))


def test_noise_of_photos_is_no_change(moving):
    """A sensor's, of 15 levels: pixel by pixel it would have a trust of a third."""
    random = np.random.default_rng(0)
    noisy = [(levels(moving[0]) * 0.7 + random.normal(40, 15, (96, 128, 3))).clip(0, 255) for _ in range(2)]
    assert find_motion(*(frame.astype(np.uint8) for frame in noisy)).trust.mean() > 0.7


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 9), (33, 700)])
def test_frames_of_any_size_have_motion(size):
    """OpenCV's own flow crashes for narrow frames."""
    photo = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    motion = find_motion(photo, photo)
    assert motion.places.shape == (*size, 2)
    assert motion.trust.min() > 0.9


def test_strokes_that_boil_are_held_down_and_stay_sharp(moving):
    engine = Boiling()
    painted = [engine(content) for content in moving]
    photos, errors, sharp = frames(moving), {}, {}
    for smooth in (0, 0.5, 0.8):
        steady = SteadyEngine(engine, smooth)
        shown = frames([steady.follow(*pair) for pair in zip(moving, painted, strict=True)])
        errors[smooth], sharp[smooth] = warping_error(photos, shown), sharpness(shown)
        assert np.abs(np.mean(shown) - np.mean(painted)) < 0.01
    assert errors[0] == warping_error(photos, frames(painted))
    assert errors[0.5] < 0.8 * errors[0]
    assert errors[0.8] < 0.65 * errors[0]
    assert sharp[0.8] > 0.3 * sharp[0]  # though most of the noise is what the average takes


def test_contrast_comes_back():
    random = np.random.default_rng(0)
    fresh = random.normal(0.5, 0.1, (40, 40, 3)).astype(np.float32).clip(0, 1)
    blended = 0.5 + (fresh - 0.5) * np.float32(0.8)
    assert np.abs(with_contrast_of(fresh, blended) - fresh).mean() < 0.004
    assert np.abs(with_contrast_of(blended, fresh) - fresh).max() < 1e-6  # never taken
    flat = np.full_like(fresh, 0.5)
    assert np.abs(with_contrast_of(fresh, flat) - flat).max() < 1e-6


def test_contrast_is_raised_by_half_at_most_and_never_that_of_rounding():
    random = np.random.default_rng(0)
    fresh = random.normal(0, 0.1, (40, 40, 1)).astype(np.float32).repeat(3, 2)
    shown = with_contrast_of(0.5 + fresh, 0.5 + fresh * np.float32(0.4))
    assert 0.95 < np.median(np.abs(shown - 0.5) / np.abs(fresh)) / 0.6 < 1.05
    rounding = 0.5 + fresh / 50, 0.5 + fresh / 100
    np.testing.assert_allclose(with_contrast_of(*rounding), rounding[1], atol=1e-6)


def test_what_is_shown_stays_within_black_and_white():
    stripes = np.zeros((20, 20, 3), np.float32)
    stripes[:, ::2] = 1
    for least in (0, np.float32(0.12)):  # what would go below black, and above white
        shown = with_contrast_of(stripes, least + stripes * np.float32(0.88))
        assert shown.min() >= 0
        assert shown.max() <= 1


def test_motion_is_looked_for_in_photos_of_a_bounded_size():
    steady = SteadyEngine(Boiling(), 0.8)
    for (height, width), seen in (((2, 4 * SIDE), (1, SIDE)), ((3 * SIDE, 10), (SIDE, 3)), ((SIDE, 8), (SIDE, 8))):
        steady.follow(*np.zeros((2, 1, 3, height, width), np.float32))
        assert steady.memory()["photo"].shape == (*seen, 3)
        assert steady.memory()["painted"].shape == (height, width, 3)


def test_what_comes_into_view_is_painted_anew(moving):
    steady = SteadyEngine(Boiling(), 0.9)
    steady.follow(moving[0], 0 * moving[0])
    steady.follow(moving[1], 0 * moving[1] + 1)
    np.testing.assert_array_equal(steady.painted[:, -1], 1)
    assert steady.painted[8:-8, 8:-8].mean() < 0.2  # seen before: 0.9 of black


def test_the_first_frame_and_a_cut_are_as_without_memory(moving):
    engine = Boiling()
    steady = SteadyEngine(engine, 0.9)
    other = arranged(np.asarray(noise_image(128, 96, 5), dtype=np.float32) / 255)
    for content in (moving[0], other, moving[0]):
        painted = engine(content)
        np.testing.assert_array_equal(steady.follow(content, painted), painted)
    painted = engine(moving[1])
    assert np.abs(steady.follow(moving[1], painted) - painted).mean() > 0.02
    larger = arranged(np.zeros((100, 128, 3), np.float32))
    np.testing.assert_array_equal(steady.follow(larger, larger), larger)


def test_a_still_film_stays_as_it_is_for_long(moving):
    """Nothing is smeared: what the network paints alike is shown alike."""
    steady, painted = SteadyEngine(Boiling(), 0.95), Boiling()(moving[0])
    for _ in range(40):
        shown = steady.follow(moving[0], painted)
    assert np.abs(shown - painted).max() < 1e-3


def test_what_a_slow_pan_overshoots_does_not_grow(moving):
    """Half a pixel a frame, which a cubic filter sharpens: fed back it became stripes of black and white."""
    scene = np.asarray(noise_image(160, 128, 3).resize((320, 256)), dtype=np.float32)[:, :, :] / 255
    steady = SteadyEngine(Boiling(), 0.9)
    for shift in range(40):
        shown = np.ascontiguousarray(arranged((scene[shift : shift + 200, shift : shift + 240])[::2, ::2]))
        steady.follow(shown, shown)
    assert steady.painted.min() >= 0
    assert steady.painted.max() <= 1


def test_light_that_changes_is_followed(moving):
    """A lamp that is switched on, and dims again: no glow of it is left."""
    steady = SteadyEngine(Boiling(), 0.9)
    dark, bright = moving[0] * 0.4, moving[0]
    for content in (dark, dark, bright):
        shown = steady.follow(content, content)
    assert np.abs(shown - bright).mean() < 0.02
    assert np.abs(steady.follow(dark, dark) - dark).mean() < 0.02


def test_memory_goes_on_where_it_was(moving):
    engine = Boiling()
    painted = [engine(content) for content in moving]
    whole = SteadyEngine(engine, 0.8)
    expected = [whole.follow(*pair) for pair in zip(moving, painted, strict=True)]
    first, second = SteadyEngine(engine, 0.8), SteadyEngine(engine, 0.8)
    assert first.memory() == {}
    for pair in zip(moving[:4], painted[:4], strict=True):
        first.follow(*pair)
    assert all(array.flags.c_contiguous for array in first.memory().values())  # safetensors mixes others up
    second.remember(first.memory())
    for content, fresh, steady in list(zip(moving, painted, expected, strict=True))[4:]:
        np.testing.assert_array_equal(second.follow(content, fresh), steady)
    second.remember({})
    np.testing.assert_array_equal(second.follow(moving[0], painted[0]), painted[0])


def test_an_engine_is_called_as_before(moving):
    steady = SteadyEngine(Boiling(), 0.8)
    np.testing.assert_array_equal(steady(moving[0]), Boiling()(moving[0]))
    assert steady(moving[1]).shape == moving[1].shape
    assert (steady.device, steady.metadata) == ("cpu", Boiling.metadata)
