"""Networks that remember: films flicker less, cuts stay cuts."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from impasto.engines.eager import EagerEngine
from impasto.errors import UserError
from impasto.models.transformer_net import InstanceNorm2d
from impasto.temporal import SmoothedEngine, SmoothedNorm2d, with_memory


@pytest.fixture
def engine(small_net):
    return EagerEngine(small_net, {"style": {"name": "test"}}, "cpu", "float32")


def noisy(seed, level=0.6):
    """A still scene, each frame with noise of its own, of another strength each time."""
    generator = np.random.default_rng(seed)
    scene = np.linspace(0, level, 48 * 64, dtype=np.float32).reshape(1, 1, 48, 64).repeat(3, axis=1)
    strength = np.float32(0.4 * generator.random())
    return (scene + strength * generator.random((1, 3, 48, 64), dtype=np.float32)).clip(0, 1)


def change(engine, frames):
    stylized = [engine(frame) for frame in frames]
    return np.mean([np.abs(after - before).mean() for before, after in zip(stylized, stylized[1:], strict=False)])


def test_the_first_frame_is_as_without_memory(engine):
    frame = noisy(0)
    assert_close(SmoothedEngine(engine, 0.9)(frame), engine(frame), atol=1e-5, rtol=0)


def test_statistics_are_the_average_that_the_docstring_tells():
    norm, own = SmoothedNorm2d(InstanceNorm2d(3), 0.75), InstanceNorm2d(3)
    first, second = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8) + 1
    with torch.no_grad():
        assert_close(norm(first), own(first))
        mean, variance = (
            0.75 * getattr(first, name)((0, 2, 3), **kept) + 0.25 * getattr(second, name)((0, 2, 3), **kept)
            for name, kept in (("mean", {}), ("var", {"correction": 0}))
        )
        expected = (second - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
        assert_close(norm(second), expected)


def test_a_still_noisy_scene_changes_less_from_frame_to_frame(engine):
    frames = [noisy(seed) for seed in range(8)]
    changes = [change(with_memory(engine, smooth), frames) for smooth in (0.0, 0.5, 0.9)]
    assert changes[2] < changes[1] < changes[0]


def test_a_cut_begins_anew(engine):
    smoothed = SmoothedEngine(engine, 0.9)
    for seed in range(3):
        smoothed(noisy(seed))
    other = 1 - noisy(9, 0.2)
    assert_close(smoothed(other), engine(other), atol=1e-5, rtol=0)
    following = 1 - noisy(10, 0.2)
    assert np.abs(smoothed(following) - engine(following)).max() > 1e-4


def test_memory_goes_on_where_it_was(engine):
    frames = [noisy(seed) for seed in range(6)]
    whole = SmoothedEngine(engine, 0.8)
    expected = [whole(frame) for frame in frames][3:]
    first, second = SmoothedEngine(engine, 0.8), SmoothedEngine(engine, 0.8)
    assert first.memory() == {}
    for frame in frames[:3]:
        first(frame)
    second.remember(first.memory())
    for frame, stylized in zip(frames[3:], expected, strict=True):
        np.testing.assert_array_equal(second(frame), stylized)
    second.remember({})
    assert_close(second(frames[0]), engine(frames[0]), atol=1e-5, rtol=0)


def test_the_engine_itself_stays_as_it_is(engine):
    frame = noisy(0)
    before = engine(frame)
    smoothed = SmoothedEngine(engine, 0.9)
    for seed in range(3):
        smoothed(noisy(seed))
    np.testing.assert_array_equal(engine(frame), before)
    assert smoothed.metadata == engine.metadata


def test_what_has_no_memory_is_told(engine, caplog):
    caplog.set_level("INFO", "impasto")
    assert with_memory(engine, 0.0) is engine
    exported = object()
    assert with_memory(exported, 0.8) is exported
    assert "Each frame is stylized on its own" in caplog.text
    for smooth in (-0.1, 1.0):
        with pytest.raises(UserError, match="at least 0 and below 1"):
            with_memory(engine, smooth)
