import csv
import errno
import os
import signal
from contextlib import contextmanager

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from impasto.commands import optimize
from impasto.errors import UserError
from impasto.image import read_image
from impasto.optimization import Iteration

from .conftest import ROOT, noise_image


def test_it_paints_and_leaves_the_trace(forked, tmp_path):
    noise_image(90, 60).save(tmp_path / "my photo, (1).png")
    words = [
        f"content={tmp_path}/my photo, (1).png",
        "style=poppies",
        "size=64",
        "stroke=48",
        "iterations=6",
        "scales=2",
        "loss.relative=false",
    ]
    result = forked(
        "scripts/optimize.py", *words, "every=4", f"hydra.run.dir={tmp_path}/run", "start=noise", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert read_image(tmp_path / "run" / "picture.png").size == (64, 43)
    with (tmp_path / "run" / "trace.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["size"]) for row in rows] == [45] * 6 + [64] * 6
    assert [int(row["iteration"]) for row in rows] == list(range(1, 13))
    assert {"total", "content", "style", "tv", "style/relu1_1"} <= rows[0].keys()
    totals = [float(row["total"]) for row in rows]
    assert min(totals[:6]) < totals[0]
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert [event.step for event in events.Scalars("optimize/total")] == list(range(1, 13))
    assert [event.step for event in events.Images("optimize/picture")] == [4, 8, 12]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["style=poppies"], "content=… is missing: say content=photo.jpg"),
        (["content=a.png"], "style.image=… is missing"),
        (["content=a.png", "style=poppies", "size=64", "size=32"], "size= is said twice: say it once"),
        (["content=none.png", "style=poppies"], "there is no image 'none.png'"),
        (["content=a.png", "style=popies"], "did you mean 'poppies'"),
        (["content=a.png", "style=poppies", "output=a.png"], "output='a.png' is the input: it would be written over"),
        (["content=a.png", "style=poppies", "seed=-1"], "seed=-1 should be in 0…4294967295"),
        (["content=a.png", "style=poppies", "output=a.xyz"], "its suffix should be one of"),
        (["content=a.png", "style=poppies", "start=black"], "start is content or noise, not 'black'"),
        (["content=a.png", "style=poppies", "optimizer=sgd"], "optimizer is lbfgs or adam, not 'sgd'"),
        (["content=a.png", "style=poppies", "iterations=0"], "iterations=0 should be at least 1"),
        (["content=a.png", "style=poppies", "learning_rate=-1"], "learning_rate=-1 should be above 0"),
        (["content=a.png", "style=poppies", "learning_rate=true"], "learning_rate=True should be above 0"),
        (["content=a.png", "style=poppies", "learning_rate=inf"], "learning_rate=inf should be above 0"),
        (["content=a.png", "style=poppies", "strength=0"], "strength=0 should be above 0"),
        (["content=a.png", "style=poppies", "precision=half"], "precision is auto, float32, bfloat16, not 'half'"),
        (["content=a.png", "style=poppies", "size=9"], "size=9: 9×6 px, and 16 are the least of a side"),
        (["content=a.png", "style=poppies", "scales=12"], "size=512 with scales=12 begins with: 11×7 px, and 16 are"),
        (["content=a.png", "style=poppies", "device=0"], "device is "),
        (["content=a.png", "style=poppies", "itertions=3"], "did you mean 'iterations'"),
        (["content=a.png", "style=poppies", "seed=1,2"], "seed=1,2 are several values: say one"),
    ],
)
def test_mistakes_are_one_line(words, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (90, 60), "grey").save("a.png")
    monkeypatch.setattr(optimize.cli, "run", lambda command, usage: command([*words, "loss.relative=false"]))
    with pytest.raises(UserError) as error:
        optimize.main(ROOT / "configs")
    assert line in str(error.value)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("fault", "raised"), [(None, UserError), (KeyboardInterrupt(), KeyboardInterrupt), (SystemExit(143), SystemExit)]
)
def test_nothing_to_keep_is_said_or_passed_on(tmp_path, monkeypatch, caplog, fault, raised):
    """An objective that is never finite, and Ctrl-C before the first iteration."""

    def no_iterations(*_):
        if fault is not None:
            raise fault
        yield from ()

    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (90, 60), "grey").save("a.png")
    monkeypatch.setattr("impasto.optimization.optimize", no_iterations)
    words = ["content=a.png", "style=poppies", "size=48", "stroke=48", "hydra.run.dir=run"]
    monkeypatch.setattr(optimize.cli, "run", lambda command, usage: command([*words, "loss.relative=false"]))
    for _ in range(2):  # nothing is there that forbids to say it better
        with pytest.raises(raised):
            optimize.main(ROOT / "configs")
    assert not (tmp_path / "run" / "picture.png").exists()
    assert not caplog.messages


