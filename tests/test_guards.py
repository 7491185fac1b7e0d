import copy
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from impasto import launcher, training
from impasto.checkpoint import load_network, load_training_checkpoint
from impasto.commands import train
from impasto.commands.configuration import compose
from impasto.data.photos import TrainingPhotos, photo_at
from impasto.errors import UserError
from impasto.guards import batch_size, disk, loader
from impasto.guards.batch_size import Fit, candidates, climb
from impasto.guards.collapse import Collapse
from impasto.guards.divergence import LOWERED, RETURNS, WINDOW, Divergence
from impasto.module import StyleTransferModule
from impasto.ranks import TOGETHER
from impasto.resume import Resumed, checkpoints, find, write_checkpoint
from impasto.stopping import StopSignals

from . import ranks
from .conftest import ROOT
from .test_module import photos, quiet_trainer, small_module
from .test_train import SMALL, events

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*val_dataloader"),
    pytest.mark.filterwarnings("ignore:.*validation_step"),
    pytest.mark.filterwarnings("ignore:.*resuming from a checkpoint that ended before"),
]


@pytest.fixture
def module():
    return small_module()


@pytest.fixture
def main(tmp_path, monkeypatch):
    """train.py in this process, one tiny run after another, in the folder `run`."""
    monkeypatch.chdir(tmp_path)

    def main(*words: str) -> Path:
        given = ["style=starry_night", "init=random", *SMALL, "stroke=64", "hydra.run.dir=run"]
        given += [] if "trainer=ddp" in words else ["trainer=cpu"]
        monkeypatch.setattr(train.cli, "run", lambda command, usage: command([*given, *words]))
        train.main(ROOT / "configs")
        return tmp_path / "run"

    return main


def trainer(guard, steps, **options):
    return quiet_trainer(steps, callbacks=[guard], **options)


def blow_up(module, monkeypatch, when, factor=1e6):
    """The loss times `factor` in the steps that start at the images seen in `when`: resumed, too."""
    judged = module._judged

    def blown_up(content, **options):
        stylized, terms = judged(content, **options)
        return stylized, {**terms, "total": terms["total"] * factor} if module.images_seen in when else terms

    monkeypatch.setattr(module, "_judged", blown_up)


def weights(module):
    return {name: weight.clone() for name, weight in module.net.state_dict().items()}


def test_a_loss_that_blows_up_costs_a_few_steps_and_lowers_the_rate(module, monkeypatch, caplog):
    states = {}

    class Remembered(Divergence):
        def on_train_batch_start(self, trainer, pl_module, *_):
            states[pl_module.images_seen] = weights(pl_module)

    blow_up(module, monkeypatch, range(46, 78))
    guard = Remembered("lower")
    trainer(guard, 45).fit(module, DataLoader(photos(1) * 45, batch_size=None))
    # windows up to 60 and 80 are bad; the newest state that a good window follows is that of 20
    assert guard.returns == 2
    assert module.rate_factor == module.record["learning_rate_factor"] == LOWERED**2
    assert "at 60 images: back to the weights of 20 images, and on with 0.3 times schedule.learning_rate" in caplog.text
    for images in (60, 80):
        assert all(torch.equal(weight, states[20][name]) for name, weight in states[images].items())
    assert any(not torch.equal(weight, states[80][name]) for name, weight in states[82].items())
    assert module.images_seen == 90  # photos go on


@pytest.mark.parametrize(("when", "images"), [(range(44, 50), 20), (range(46, 50), 50)])
def test_the_last_steps_are_judged_too_where_they_are_more_than_a_spike(module, monkeypatch, caplog, when, images):
    states = {}

    class Remembered(Divergence):
        def on_train_batch_end(self, trainer, pl_module, *arguments):
            super().on_train_batch_end(trainer, pl_module, *arguments)
            states[pl_module.images_seen] = weights(pl_module)

    blow_up(module, monkeypatch, when)
    trainer(Remembered("lower"), 25).fit(module, DataLoader(photos(1) * 25, batch_size=None))
    assert all(torch.equal(weight, states[images][name]) for name, weight in weights(module).items())
    assert ("at 50 images: back to the weights of 20 images: they are the result" in caplog.text) == (images == 20)
    assert module.images_seen == 50


