"""Many ranks: as torchrun and srun start them, and as trainer=ddp does."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from impasto import launcher
from impasto.checkpoint import load_network, load_training_checkpoint
from impasto.errors import UserError

from . import ranks
from .conftest import ROOT, noise_image
from .test_train import SMALL, events

IMAGES = 30  # five steps of six images; 2.7 epochs of the eleven photos that are trained on


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Of a run over sixteen photos, five of them for validation: neither is shared evenly by two ranks or three."""
    folder = tmp_path_factory.mktemp("photos")
    for index in range(16):
        noise_image(40 + index, 36, index).save(folder / f"{index}.png")
    data = ["data=folder", f"data.root={folder}", "data.validation=5", "data.workers=0"]
    run = ["style=great_wave", "init=random", "seed=3", f"schedule.images={IMAGES}"]
    return [*run, *data, *SMALL, "stroke=64", "checkpoint.every=6", "validation.every=12"]


def trained(words, count, folder, starter="torchrun"):
    """A run of six images a step on so many ranks."""
    folder.mkdir(parents=True, exist_ok=True)
    placed = ["trainer=ddp", "trainer.accelerator=cpu", f"data.batch_size={6 // count}", "hydra.run.dir=run"]
    done = ranks.train([*words, *placed], count, folder, starter)
    assert {rank.status for rank in done} == {0}, [rank.stderr for rank in done]
    return done


@pytest.fixture(scope="module")
def runs(words, tmp_path_factory):
    """The same training on one rank, on two of torchrun's and on three of srun's."""
    folder = tmp_path_factory.mktemp("runs")
    starters = {1: "torchrun", 2: "torchrun", 3: "srun"}
    done = {count: trained(words, count, folder / str(count), starter) for count, starter in starters.items()}
    return folder, done


def assert_same_training(one: Path, other: Path, after: int = 0) -> None:
    logs = [events(folder) for folder in (one, other)]
    for tag in ("train/gradient_norm", "train/total", "val/total", "val/content/relu4_2"):
        curves = [{event.step: event.value for event in log.Scalars(tag) if event.step > after} for log in logs]
        assert curves[1] == pytest.approx(curves[0], rel=1e-3), tag
    nets = [load_network(folder / "great_wave.safetensors") for folder in (one, other)]
    assert nets[0][1]["images_seen"] == nets[1][1]["images_seen"] == IMAGES
    for name, weight in nets[0][0].state_dict().items():
        # zero gradient, as a norm follows: Adam scales noise
        if not re.search(r"conv\.bias|encoder.*conv\d?\.bias|residual\.0\.conv2\.norm\.bias", name):
            torch.testing.assert_close(weight, nets[1][0].state_dict()[name], rtol=1e-3, atol=2e-4, msg=name)


@pytest.mark.parametrize("count", [2, 3])
def test_ranks_train_as_one(runs, count):
    folder, _ = runs
    assert_same_training(folder / "1" / "run", folder / str(count) / "run")


