import resource
import signal
from types import SimpleNamespace

import pytest
import torch

from impasto import saving
from impasto.errors import UserError
from impasto.saving import LONGEST, SavedRun, WholeCheckpoints, read_interval
from impasto.stopping import StopSignals


@pytest.mark.parametrize(
    ("every", "interval"),
    [(300, (300, LONGEST)), ("300", (300, LONGEST)), ("10min", (None, 600.0)), (".5min", (None, 30.0))],
)
def test_an_interval_is_images_or_minutes(every, interval):
    assert read_interval(every) == interval


@pytest.mark.parametrize("every", [0, -3, "0min", "10 min", "1h", "min", 2.5, None])
def test_any_other_interval_is_named(every):
    with pytest.raises(UserError, match=f"checkpoint.every={every} should be images, such as 300, or minutes"):
        read_interval(every)


@pytest.fixture
def run(tmp_path):
    """What saves a run of 1 MB, without the run."""
    saved = SavedRun(tmp_path, 8, WholeCheckpoints(), StopSignals())
    module = SimpleNamespace(images_seen=0)

    def save_checkpoint(path):
        saved.files.save_checkpoint({"weights": torch.ones(250_000), "images_seen": module.images_seen}, path)

    trainer = SimpleNamespace(
        world_size=1,
        global_step=0,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        is_global_zero=True,
        lightning_module=module,
        logger=None,
        save_checkpoint=save_checkpoint,
    )
    saved.on_train_start(trainer, module)
    return saved, trainer, module


def names(run_dir):
    return sorted(path.name for path in (run_dir / "checkpoints").iterdir())


def step(run, images):
    saved, trainer, module = run
    module.images_seen += images
    saved.on_train_batch_end(trainer, module)
    saved.on_train_batch_start(trainer, module, None, 0)


def test_checkpoints_are_due_at_multiples_and_three_are_kept(run, tmp_path):
    for _ in range(12):
        step(run, 3)
    assert names(tmp_path) == ["000000018.ckpt", "000000024.ckpt", "000000033.ckpt"]


def test_time_makes_one_due_too(run, tmp_path, monkeypatch):
    step(run, 1)
    assert not (tmp_path / "checkpoints").exists()
    now = saving.monotonic()
    monkeypatch.setattr(saving, "monotonic", lambda: now + LONGEST)
    step(run, 1)
    step(run, 1)
    assert names(tmp_path) == ["000000002.ckpt"]


def test_a_full_disk_costs_nothing_that_is_there_and_ends_nothing(run, tmp_path, caplog):
    for _ in range(3):
        step(run, 8)
    before = names(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        step(run, 8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == before
    assert "000000032.ckpt': File too large: the newest whole checkpoint is " in caplog.text
    step(run, 8)
    assert names(tmp_path) == ["000000016.ckpt", "000000024.ckpt", "000000040.ckpt"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])  # whose number is 1
def test_a_wish_to_stop_is_granted_between_steps_and_amid_validation(run, tmp_path, caplog, number):
    saved, trainer, module = run
    saved.stops.wish = number
    saved.on_train_batch_start(trainer, module, None, 0)  # no step has been made: there is nothing to save
    assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit) as stop:
        step(run, 5)
    assert stop.value.code == 128 + number
    assert names(tmp_path) == ["000000005.ckpt"]
    assert f"stopped at 5 images; go on with resume={tmp_path}" in caplog.text
    with pytest.raises(SystemExit):
        saved.on_validation_batch_start(trainer, module)