def test_a_short_run_that_blows_up_is_an_error_and_not_a_network(module, monkeypatch):
    blow_up(module, monkeypatch, range(1, 100), float("inf"))
    with pytest.raises(UserError, match="back to the weights of 0 images, which have learned nothing; lower schedule"):
        trainer(Divergence("lower"), 4).fit(module, DataLoader(photos(1) * 4, batch_size=None))
    broken = small_module()
    broken.net.encoder[0].conv.weight.data.fill_(torch.inf)
    with pytest.raises(UserError, match="is not finite at 2 images: .* and begin anew"):
        trainer(Divergence("lower"), 1).fit(broken, DataLoader(photos(1), batch_size=None))


@pytest.mark.parametrize("factor", [1e6, float("nan")])
def test_single_spikes_and_nans_pass(module, monkeypatch, factor):
    blow_up(module, monkeypatch, {14, 30, 32, 44}, factor)
    guard = Divergence("lower")
    trainer(guard, 30).fit(module, DataLoader(photos(1) * 30, batch_size=None))
    assert guard.returns == 0
    assert module.rate_factor == 1.0
    assert all(parameter.isfinite().all() for parameter in module.net.parameters())


@pytest.mark.parametrize(("policy", "windows"), [("stop", 1), ("lower", RETURNS + 1)])
def test_a_loss_that_is_never_finite_stops_training_with_the_weights_it_had(module, monkeypatch, policy, windows):
    before = weights(module)
    blow_up(module, monkeypatch, range(1000), float("inf"))
    with pytest.raises(UserError, match=r"is not finite at .* and stopped.*; lower schedule.learning_rate=0.001"):
        trainer(Divergence(policy), 90).fit(module, DataLoader(photos(1) * 90, batch_size=None))
    assert module.images_seen == 2 * WINDOW * windows
    assert all(torch.equal(weight, before[name]) for name, weight in weights(module).items())


class Saved(pl.Callback):
    """Saves every so many images."""

    def __init__(self, folder, every):
        self.folder, self.every = folder, every

    def on_train_batch_end(self, trainer, pl_module, *_):
        if pl_module.images_seen % self.every == 0:
            trainer.save_checkpoint(self.folder / f"{pl_module.images_seen}.ckpt")


def test_a_resumed_run_keeps_the_lowered_rate_and_blows_up_alike(module, monkeypatch, tmp_path):
    other, lower = copy.deepcopy(module), copy.deepcopy(module)
    batches = photos(1) * 60
    for network in (module, other):
        blow_up(network, monkeypatch, [*range(24, 40), *range(62, 80)])
    whole, resumed = Divergence("lower"), Divergence("lower")
    fit = trainer(whole, 60)
    fit.callbacks.append(Saved(tmp_path, 60))
    fit.fit(module, DataLoader(batches, batch_size=None))
    trainer(resumed, 60).fit(
        other, DataLoader(batches, batch_size=None), ckpt_path=tmp_path / "60.ckpt", weights_only=True
    )
    assert whole.returns == resumed.returns == 2
    assert all(torch.equal(weight, weights(other)[name]) for name, weight in weights(module).items())
    lower.record["schedule"] = {"learning_rate": 1e-4}  # the mend that the message names
    again = Divergence("lower")
    trainer(again, 40).fit(
        lower, DataLoader(batches, batch_size=None), ckpt_path=tmp_path / "60.ckpt", weights_only=True
    )
    assert (again.returns, lower.rate_factor) == (0, 1.0)


def test_windows_go_on_over_checkpoints(module, monkeypatch, tmp_path, caplog):
    """More frequent ones do not keep the guard from judging; a resumed run judges where an uninterrupted one does."""
    other, batches = copy.deepcopy(module), photos(1) * 60
    for network in (module, other):
        blow_up(network, monkeypatch, range(46, 78))
    whole, resumed = Divergence("lower"), Divergence("lower")
    fit = trainer(whole, 60)
    fit.callbacks.append(Saved(tmp_path, 6))
    fit.fit(module, DataLoader(batches, batch_size=None))
    trainer(resumed, 60).fit(
        other, DataLoader(batches, batch_size=None), ckpt_path=tmp_path / "54.ckpt", weights_only=True
    )
    assert whole.returns == resumed.returns == 2
    assert "at 60 images: back to the weights of 20 images" in caplog.text
    assert "at 60 images: back to the weights of 54 images" in caplog.text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, which a checkpoint's losses are not on")
