import json
import signal
import subprocess
import sys
import textwrap
import time
from datetime import datetime

import pytest

from impasto import multirun
from impasto.commands import train
from impasto.errors import UserError

from .conftest import ROOT

SCRIPT = """
import json, os, signal, sys, time
words = dict(word.split("=", 1) for word in sys.argv[1:])
folder = words["hydra.run.dir"]
os.makedirs(folder)
start = time.monotonic()
for wish in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
    signal.signal(wish, lambda *_: (open(f"{folder}/saved", "w"), sys.exit(143)))
print("training", words["style"])
if words["style"] == "bad":
    sys.exit("error: bad")
while not os.path.isdir(words.get("until", folder)):  # that another has begun
    time.sleep(0.01)
time.sleep(float(words.get("seconds", 0.1)))
with open(f"{folder}/done", "w") as file:
    json.dump([start, time.monotonic(), os.environ.get("CUDA_VISIBLE_DEVICES")], file)
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


def test_runs_share_the_places_and_one_that_fails_stops_no_other(script, tmp_path):
    folders = [tmp_path / "runs" / style for style in ("a", "bad", "b", "c")]
    runs = {folder: [f"style={folder.name}", f"until={folders[2]}"] for folder in folders}
    two = [{"CUDA_VISIBLE_DEVICES": "4"}, {"CUDA_VISIBLE_DEVICES": "5"}]
    failed = multirun.run_all(script, runs, two)
    assert failed == [tmp_path / "runs" / "bad.log"]
    assert failed[0].read_text() == "training bad\nerror: bad\n"
    spans = [json.loads((folder / "done").read_text()) for folder in folders if folder.name != "bad"]
    assert {gpu for _, _, gpu in spans} == {"4", "5"}
    for start, end, gpu in spans:  # on one place one after another, on two at once
        others = [other for other in spans if other != [start, end, gpu] and other[2] == gpu]
        assert all(other[0] >= end or other[1] <= start for other in others)
    assert sorted(start for start, *_ in spans)[1] < min(end for _, end, _ in spans)


def test_places_are_gpus_or_shares_of_the_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,7")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr(multirun, "cores", lambda: 18)
    assert multirun.places() == [{"CUDA_VISIBLE_DEVICES": "6"}, {"CUDA_VISIBLE_DEVICES": "7"}]
    assert multirun.places(on_cpu=True) == [{"OMP_NUM_THREADS": "4"}] * 4
    whole = {"strategy": "auto", "devices": "auto", "accelerator": "auto"}
    for changes, room in (({}, 2), ({"accelerator": "cpu"}, 4), ({"devices": 2}, 1), ({"strategy": "ddp"}, 1)):
        assert len(multirun.places_for({**whole, **changes})) == room
    assert multirun.places_for({**whole, "devices": 2}) == [{}]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr(multirun, "cores", lambda: 2)
    assert multirun.places() == [{"OMP_NUM_THREADS": "2"}]


@pytest.mark.parametrize("wish", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_wishes_to_stop_reach_the_runs_which_save(script, tmp_path, wish):
    program = f"""
        from pathlib import Path
        from impasto.multirun import run_all
        runs = {{Path({str(tmp_path)!r}, name): ["style=x", "seconds=60"] for name in "abc"}}
        run_all(Path({str(script)!r}), runs, [{{}}, {{}}])
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        preexec_fn=lambda: signal.signal(wish, signal.SIG_DFL),  # which nohup leaves ignored
    )
    while len(list(tmp_path.glob("*/"))) < 2:
        time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(wish)
    assert process.wait(20) == 128 + wish
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["a", "b"]
    assert len(list(tmp_path.glob("*/saved"))) == 2


@pytest.fixture
def started(monkeypatch, tmp_path):
    """What `python train.py` with these words would run."""
    monkeypatch.chdir(tmp_path)

    def started(*words):
        runs = {}
        monkeypatch.setattr(multirun, "run_all", lambda script, what, places: runs.update(what) or [])
        monkeypatch.setattr(multirun, "places", lambda on_cpu=False: [{}])
        monkeypatch.setattr(train.cli, "run", lambda command, usage: command(list(words)))
        train.main(ROOT / "configs")
        return {str(folder): words for folder, words in runs.items()}

    return started


