import resource

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from impasto.events import Events


@pytest.fixture
def full():
    """Let files grow to some bytes only, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def read(folder) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def points(folder, tag="train/total") -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(folder).Scalars(tag)]


def test_what_comes_after_the_start_is_forgotten(tmp_path):
    killed = Events(tmp_path, 0)
    for step in (4, 8, 12):
        killed.log_metrics({"train/total": step, "val/total": 0.5}, step)
        killed.add_image("style", torch.zeros(3, 4, 4), step)
    resumed = Events(tmp_path, 9)
    resumed.path = resumed.path.with_suffix(".1")  # as of a process that starts later
    resumed.log_metrics({"train/total": 13.0}, 12)
    assert points(tmp_path) == [(4, 4.0), (8, 8.0), (12, 13.0)]
    assert points(tmp_path, "val/total") == [(4, 0.5), (8, 0.5)]
    assert [event.step for event in read(tmp_path).Images("style")] == [4, 8]


def test_what_a_full_disk_does_not_take_waits(tmp_path, full, caplog):
    events = Events(tmp_path, 0)
    events.log_metrics({"train/total": 0.0}, 0)
    full(events.path.stat().st_size + 20)  # half an event
    for step in range(1, 6):
        events.log_metrics({"train/total": float(step)}, step)
        events.settle()
    assert points(tmp_path) == [(0, 0.0)]
    assert len(caplog.messages) == 1
    assert "events wait for room" in caplog.text
    full(10**6)
    events.settle()
    assert points(tmp_path) == [(step, float(step)) for step in range(6)]


def test_a_folder_is_made_by_the_first_event_only(tmp_path):
    events = Events(tmp_path / "run", 0)
    events.settle()
    events.finalize("failed")
    assert not (tmp_path / "run").exists()