def test_windows_go_on_over_checkpoints_on_a_gpu(module, tmp_path):
    batches = photos(1) * 60
    for path in (None, tmp_path / "54.ckpt"):
        fit = quiet_trainer(60, callbacks=[Divergence("lower")], accelerator="gpu")
        fit.callbacks.append(Saved(tmp_path, 6))
        fit.fit(module, DataLoader(batches, batch_size=None), ckpt_path=path, weights_only=True)
        assert fit.global_step == 60


def test_a_run_begun_from_anothers_checkpoint_begins_there_again(main, tmp_path, monkeypatch):
    """Killed before it saves, it has no checkpoint of its own; what is there of no run is not written over."""
    words = ["data.workers=0", "schedule.images=4", "validation.every=1000"]
    main(*words)
    (tmp_path / "project").mkdir()
    for name in ("config.yaml", "rejected.jsonl", "starry_night.safetensors"):
        (tmp_path / "project" / name).write_text("mine")
        with pytest.raises(UserError, match=f"project/{name}' is there, and "):
            main(*words, "schedule.images=8", "resume=run", "hydra.run.dir=project")
        (tmp_path / "project" / name).unlink()
    with monkeypatch.context() as patched, pytest.raises(SystemExit):
        patched.setattr(StyleTransferModule, "training_step", lambda *_: sys.exit(1))
        main(*words, "schedule.images=8", "resume=run", "hydra.run.dir=other")
    assert [path.name for path in checkpoints(tmp_path / "other")] == ["000000004.ckpt"]
    main(*words, "schedule.images=8", "resume=true", "hydra.run.dir=other")
    assert load_network(tmp_path / "other" / "starry_night.safetensors")[1]["images_seen"] == 8
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["000000004.ckpt"]


def test_a_run_that_another_has_begun_meanwhile_is_left_alone(main, tmp_path, monkeypatch):
    """It looks for one before it reads its photos, and once more when it makes its folder."""
    build = training._module

    def slow(*arguments):
        (tmp_path / "run" / "checkpoints").mkdir(parents=True)
        (tmp_path / "run" / "checkpoints" / "000000003.ckpt").touch()
        return build(*arguments)

    monkeypatch.setattr(training, "_module", slow)
    with pytest.raises(UserError, match="another run has begun in 'run' meanwhile: name another folder"):
        main("schedule.images=2")
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_learning_rate_of_a_million_ends_in_one_line_and_the_first_weights(main):
    with pytest.raises(
        UserError, match=r"the loss has risen to .* at 40 images: back to the weights of 0 images"
    ) as error:
        main("schedule.learning_rate=1e6", "schedule.images=100", "validation.every=1000")
    assert "lowered it 3 times; lower schedule.learning_rate=1e+06 or strength=, then resume=true" in str(error.value)
    (saved,) = Path("run/checkpoints").iterdir()
    net = load_training_checkpoint(saved)["net"]
    assert max(float(weight.abs().max()) for weight in net.values()) < 10


def test_a_collapsed_network_is_noticed(module, monkeypatch, caplog):
    loader, guard = DataLoader(photos(3), batch_size=None), Collapse("stop")
    judge = trainer(guard, 1)
    judge.validate(module, loader, verbose=False)
    assert guard.times == 0
    forward = module.forward
    same = torch.rand(1, 3, 32, 32)
    monkeypatch.setattr(module, "forward", lambda content, *_: same.expand_as(content))
    judge.validate(module, loader, verbose=False)
    assert "the validation pictures are all the same at 0 images" in caplog.text
    monkeypatch.setattr(module, "forward", forward)
    judge.validate(module, loader, verbose=False)
    assert guard.times == 0  # once is no collapse
    monkeypatch.setattr(module, "forward", lambda content, *_: content.mean((2, 3), keepdim=True).expand_as(content))
    judge.validate(module, loader, verbose=False)
    with pytest.raises(UserError, match="the validation pictures are constant at 0 images.*, twice running: lower"):
        judge.validate(module, loader, verbose=False)
    monkeypatch.setattr(module, "forward", lambda content, *_: content * float("nan"))
    with pytest.raises(UserError, match="the validation pictures are not finite at 0 images"):
        judge.validate(module, loader, verbose=False)
    patient = Collapse("warn")
    for _ in range(3):
        trainer(patient, 1).validate(module, loader, verbose=False)
    assert patient.times == 3