def test_a_scale_that_comes_to_nothing_leaves_the_one_before(tmp_path, monkeypatch, caplog):
    def first_alone(objective, content, *_):
        if content.shape[-1] < 90:
            yield Iteration(1, {"total": 1.0, "content": 1.0, "style": 0.0, "tv": 0.0}, content)

    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (90, 60), "grey").save("a.png")
    monkeypatch.setattr("impasto.optimization.optimize", first_alone)
    words = ["content=a.png", "style=poppies", "size=90", "stroke=48", "scales=2", "iterations=1", "hydra.run.dir=run"]
    monkeypatch.setattr(optimize.cli, "run", lambda command, usage: command([*words, "loss.relative=false"]))
    optimize.main(ROOT / "configs")
    assert "90 px: the objective was not finite after 0 iterations: kept the best before" in caplog.messages
    assert read_image(tmp_path / "run" / "picture.png").size == (64, 43)
    assert "enlarged" not in caplog.text
    Image.new("RGB", (45, 30), "grey").save("a.png")
    words[-1] = "hydra.run.dir=another"
    optimize.main(ROOT / "configs")
    assert "the photo has 45×30 px: enlarged 2.0 times, it is blurred" in caplog.messages


def test_a_folder_with_a_run_stays_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    noise_image(48, 40).save("a.png")
    (tmp_path / "run").mkdir()
    words = ["content=a.png", "style=poppies", "size=48", "stroke=48", "hydra.run.dir=run"]
    monkeypatch.setattr(optimize.cli, "run", lambda command, usage: command(words))
    for name in ("picture.png", "trace.csv", "config.yaml"):
        (tmp_path / "run" / name).write_text("of hours")
        with pytest.raises(UserError, match=f"run/{name}' is there, and would be written over: name another hydra.run"):
            optimize.main(ROOT / "configs")
        (tmp_path / "run" / name).unlink()
    (tmp_path / "run" / "config.yaml").write_text("of hours")
    words += ["hydra.job.chdir=true"]
    with pytest.raises(UserError, match="hydra.job.chdir=true has no say: of Hydra's own words there is hydra.run.dir"):
        optimize.main(ROOT / "configs")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.yaml"]


@pytest.mark.skipif(os.name == "nt", reason="Windows ends processes without asking")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_keeps_the_picture(tmp_path, monkeypatch, number, status):
    def stopped(objective, content, *_):
        yield Iteration(1, {"total": 1.0, "content": 1.0, "style": 0.0, "tv": 0.0}, content)
        signal.raise_signal(number)
        yield Iteration(2, {"total": 2.0, "content": 2.0, "style": 0.0, "tv": 0.0}, content)

    noise_image(48, 40).save(tmp_path / "a.png")
    monkeypatch.setattr("impasto.optimization.optimize", stopped)
    words = [f"content={tmp_path}/a.png", "style=poppies", "size=48", "stroke=48", f"hydra.run.dir={tmp_path}/run"]
    monkeypatch.setattr(optimize.cli, "run", lambda command, usage: command([*words, "loss.relative=false"]))
    before = signal.signal(number, signal.SIG_DFL)  # where tests run in the background, SIGINT is ignored
    try:
        with pytest.raises(SystemExit) as stop:
            optimize.main(ROOT / "configs")
    finally:
        signal.signal(number, before)
    assert stop.value.code == status
    assert read_image(tmp_path / "run" / "picture.png").size == (48, 40)
    assert len((tmp_path / "run" / "trace.csv").read_text().splitlines()) == 2


