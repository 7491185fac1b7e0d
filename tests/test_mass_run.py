"""On Ray, as a user runs it: processes killed at the worst moments, and the command again."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from impasto import batch, cli
from impasto.commands.stylize import job_of
from impasto.commands.stylize_many import StylizeManyOptions, stylize_many
from impasto.errors import UserError
from impasto.folder import REPORTS
from impasto.mass.cluster import Workers, _end, running, shares
from impasto.mass.painting import Ledger, Painter
from impasto.mass.report import Report
from impasto.mass.sources import Source
from impasto.picture_files import read_picture

from .conftest import ROOT, noise_image

takes_ray = pytest.mark.skipif(find_spec("ray") is None, reason='takes Ray: pip install -e ".[ray]"')

IMAGES = 60
BAD = "7.png"
ON_CPU = ["device=cpu", "precision=float32"]


def records(out: Path) -> list[dict]:
    lines = [line for part in sorted((out / REPORTS).glob("*.jsonl")) for line in part.read_text().splitlines(True)]
    return [json.loads(line) for line in lines if line.endswith("\n")]  # not half a line


def wait_for(out: Path, more: int, process: subprocess.Popen) -> list[dict]:
    while len(found := records(out)) < more:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    return found


@takes_ray
@pytest.mark.timeout(600)  # a dozen processes start, beside other tests
def test_after_kills_each_photo_has_its_picture_once(network_file, tmp_path):
    """One run was killed; in the next, a worker is, and another takes its work over."""
    (tmp_path / "in").mkdir()
    for index in range(IMAGES):
        noise_image(90 + index, 100, index).save(tmp_path / "in" / f"{index}.png")
    (tmp_path / "in" / BAD).write_bytes(b"no image")
    out, job = tmp_path / "out", job_of(cli.parse(["ckpt=x", "input=x", *ON_CPU], StylizeManyOptions))
    entries = [entry for entry in Source(str(tmp_path / "in"), str(out)) if entry.name != BAD]
    painter = Painter(job, [network_file], str(out), np.array([], np.uint64), Ledger(), sharers=1)
    report = Report(str(out))
    report.add(json.loads(painter({"batch": json.dumps(entries[:10])})["records"]))
    report.close()
    painter({"batch": json.dumps(entries[10:12])})  # written, but its records were lost
    with next((out / REPORTS).iterdir()).open("a") as file:
        file.write('{"half a li')

    command = [
        sys.executable,
        str(ROOT / "scripts" / "stylize_many.py"),
        f"ckpt={network_file}",
        f"input={tmp_path}/in",
    ]
    command += [f"output={out}", *ON_CPU, "workers=2", "batch=2", "json=true"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    worker = wait_for(out, 12, process)[-1]["worker"]
    started = psutil.Process(process.pid).children(recursive=True)
    os.kill(int(worker.partition(":")[2]), signal.SIGKILL)
    assert len(records(out)) < IMAGES
    stdout, stderr = process.communicate(timeout=400)
    assert process.returncode == 1  # of the bad one
    known = r"Workers: 2|warning: skipped: .*7.png' is not an|60 images: |error: 1 of 60"  # nothing of Ray's
    assert all(re.match(known, line) for line in stderr.splitlines()), stderr
    told = json.loads(stdout)
    assert (told["done"], told["skipped"], told["failed"]) == (IMAGES - 11, 10, 1)
    good = [record["output"] for record in records(out) if record["status"] == "done"]
    assert sorted(good) == sorted(entry.name for entry in entries)
    _, alive = psutil.wait_procs(started, timeout=30)
    assert not alive

    with pytest.raises(UserError, match="1 of 60"):
        batch.run(job, [network_file], str(tmp_path / "in"), str(tmp_path / "alone"))
    for name in good:  # as one process alone has it, whose threads may round otherwise
        alone, here = (read_picture(folder / name).pixels.astype(int) for folder in (tmp_path / "alone", out))
        assert abs(alone - here).max() <= 1
    # what was half-written has another, hidden name
    assert {path.name for path in out.iterdir() if not path.name.startswith(".")} == {*good, REPORTS}


def test_a_process_that_hangs_at_the_end_is_killed(monkeypatch):
    """As a worker of Ray's does now and then."""
    monkeypatch.setattr("impasto.mass.cluster.EXIT_SECONDS", 0.5)
    ends, hangs = (subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({s})"]) for s in (0.1, 600))
    begun = time.monotonic()
    _end([psutil.Process(ends.pid), psutil.Process(hangs.pid)])
    assert 0.5 <= time.monotonic() - begun < 60
    assert hangs.wait(30) == -signal.SIGKILL
    assert ends.poll() != -signal.SIGKILL  # psutil has waited for it


@takes_ray
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["output=out", "workers=0"], "workers=0 should be at least 1"),
        (["output=out", "mask=nowhere.png"], "there is no image 'nowhere.png'"),
        ([], "output=… is missing"),
        (["output=out", "smooth=0.5"], "smooth= is of videos"),
        (["output=out", "format=xyz"], "format=xyz should be one of avif, bmp,"),
        (["output={photos}/a.jpg"], "cannot write '.*a.jpg/_report/a.jsonl': Not a directory"),
        (["output=out", "ckpt=all"], "6 networks: one at a time"),
        (["output=oss://bucket/out"], "pip install ossfs"),
        (["output=out", "address=127.0.0.1:1"], "there is no Ray cluster at address='127.0.0.1:1'"),
        (["output=out", "address=nowhere"], "it is HOST:PORT of its head, or auto"),
    ],
)
def test_mistakes_are_named_before_ray_starts(photos, tmp_path, monkeypatch, words, line):
    monkeypatch.chdir(tmp_path)
    network = [] if "ckpt=all" in words else ["ckpt=starry_night"]
    with pytest.raises(UserError, match=line):
        stylize_many([*network, f"input={photos}", *(word.format(photos=photos) for word in words)])
    assert not (tmp_path / "out").exists()