def test_a_run_that_collapsed_is_not_exported_when_it_is_gone_on_with(main, monkeypatch):
    """Its last validation, whose verdict ended it, comes first."""
    monkeypatch.setattr("impasto.guards.collapse._share", lambda pair: 0.0)
    for words in ([], ["resume=true"]):
        with pytest.raises(UserError, match="the validation pictures are constant at 8 images.*, twice running"):
            main("schedule.images=8", "validation.every=4", "data.workers=0", *words)  # workers end with a signal
    assert not list(Path("run").glob("*.safetensors"))
    monkeypatch.undo()


def test_a_verdict_that_a_stop_had_cut_off_counts_from_then_on(main, monkeypatch):
    """Fine at 8, when the run goes on, so that what collapses at 12 does so once."""
    shares = iter([0, 0, *[1] * 10])  # contrast and variety at 4, then at 8 and later
    validated = []

    def share(pair):
        share = next(shares)
        validated.append(share)
        return float(share)

    monkeypatch.setattr("impasto.guards.collapse._share", share)
    main("schedule.images=8", "validation.every=4")
    path = Path("run/checkpoints/000000008.ckpt")
    whole = torch.load(path, weights_only=True)
    whole["validated_at"], whole["callbacks"]["Collapse"] = 4, {"times": 1}
    write_checkpoint(whole, path)
    shares = iter([1, 1, 0, 0])
    main("schedule.images=12", "validation.every=4", "resume=true")
    assert validated[4:] == [1, 1, 0, 0]
    assert torch.load(path, weights_only=True)["callbacks"]["Collapse"] == {"times": 0}
    assert Path("run/starry_night.safetensors").is_file()


def test_flat_photos_are_no_collapse(module):
    guard = Collapse("stop")
    trainer(guard, 1).validate(module, DataLoader([torch.full((2, 3, 32, 32), 0.5)], batch_size=None), verbose=False)
    assert guard.times == 0