def test_a_full_disk_costs_the_curves_not_the_picture(tmp_path, monkeypatch):
    """The run's folder becomes full, the output lies elsewhere."""

    @contextmanager
    def full(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        yield

    def one(objective, content, *_):
        yield Iteration(1, {"total": 1.0, "content": 1.0, "style": 0.0, "tv": 0.0}, content)

    monkeypatch.chdir(tmp_path)
    noise_image(48, 40).save("a.png")
    monkeypatch.setattr("impasto.optimization.optimize", one)
    monkeypatch.setattr("impasto.files.whole_file", full)
    words = ["content=a.png", "style=poppies", "size=48", "stroke=48", "hydra.run.dir=run", "output=out.png"]
    monkeypatch.setattr(optimize.cli, "run", lambda command, usage: command([*words, "loss.relative=false"]))
    monkeypatch.setattr("impasto.files.write_text", lambda *_: None)
    with pytest.raises(OSError, match="No space left"):
        optimize.main(ROOT / "configs")
    assert read_image(tmp_path / "out.png").size == (48, 40)


def test_a_picture_too_large_for_the_memory_is_told_before_it_is_begun(tmp_path, monkeypatch):
    """Else Linux would kill the process once L-BFGS remembers enough, an hour later."""
    Image.new("RGB", (90, 60), "grey").save(tmp_path / "a.png")
    monkeypatch.setattr("impasto.optimization.free_memory", lambda device: 5 << 30)
    monkeypatch.setattr("impasto.losses.objective.build_objective", None)  # and so begun it is

    def command(*words):
        words = [f"content={tmp_path}/a.png", "style=poppies", "precision=bfloat16", *words]
        monkeypatch.setattr(optimize.cli, "run", lambda command, usage: command(words))
        optimize.main(ROOT / "configs")

    line = "size 1400 takes 7.3 GB of memory, and 5.4 GB are free: size 1158 fits, and optimizer=adam takes less"
    with pytest.raises(UserError, match=line):
        command("size=1400", "iterations=200")
    monkeypatch.chdir(tmp_path)
    for words in (["size=1158"], ["size=1400", "optimizer=adam"], ["size=1400", "iterations=9"]):
        with pytest.raises(TypeError, match="'NoneType' object is not callable"):
            command(*words)


def test_memory_that_runs_out_leaves_the_scales_before(tmp_path, monkeypatch):
    Image.new("RGB", (90, 60), "grey").save(tmp_path / "a.png")
    begun = []

    def scale(objective, content, start, *_):
        begun.append(content.shape[-1])
        if len(begun) == 2:
            raise MemoryError
        yield Iteration(1, {"total": 1.0, "content": 1.0, "style": 0.0, "tv": 0.0}, content)

    monkeypatch.setattr("impasto.optimization.optimize", scale)
    words = [f"content={tmp_path}/a.png", "style=poppies", "size=64", "scales=2", "stroke=48", "loss.relative=false"]
    words += ["iterations=1", f"hydra.run.dir={tmp_path}/run"]
    monkeypatch.setattr(optimize.cli, "run", lambda command, usage: command(words))
    with pytest.raises(UserError, match="size=64 with stroke=48 takes more memory than there is: try size=32"):
        optimize.main(ROOT / "configs")
    assert begun == [45, 64]
    assert read_image(tmp_path / "run" / "picture.png").size == (45, 30)
    assert (tmp_path / "run" / "trace.csv").read_text().count("\n") == 2