def test_a_gpu_that_the_cluster_has_not_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(cluster_resources=lambda: {"CPU": 2.0}))
    with pytest.raises(UserError, match="device=cuda: there is no GPU that Ray knows of; device=auto takes what there"):
        shares(Workers(), "cuda")
    assert shares(Workers(), "auto") == (2, 1, False)


def test_without_ray_it_says_what_to_install(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install -e "\.\[ray\]"'):
        stylize_many(["ckpt=starry_night", f"input={photos}", f"output={tmp_path / 'out'}"])


def test_help_is_short_and_imports_neither_ray_nor_torch():
    code = "import sys, impasto.commands.stylize_many as it; print(it.USAGE, {'ray', 'torch'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.count("python scripts/stylize_many.py") == 4
    assert result.stdout.endswith("set()\n")
    assert len(result.stdout.splitlines()) < 42


@pytest.mark.parametrize(
    ("cause", "line"),
    [
        ("Traceback …\nRPC error: InvalidAuthToken: missing", "it asks for a token: RAY_AUTH_MODE=token, and the file"),
        ("Traceback (most recent call last):\n  File x\nRuntimeError: no route", "no route"),
        ("", "ConnectionError"),
    ],
)
def test_a_cluster_that_cannot_be_joined_says_why(monkeypatch, cause, line):
    def init(**_):
        raise ConnectionError from RuntimeError(cause)

    ray = SimpleNamespace(init=init, is_initialized=lambda: False, shutdown=lambda: None)
    for name in ("ray", "ray.data"):
        monkeypatch.setitem(sys.modules, name, ray)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with (
        pytest.raises(UserError, match=rf"cannot be joined at address=head:6379: .*{line}"),
        running(Workers(address="head:6379"), 0),
    ):
        pass


def test_ray_that_does_not_start_in_time_says_so(monkeypatch):
    """Which it does with an error of no kind."""

    def init(**_):
        raise Exception("The current node timed out during startup.")

    ray = SimpleNamespace(init=init, is_initialized=lambda: False, shutdown=lambda: None)
    for name in ("ray", "ray.data"):
        monkeypatch.setitem(sys.modules, name, ray)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with pytest.raises(UserError, match="^Ray does not start: The current node timed out"), running(Workers(), 0):
        pass
