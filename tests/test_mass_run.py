"""On Ray, as a user runs it: processes killed at the worst moments, and the command again."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from impasto import batch
from impasto.commands.stylize_many import stylize_many
from impasto.errors import UserError
from impasto.job import Job
from impasto.mass.report import FOLDER
from impasto.picture import read_picture

from .conftest import ROOT, noise_image

takes_ray = pytest.mark.skipif(find_spec("ray") is None, reason='takes Ray: pip install -e ".[ray]"')

IMAGES = 60
BAD = "7.png"


def records(out: Path) -> list[dict]:
    lines = [line for part in sorted((out / FOLDER).glob("*.jsonl")) for line in part.read_text().splitlines(True)]
    return [json.loads(line) for line in lines if line.endswith("\n")]


def wait_for(out: Path, more: int, process: subprocess.Popen) -> list[dict]:
    while len(found := records(out)) < more:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    return found


@takes_ray
@pytest.mark.timeout(600)  # a dozen processes start twice, beside other tests
def test_killed_and_run_again_each_photo_has_its_picture_once(network_file, tmp_path, monkeypatch):
    """First the driver is killed, and with it all that it started; then, in the second run, a worker."""
    short = tempfile.mkdtemp(prefix="r")  # what a killed driver leaves
    monkeypatch.setenv("TMPDIR", short)
    (tmp_path / "in").mkdir()
    for index in range(IMAGES):
        noise_image(90 + index, 100, index).save(tmp_path / "in" / f"{index}.png")
    (tmp_path / "in" / BAD).write_bytes(b"no image")
    out, words = tmp_path / "out", [f"ckpt={network_file}", f"input={tmp_path / 'in'}", f"output={tmp_path / 'out'}"]
    words += ["device=cpu", "precision=float32", "batch=2", "json=true"]
    command = [sys.executable, str(ROOT / "scripts" / "stylize_many.py"), *words]

    first = subprocess.Popen([*command, "workers=1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    done = len(wait_for(out, 4, first))
    started = psutil.Process(first.pid).children(recursive=True)
    first.kill()
    first.communicate()
    assert done < IMAGES

    found = len(records(out))
    before = [record for record in records(out) if record["status"] == "done"]
    second = subprocess.Popen([*command, "workers=2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    worker = wait_for(out, found + 2, second)[-1]["worker"]
    os.kill(int(worker.partition(":")[2]), signal.SIGKILL)
    assert len(records(out)) < IMAGES
    stdout, stderr = second.communicate(timeout=400)
    assert second.returncode == 1  # of the bad one
    known = r"Workers: 2|warning: skipped: .*7.png' is not an|60 images: |error: 1 of 60"  # nothing of Ray's
    assert all(re.match(known, line) for line in stderr.splitlines()), stderr
    told = json.loads(stdout)
    assert (told["done"], told["skipped"], told["failed"]) == (IMAGES - 1 - len(before), len(before), 1)
    good = [record["output"] for record in records(out) if record["status"] == "done"]
    assert sorted(good) == sorted(f"{index}.png" for index in range(IMAGES) if f"{index}.png" != BAD)

    with pytest.raises(UserError, match="1 of 60"):
        batch.run(Job(device="cpu", precision="float32"), [network_file], str(tmp_path / "in"), str(tmp_path / "alone"))
    _, alive = psutil.wait_procs(started, timeout=100)  # its agents wait for a minute
    assert not alive
    shutil.rmtree(short)

    for name in good:  # as one process alone has it, whose threads may round otherwise
        alone, here = (read_picture(folder / name).pixels.astype(int) for folder in (tmp_path / "alone", out))
        assert abs(alone - here).max() <= 1
    # what was half-written has another, hidden name
    assert {path.name for path in out.iterdir() if not path.name.startswith(".")} == {*good, FOLDER}


@takes_ray
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["output=out", "workers=0"], "workers=0 should be at least 1"),
        ([], "output=… is missing"),
        (["output=out", "smooth=0.5"], "smooth= is of videos"),
        (["output=out", "format=xyz"], "its suffix should be one of"),
        (["output=out", "ckpt=all"], "6 networks: one at a time"),
        (["output=oss://bucket/out"], "pip install ossfs"),
        (["output=out", "address=127.0.0.1:1"], "there is no Ray cluster at address='127.0.0.1:1'"),
        (["output=out", "address=nowhere"], "it is HOST:PORT of its head, or auto"),
    ],
)
def test_mistakes_are_named_before_ray_starts(photos, tmp_path, monkeypatch, words, line):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=line):
        stylize_many(["ckpt=starry_night", f"input={photos}", *words])
    assert not (tmp_path / "out").exists()


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