def test_each_style_is_a_run_in_a_folder_of_its_own(started):
    runs = started("-m", "style=poppies,summertime", "data=bundled", "schedule=quick", "seed=3")
    assert [folder.split("/")[:2] for folder in runs] == [["runs", "poppies"], ["runs", "summertime"]]
    assert [words[0] for words in runs.values()] == ["style=poppies", "style=summertime"]
    assert all({"seed=3", "schedule=quick"} <= set(words) for words in runs.values())


def test_a_sweep_has_one_time(started, monkeypatch):
    """Where a second ends between two runs, folders are told apart by their words all the same."""

    class Clock:
        seconds = 0

        @classmethod
        def now(cls):
            cls.seconds += 1
            return datetime(2026, 1, 1, 0, 0, cls.seconds)

    monkeypatch.setattr(train, "datetime", Clock)
    runs = started("-m", "style=poppies", "strength=0.5,1", "data=bundled", "schedule=quick")
    (time,) = {folder.partition("-strength")[0] for folder in runs}
    assert list(runs) == [f"{time}-strength_0.5", f"{time}-strength_1"]


def test_names_keep_their_commas_and_runs_of_one_style_their_folders(started, tmp_path):
    painting = tmp_path / "one, two (3).jpg"
    runs = started("--multirun", f"style.image={painting}", "strength=0.3,3", "hydra.run.dir=out", "resume=true")
    assert list(runs) == ["out-strength_0.3", "out-strength_3"]
    assert all(f"style.image={painting}" in words for words in runs.values())
    assert [[word for word in words if word.startswith("strength")] for words in runs.values()] == [
        ["strength=0.3"],
        ["strength=3"],
    ]


def test_paintings_with_a_comma_between_them_are_several(started, tmp_path):
    for name in ("a.jpg", "b, c.jpg", "d.jpg"):
        (tmp_path / name).touch()
    runs = started("-m", "style.image=a.jpg,d.jpg", "strength=1,2", "seed=3")
    assert [words[:2] for words in runs.values()] == [
        [f"style.image={name}", f"strength={strength}"] for name in ("a.jpg", "d.jpg") for strength in (1, 2)
    ]
    assert [folder.split("/")[1] for folder in runs] == ["a", "a", "d", "d"]
    assert all("seed=3" in words for words in runs.values())
    runs = started("-m", "style=poppies", "init=random,night_cafe", "hydra.run.dir=out")
    assert {folder: words[0] for folder, words in runs.items()} == {
        "out-init_random": "init=random",
        "out-init_night_cafe": "init=night_cafe",
    }
    (runs,) = started("-m", "style.image=b, c.jpg").values()
    assert runs[-1] == "style.image=b, c.jpg"
    (runs,) = started("-m", "style.image=a.jpg,nowhere.jpg").values()  # which its run names
    assert runs[-1] == "style.image=a.jpg,nowhere.jpg"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["style=poppies,popies"], "style 'popies' is unknown; did you mean 'poppies'"),
        (["style=poppies", "seed=interval(1,2)"], "does not support sweep type"),
        (["style=poppies", "hydra.sweep.dir=out"], "hydra.sweep.dir=out has no say"),
        (["style=poppies", "seed=[1"], "is not understood"),
        (["style=poppies", "strength=1,2", "resume=true"], "go on in 'runs/poppies/2020': hydra.run.dir=DIR goes on"),
    ],
)
def test_mistakes_start_nothing(started, tmp_path, words, line):
    for folder in ("runs/poppies/2020/checkpoints",):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "000000001.ckpt").touch()
    with pytest.raises(UserError, match=line):
        started("-m", *words)


def test_it_starts_processes_of_its_own(started, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    with pytest.raises(UserError, match="-m starts processes of its own: leave torchrun out"):
        started("-m", "style=poppies,summertime")