def test_ranks_have_the_same_weights(runs):
    """To the bit, though each takes its steps for itself."""
    for done in runs[1].values():
        assert len({rank.weights for rank in done}) == 1
        assert done[0].weights


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_position_of_the_run_is_shown_by_one_rank_once(runs, count):
    done = runs[1][count]
    assert sorted(position for rank in done for position in rank.positions) == list(range(IMAGES))
    assert {len(rank.positions) for rank in done} == {IMAGES // count}


@pytest.mark.parametrize("count", [2, 3])
def test_only_rank_0_speaks_and_writes(runs, count):
    folder, done = runs[0] / str(count), runs[1][count]
    first, *others = done
    assert first.stdout.count("now paint") == 1
    assert {path for path in first.written if "events.out" in path or path.endswith((".yaml", ".jpg"))}
    assert [(rank.stdout, rank.stderr, rank.written) for rank in others] == [("", "", [])] * (count - 1)
    names = {path.name for path in (folder / "run").iterdir()}
    assert names >= {"config.yaml", "checkpoints", "preview.jpg", "great_wave.safetensors"}


@pytest.mark.parametrize(("before", "images", "now"), [(1, 18, 2), (2, 24, 3), (3, 24, 1)])
def test_a_run_goes_on_with_more_or_fewer_ranks(words, runs, tmp_path, before, images, now):
    """No photo is lost or shown twice, and the rest of the run is the same."""
    checkpoint = runs[0] / str(before) / "run" / "checkpoints" / f"{images:09d}.ckpt"
    done = trained([*words, f"resume={checkpoint}"], now, tmp_path)
    assert f"{images} of {IMAGES} images seen" in done[0].stdout
    assert sorted(position for rank in done for position in rank.positions) == list(range(images, IMAGES))
    assert_same_training(runs[0] / "1" / "run", tmp_path / "run", after=images)


@pytest.mark.parametrize(
    ("own", "line"),
    [
        (
            "data.root={tmp_path}",
            "rank 1 has 1 photos, rank 0 16, not the same: data.root, and data.validation_root, should hold the same",
        ),
        ("resume={checkpoint}", "rank 1 stands at 18 images, rank 0 at 0: all nodes need to see the run folder"),
    ],
)
def test_nodes_that_differ_are_refused_by_all(words, runs, tmp_path, own, line):
    noise_image(40, 36).save(tmp_path / "another.png")
    own = own.format(tmp_path=tmp_path, checkpoint=runs[0] / "2" / "run" / "checkpoints" / "000000018.ckpt")
    both = ranks.train([*words, "trainer=ddp", "trainer.accelerator=cpu", "hydra.run.dir=run"], 2, tmp_path, own=[own])
    assert [rank.status for rank in both] == [1, 1]
    assert all(rank.stderr.splitlines()[-1].startswith(f"error: {line}") for rank in both)


def test_a_loss_that_blows_up_is_judged_by_all_ranks_alike(words, tmp_path):
    """Each returns three times and then stops, one line tells why, and the checkpoint has the weights of the start.

    The last return is to 60 images, whose checkpoint has taken what the return before had just put back.
    """
    placed = ["trainer=ddp", "trainer.accelerator=cpu", "data.batch_size=1", "hydra.run.dir=run"]
    rates = ["schedule.learning_rate=1e6", "schedule.images=400", "validation.every=1000"]
    first, second = ranks.train([*words, *placed, *rates], 2, tmp_path)
    assert (first.status, second.status) == (1, 1)
    assert re.findall(r"back to the weights of (\d+) images", first.stderr) == ["0", "0", "0", "60"]
    assert "lowered it 3 times; lower schedule.learning_rate=1e+06" in first.stderr.splitlines()[-1]
    assert [line for line in second.stderr.splitlines() if line.startswith("warning")] == []
    newest = max((tmp_path / "run" / "checkpoints").glob("0*.ckpt"))
    net = load_training_checkpoint(newest)["net"]
    assert max(float(weight.abs().max()) for weight in net.values()) < 10


def status(pid: int) -> str:
    """Of a process: its state's letter, or nothing when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def ranks_of(pid: int) -> dict[int, int]:
    """Rank → process, of those that a launcher has started."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        variables = Path(f"/proc/{child}/environ").read_bytes().decode().split("\0")
        found[int(next(value for value in variables if value.startswith("RANK=")).removeprefix("RANK="))] = int(child)
    return found


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads Linux's /proc")
def test_a_dead_rank_ends_the_run_which_then_goes_on(words, tmp_path):
    """The others end at once, none is left over, one line says why; the port that another job has is not needed."""
    taken = socket.create_server(("localhost", 0))
    environment = {"CUDA_VISIBLE_DEVICES": "", "MASTER_PORT": str(taken.getsockname()[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "train.py"), *words]
    command += ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "hydra.run.dir=run", "resume=true"]
    command += ["data.batch_size=3"]
    start = {"cwd": tmp_path, "env": {**os.environ, **environment}, "text": True}
    start |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([*command, "schedule.images=100000"], **start)
    while not list((tmp_path / "run" / "checkpoints").glob("0*.ckpt")) and process.poll() is None:
        time.sleep(0.05)
    both = ranks_of(process.pid)
    assert sorted(both) == [0, 1]
    os.kill(both[1], signal.SIGKILL)
    try:
        stdout, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 1
    assert not any(status(pid) for pid in both.values())
    assert "now paint" not in stdout
    assert [line for line in stderr.splitlines() if not line.startswith("warning")] == [
        "error: rank 1 of the run died of SIGKILL, so all have ended; "
        "if it was for lack of memory, lower data.batch_size; resume=true goes on"
    ]
    seen = max(int(path.stem) for path in (tmp_path / "run" / "checkpoints").glob("0*.ckpt"))
    (first, _) = trained([*words, "resume=true", f"schedule.images={seen + 6}"], 2, tmp_path)
    assert first.stdout.count("now paint") == 1
    assert first.stdout.count("photos for training") == 1
    assert "sync_dist" not in first.stderr
    assert load_network(tmp_path / "run" / "great_wave.safetensors")[1]["images_seen"] >= seen + 6
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"run"}
    taken.close()