@pytest.fixture
def forked():
    """Loaders' workers see what a test has patched; Linux' default until Python 3.14."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("fork", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


def test_a_loader_that_stalls_is_named_and_ends_the_run_after_a_checkpoint(main, forked, monkeypatch, caplog):
    """At the 12th position a photo never comes."""
    read = TrainingPhotos.__getitem__

    def slow(self, position):
        if position == 12:
            time.sleep(100)
        return read(self, position)

    monkeypatch.setattr(TrainingPhotos, "__getitem__", slow)
    monkeypatch.setattr(loader, "STALLED", 1.0)
    with pytest.raises(
        UserError, match=r"no photos for data.timeout=4 s: '.*', decoded from .*data.workers=1"
    ) as error:
        main("data.timeout=4", "data.workers=1", "data.batch_size=2", "schedule.images=40", "validation.every=1000")
    assert [path.name for path in Path("run/checkpoints").iterdir()] == ["000000012.ckpt"]
    stalled = [message for message in caplog.messages if message.startswith("no photos for 1 s: '")][-1]
    photo = stalled.split("'")[1]
    assert f"'{photo}'" in str(error.value)
    assert photo.endswith(".jpg")
    time.sleep(0.2)
    assert not [thread for thread in threading.enumerate() if "_watch" in thread.name]
    tags = set(events(Path("run")).Tags()["scalars"])
    assert {"train/loader_wait", "machine/disk_free_gb", "machine/hours", "train/images_per_second"} <= tags


class SlowPhotos(list):
    """What a loader that takes long gives; and where it reads, for the line that names it."""

    def __getitem__(self, index):
        time.sleep(0.5)
        return super().__getitem__(index)

    def reading(self, position=None):
        return "decoded from 'photos'"


@pytest.mark.parametrize(("share", "lines"), [(0.02, 1), (1.0, 0)])
@pytest.mark.parametrize("validations", [False, True])  # as often as entries of the log
def test_a_loader_that_training_waits_for_is_named_once(module, monkeypatch, caplog, share, lines, validations):
    monkeypatch.setattr(loader, "LONG_ENOUGH", 0.0)
    monkeypatch.setattr(loader, "WAITING", share)
    slow = SlowPhotos(photos(4))
    every = {"val_check_interval": 1, "check_val_every_n_epoch": None} if validations else {}
    fit = trainer(loader.LoaderWatch(slow), 4, log_every_n_steps=1, **every)
    fit.fit(module, DataLoader(slow, batch_size=None), DataLoader(photos(1), batch_size=None) if validations else None)
    assert 0.02 < fit.callback_metrics["train/loader_wait"] < 1
    assert caplog.text.count("% of the time: decoded from 'photos'") == lines


def test_the_photo_named_is_the_one_read():
    class Numbers:
        def __len__(self):
            return 7

        def __getitem__(self, index):
            self.asked = index
            return torch.zeros(3, 40, 40, dtype=torch.uint8)

    numbers = Numbers()
    crops = TrainingPhotos(numbers, 32, seed=3, min_scale=0.5, colour=0.0, patches=0.0)
    for position in (0, 5, 16, 30):
        crops[position]
        assert numbers.asked == photo_at(position, 3, 7)


def test_a_dead_worker_is_one_line(main, forked, monkeypatch):
    def die(self, position):
        psutil.Process().kill()

    monkeypatch.setattr(TrainingPhotos, "__getitem__", die)
    with pytest.raises(UserError, match=r"a process that reads photos has died \(DataLoader worker .*: data.workers=0"):
        main("data.workers=1", "data.timeout=0", "schedule.images=4")


@pytest.mark.parametrize(
    "said",
    [
        "unable to write to file </torch_7_123_0>: No space left on device (28)",
        "unable to allocate shared memory(shm) for file </torch_7_123_0>: Resource temporarily unavailable (11)",
        "unable to mmap 9 bytes from file </torch_7_123_0>: Cannot allocate memory (12)",
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
        "shared memory. Please try to raise your shared memory limit.",
    ],
)
def test_a_full_shared_memory_is_one_line(main, monkeypatch, said):
    """As Docker's 64 MB soon are; which is no lack of memory."""

    def training_step(self, content, batch_idx):
        raise RuntimeError(said)

    monkeypatch.setattr(StyleTransferModule, "training_step", training_step)
    monkeypatch.setattr(batch_size, "largest_fit", pytest.fail)
    with pytest.raises(UserError, match="the shared memory, /dev/shm, is full of photos .*data.workers=0 does without"):
        main("schedule.images=4")


def test_a_disk_too_full_for_the_run_is_named_before_it_starts(main, monkeypatch):
    monkeypatch.setattr(disk, "free_space", lambda folder: 10_000)
    with pytest.raises(UserError, match=r"has 10.0 kB free, the run takes about \d+.\d MB: hydra.run.dir=DIR"):
        main("schedule.images=4")
    assert not Path("run").exists()


def test_a_disk_that_fills_is_told_of_once(module, monkeypatch, caplog, tmp_path):
    left = iter([9e9, 9e9, 5e8, 4e8, 3e8])
    monkeypatch.setattr(disk, "free_space", lambda folder: next(left))
    fit = trainer(disk.MachineWatch(tmp_path, 10**9), 5, log_every_n_steps=1)
    fit.fit(module, DataLoader(photos(5), batch_size=None))
    assert caplog.text.count("500.0 MB left where") == caplog.text.count(" left where") == 1
    assert fit.callback_metrics["machine/disk_free_gb"] == pytest.approx(0.3)


