import json
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from impasto import multirun
from impasto.errors import UserError

SCRIPT = """
import json, os, signal, sys, time
words = dict(word.split("=", 1) for word in sys.argv[1:])
folder = words["hydra.run.dir"]
start = time.monotonic()
for wish in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
    signal.signal(wish, lambda *_: (open(f"{folder}/saved", "w"), sys.exit(143)))
os.makedirs(folder)
print("training", words["style"])
if words["style"] == "bad":
    sys.exit("error: bad")
while not os.path.isdir(words.get("until", folder)):  # that another has begun
    time.sleep(0.01)
time.sleep(float(words.get("seconds", 0.1)))
with open(f"{folder}/done", "w") as file:
    places = [os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ["IMPASTO_RUNS_TOGETHER"]]
    json.dump([start, time.monotonic(), *places], file)
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
    assert {gpu for _, _, gpu, _ in spans} == {"4", "5"}
    assert {together for *_, together in spans} == {"2"}
    for start, end, gpu, _ in spans:  # on one place one after another, on two at once
        others = [other for other in spans if other[0] != start and other[2] == gpu]
        assert all(other[0] >= end or other[1] <= start for other in others)
    assert sorted(start for start, *_ in spans)[1] < min(end for _, end, *_ in spans)


def test_folders_that_cannot_be_made_are_told_before_any_run(script, tmp_path):
    """Where runs waited for a place that was never given back."""
    (tmp_path / "file").touch()
    runs = {tmp_path / folder: ["style=a"] for folder in ("a", "file/b", "file/c", "file/d")}
    with pytest.raises(UserError, match=r"cannot write .*/file/b.log': Not a directory"):
        multirun.run_all(script, runs, [{}, {}])
    assert not (tmp_path / "a").exists()


def test_places_are_gpus_or_shares_of_the_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,7")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr(multirun, "cores", lambda: 18)
    assert multirun.places() == [{"CUDA_VISIBLE_DEVICES": gpu, "OMP_NUM_THREADS": "9"} for gpu in "67"]
    assert multirun.places(on_cpu=True) == [{"OMP_NUM_THREADS": "4"}] * 4
    whole = {"strategy": "auto", "devices": "auto", "accelerator": "auto"}
    for changes, room in (({}, 2), ({"accelerator": "cpu"}, 4), ({"devices": 2}, 1), ({"strategy": "ddp"}, 1)):
        assert len(multirun.places_for({**whole, **changes})) == room
    assert multirun.places_for({**whole, "devices": 2}) == [{}]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr(multirun, "cores", lambda: 2)
    assert multirun.places() == [{"OMP_NUM_THREADS": "2"}]
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    monkeypatch.setattr(multirun, "cores", lambda: 18)
    assert multirun.places() == [{}]  # Apple's only GPU
    assert len(multirun.places(on_cpu=True)) == 4


@pytest.mark.parametrize("wish", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
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