RANK = """
import os, pathlib, sys, time
from impasto import cli
from impasto.errors import UserError
from impasto.launcher import end_with_launcher, launch, one_voice

def command(words):
    if "RANK" not in os.environ:
        return launch(sys.argv, 2, {"devices": 2})
    end_with_launcher()
    with one_voice():
        if os.environ["RANK"] in words:
            raise UserError("a mistake of rank " + os.environ["RANK"])
        if words[0].startswith("/"):
            pathlib.Path(words[0], "ready" + os.environ["RANK"]).touch()
        time.sleep(60)

cli.run(command, "")
"""


@pytest.mark.parametrize(("mistaken", "told"), [(["0", "1"], 0), (["1"], 1)])
def test_a_mistake_of_all_ranks_or_one_is_told_once(tmp_path, mistaken, told):
    (tmp_path / "rank.py").write_text(RANK)
    command = [sys.executable, str(tmp_path / "rank.py"), *mistaken]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)  # nobody waits for the other
    assert done.returncode == 1
    assert done.stderr == f"error: a mistake of rank {told}\n"


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads Linux's /proc")
@pytest.mark.parametrize(("how", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138), (signal.SIGKILL, -9)])
def test_ranks_end_with_their_launcher(tmp_path, how, code):
    (tmp_path / "rank.py").write_text(RANK)
    process = subprocess.Popen([sys.executable, str(tmp_path / "rank.py"), str(tmp_path)])
    while len(list(tmp_path.glob("ready?"))) < 2 and process.poll() is None:
        time.sleep(0.05)
    both = ranks_of(process.pid)
    assert sorted(both) == [0, 1]
    process.send_signal(how)
    assert process.wait(20) == code
    deadline = time.monotonic() + 20
    while any(status(pid) not in ("", "Z") for pid in both.values()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(status(pid) not in ("", "Z") for pid in both.values())


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads Linux's /proc")
def test_a_terminal_may_close_where_nohup_has_started_all(tmp_path):
    (tmp_path / "rank.py").write_text(RANK)
    process = subprocess.Popen(
        ["nohup", sys.executable, str(tmp_path / "rank.py"), str(tmp_path)], stderr=subprocess.DEVNULL
    )
    while len(list(tmp_path.glob("ready?"))) < 2 and process.poll() is None:
        time.sleep(0.05)
    everyone = [process.pid, *ranks_of(process.pid).values()]
    for pid in everyone:
        os.kill(pid, signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None
    assert all(status(pid) not in ("", "Z") for pid in everyone)
    process.terminate()
    assert process.wait(20) == 143


def test_what_others_died_of_is_told_if_nobody_ends_us(monkeypatch):
    monkeypatch.setattr(launcher, "GRACE", 0)
    monkeypatch.setattr(launcher, "started_by", lambda: "srun")
    monkeypatch.setattr(launcher, "rank", lambda: 0)
    with (
        pytest.raises(UserError, match="rank 0 cannot reach the others: .*Connection closed by peer.*resume=true"),
        launcher.one_voice(),
    ):
        raise RuntimeError("[…/gloo/transport/tcp/pair.cc:545] Read error:\n Connection closed by peer")
    with pytest.raises(RuntimeError, match="a bug of ours"), launcher.one_voice():
        raise RuntimeError("a bug of ours")


@pytest.mark.parametrize(
    ("devices", "environment", "expected"),
    [(1, {}, 0), ("auto", {}, 0), (3, {}, 3), (3, ranks.torchrun(0, 3), 0), (3, ranks.srun(0, 3), 0)],
)
def test_ranks_are_launched_where_nobody_has(monkeypatch, devices, environment, expected):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launcher.ranks_to_launch({"devices": devices, "accelerator": "cpu"}) == expected


def test_ranks_are_launched_for_the_gpus_that_are_named(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    assert launcher.ranks_to_launch({"devices": [0, 2], "accelerator": "auto"}) == 2
    with pytest.raises(UserError, match=r"trainer.devices=\[0, 3\] asks for 4 GPUs, of which torch sees 3"):
        launcher.ranks_to_launch({"devices": [0, 3], "accelerator": "auto"})