def test_what_a_run_has_written_it_needs_no_more(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    before = disk.still_needed(tmp_path / "run", 10**9)
    (tmp_path / "run" / "checkpoints" / "1.ckpt").write_bytes(bytes(10**6))
    assert before - disk.still_needed(tmp_path / "run", 10**9) == pytest.approx(10**6, abs=9000)
    assert disk.still_needed(tmp_path / "run", 1000) == 0
    assert disk.still_needed(tmp_path / "new", 1000) == 1000


def test_a_wait_for_validation_photos_is_told_from_one_for_training(monkeypatch, caplog):
    monkeypatch.setattr(loader, "STALLED", 0.2)
    monkeypatch.setattr(loader, "LOOK", 0.1)

    class Data:
        validation = (Path("val") / "a.jpg",)

        def reading(self, position):
            return f"training photo {position}"

    watch, over = loader.LoaderWatch(Data()), threading.Event()
    thread = threading.Thread(target=watch._watch, args=(over, SimpleNamespace(images_seen=7)), daemon=True)
    thread.start()
    for action in ("[_EvaluationLoop].val_next", "[_TrainingEpochLoop].train_dataloader_next"):
        watch.clock.start(action)
        time.sleep(0.8)
        watch.clock.stop(action)
    over.set()
    assert 0.8 <= watch.clock.waited < 1.6
    (first, second) = [message.partition(": ")[2] for message in caplog.messages]
    assert (first, second) == (f"to validate with, as {str(Path('val') / 'a.jpg')!r}", "training photo 7")


def test_what_a_run_takes_on_the_disk_is_no_less_than_what_it_writes(main):
    run_dir = main("schedule.images=8", "validation.every=4", "checkpoint.every=2", "trainer.log_every=1")
    written = sum(path.stat().st_size for path in run_dir.rglob("*") if path.is_file())
    net, _ = load_network(run_dir / "starry_night.safetensors")
    needed = disk.space_needed(net, 256, 2, 8)
    assert written < needed < 8 * written


class Imagined:
    """Steps of a network that takes 100 bytes, and 1 for each pixel of a batch."""

    device = torch.device("cpu")

    def __init__(self, limit=float("inf")):
        self.limit, self.run = limit, []

    def step(self, batch_size, image_size):
        self.run.append((batch_size, image_size))
        if self.peak() > self.limit:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    def peak(self):
        return 100 + max(batch * size**2 for batch, size in self.run)


@pytest.mark.parametrize(
    ("room", "limit", "fit", "tried"),
    [
        (10**9, 10**9, (64, 128), (64, 128)),
        (100 + 20 * 128**2, 10**9, (16, 128), (16, 128)),  # 32 would be too many: not tried
        (10**9, 100 + 20 * 128**2, (16, 128), (32, 128)),  # tried, as there seemed to be room
        (100 + 100**2, 10**9, (1, 92), (1, 92)),  # not even one
        (100, 10**9, None, (1, 64)),
    ],
)
def test_the_largest_batch_is_found_without_trying_one_too_large(monkeypatch, room, limit, fit, tried):
    rehearsal = Imagined(limit)
    monkeypatch.setattr(batch_size, "peak_memory", lambda device: rehearsal.peak())
    found = climb(rehearsal, candidates(128, 64), 100, room)
    assert (found and (found.batch_size, found.image_size)) == fit
    assert rehearsal.run[-1] == tried


def test_what_margins_take_is_on_top_of_the_smallest_image():
    assert candidates(256, 2)[0] == (1, 64)
    assert candidates(256, 2, 64 + 2 * 32) == [(1, 128), (1, 180), (1, 256), (2, 256)]
    assert candidates(96, 1, 64 + 2 * 32) == [(1, 96)]


def test_other_errors_of_a_step_are_no_lack_of_memory(monkeypatch):
    rehearsal = Imagined()
    monkeypatch.setattr(rehearsal, "step", lambda *_: (_ for _ in ()).throw(RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        climb(rehearsal, candidates(128, 64), 100, 1000)


def test_auto_is_a_number_that_the_run_and_its_checkpoints_keep(main, monkeypatch, caplog):
    """Measured for real; resumed, it is not measured again."""
    monkeypatch.setattr(batch_size, "LARGEST", 8)
    caplog.set_level(logging.INFO, "impasto")
    run_dir = main("data.batch_size=auto", "schedule.images=32")
    assert "data.batch_size=8 takes " in caplog.text
    assert "schedule.images=32: 4 steps" in caplog.text
    assert load_network(run_dir / "starry_night.safetensors")[1]["batch_size"] == 8
    assert "batch_size: 8" in (run_dir / "config.yaml").read_text()
    monkeypatch.setattr(batch_size, "largest_fit", lambda *_: pytest.fail("measured again"))
    config = {"data": {"batch_size": "auto"}, "trainer": {"devices": 1, "accelerator": "cpu"}}
    resumed = find("true", run_dir)
    kept = batch_size.with_batch_size({**config, "schedule": {"images": 40}}, resumed)
    assert kept["data"]["batch_size"] == 8


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["data.batch_size=all"], "data.batch_size='all' should be a whole number or auto"),
        (["guards.on_divergence=pray"], "guards.on_divergence is lower or stop, not 'pray'"),
        (["guards.on_collapse=lower"], "guards.on_collapse is stop or warn, not 'lower'"),
        (["data.timeout=-1"], "data.timeout=-1 should be in 0…1000000 s; 0 waits for ever"),
        (["data.timeout=99999999999"], "should be in 0…1000000 s"),
        (["data.validation_root=gone"], "there is no folder 'gone'"),
        (["data.image_size=12"], "data.image_size=12 is too small for VGG19"),
        (["checkpoint.every=10mins"], "checkpoint.every=10mins should be images"),
        (["validation.every=0"], "validation.every=0 should be at least 1"),
        (["trainer.log_every=0"], "trainer.log_every=0 should be at least 1"),
        (["trainer.strategy=fsdp"], "trainer.strategy=fsdp is neither auto nor ddp"),
        (["trainer.precision=64"], "trainer.precision=64 is none of auto"),
        (["trainer.compile=maybe"], "trainer.compile is auto, true or false, not 'maybe'"),
    ],
)
def test_mistakes_are_one_line_before_photos_are_looked_through(main, monkeypatch, words, line):
    monkeypatch.setattr("impasto.data.content.scan", pytest.fail)
    with pytest.raises(UserError) as error:
        main(*words)
    assert line in str(error.value)
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["data.image_size=34"], "data.image_size=34 should be a multiple of 4, such as 32"),
        (["data.keep=gray"], "data.keep=gray: 'gray' is none of "),
        (["data.image_size=0"], "data.image_size=0 should be a multiple of 4, such as 4"),
        (["data.image_size=12"], "data.image_size=12 is too small for VGG19: it takes"),
        (["data.root=/nowhere"], "there is no folder '/nowhere'"),
        (["schedule.final=3"], "schedule.final=3 should be in 0…1"),
        (["strength=-1"], "strength=-1 should be above 0"),
        (["stroke=1"], "stroke=1 should be in 16…4096 px"),
        (["trainer.gradient_clip=-1"], "trainer.gradient_clip=-1 should be above 0"),
        (
            ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "data.min_scale=5"],
            "data.min_scale=5 should",
        ),
    ],
)
def test_mistakes_are_told_before_batch_sizes_are_tried(main, monkeypatch, words, line):
    monkeypatch.setattr(batch_size, "largest_fit", pytest.fail)
    with pytest.raises(UserError) as error:
        main("data.batch_size=auto", *words)
    assert line in str(error.value)


@pytest.fixture
def measuring(monkeypatch, tmp_path):
    """The process that measures, forked and for ever: where it writes its number."""

    def measure(*_):
        (tmp_path / "begun").write_text(str(os.getpid()))
        (tmp_path / "begun").rename(tmp_path / "pid")
        time.sleep(100)

    monkeypatch.setattr(batch_size, "_climb", measure)
    monkeypatch.setattr(batch_size, "get_context", lambda _: multiprocessing.get_context("fork"))
    return tmp_path / "pid"


CONFIG = {"data": {"image_size": 32}, "model": {}, "trainer": {"precision": "32-true", "accelerator": "cpu"}}
forks = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")


@forks
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="there is no fork")
def test_who_measures_ends_with_a_wish_to_stop(measuring):
    def stop():
        while not measuring.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    with pytest.raises(SystemExit), StopSignals():
        batch_size.largest_fit(CONFIG, 8, "cpu")
    assert not psutil.pid_exists(int(measuring.read_text()))


@forks
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="there is no fork")
def test_who_measures_ends_with_who_asked(measuring):
    asks = multiprocessing.get_context("fork").Process(target=batch_size.largest_fit, args=(CONFIG, 8, "cpu"))
    asks.start()
    while not measuring.exists():
        time.sleep(0.01)
    measures = psutil.Process(int(measuring.read_text()))
    measures.send_signal(signal.SIGINT)  # as a terminal sends to all: no concern of this one
    time.sleep(0.2)
    assert measures.is_running()
    asks.kill()
    asks.join()
    psutil.wait_procs([measures], timeout=20)
    assert not measures.is_running() or measures.status() == psutil.STATUS_ZOMBIE


def test_apples_memory_is_not_measured(monkeypatch):
    monkeypatch.setattr(batch_size, "device_type", lambda options: "mps")
    config = {"data": {"batch_size": "auto", "image_size": 32}, "trainer": {}, "schedule": {"images": 40}}
    with pytest.raises(UserError, match="data.batch_size=auto measures CUDA's memory .*, not Apple's: say a number"):
        batch_size.with_batch_size(config, None)
    assert "say less of either" in str(batch_size.memory_error({**config, "data": {"batch_size": 8, "image_size": 32}}))


def test_auto_is_not_for_ranks_that_somebody_has_started(monkeypatch):
    """Each would measure, beside the others."""
    for name, value in ranks.torchrun(0, 2).items():
        monkeypatch.setenv(name, value)
    trainer = {"devices": 2, "accelerator": "cpu"}
    config = {"data": {"batch_size": "auto"}, "trainer": trainer, "schedule": {"images": 40}}
    with pytest.raises(UserError, match="data.batch_size=auto is not for 2 processes that torchrun has started: find"):
        batch_size.with_batch_size(config, None)
    resumed = Resumed(Path("a.ckpt"), {"batch_size": 4}, 0)
    assert batch_size.with_batch_size(config, resumed)["data"]["batch_size"] == 4


def test_auto_is_measured_once_for_all_ranks(main, monkeypatch, caplog):
    """Those of a CPU share its memory, with the other runs of a sweep."""
    asked, launched = [], []
    monkeypatch.setenv(TOGETHER, "3")
    fit = Fit(4, 32, 10**9, 2 * 10**9)
    monkeypatch.setattr(batch_size, "largest_fit", lambda *words: asked.append(words[1:]) or fit)
    monkeypatch.setattr(launcher, "launch", lambda command, ranks, options: launched.append((command, ranks)))
    caplog.set_level(logging.INFO, "impasto")
    main("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "data.batch_size=auto", "schedule.images=32")
    ((command, count),) = launched
    assert (asked, count, command[-2]) == ([(64, "cpu", 6)], 2, "data.batch_size=4")
    assert "schedule.images=32: 4 steps" in caplog.text
    assert compose(ROOT / "configs", "train", command[1:]).data.batch_size == 4


@pytest.mark.parametrize(
    ("fit", "line"),
    [
        (Fit(4, 32, 10**9, 2 * 10**9), "takes more memory than there is: data.batch_size=4 fits, with 1.0 GB"),
        (Fit(1, 24, 10**9, 2 * 10**9), "data.image_size=24 data.batch_size=1 fits, with 1.0 GB"),
        (None, "not even a small image fits, end other programs"),
    ],
)
def test_out_of_memory_names_what_fits(main, monkeypatch, fit, line):
    def training_step(self, content, batch_idx):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")

    asked = []
    monkeypatch.setattr(StyleTransferModule, "training_step", training_step)
    monkeypatch.setattr(batch_size, "largest_fit", lambda config, largest, device: asked.append(largest) or fit)
    with pytest.raises(UserError) as error:
        main("data.batch_size=8", "schedule.images=64")
    assert f"data.batch_size=8 at data.image_size=32 takes more memory than there is: {line.split(': ')[-1]}" in str(
        error.value
    )
    assert asked == [4]


def test_a_size_below_the_smallest_takes_a_word_more():
    """As data.image_size=180 alone would be refused."""
    line = "data.image_size=180 data.smallest_size=null data.batch_size=1 fits, with 1.0 GB"
    assert batch_size._instead(Fit(1, 180, 10**9, 2 * 10**9), {"smallest_size": 192}) == line
