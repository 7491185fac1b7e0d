import shutil
from datetime import datetime

import pytest

from impasto import multirun
from impasto.commands import sweep, train
from impasto.errors import UserError

from .conftest import ROOT


@pytest.fixture
def started(monkeypatch, tmp_path):
    """What `python train.py` with these words would run."""
    monkeypatch.chdir(tmp_path)

    def started(*words, runs=None):
        runs = {} if runs is None else runs
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

    monkeypatch.setattr(sweep, "datetime", Clock)
    runs = started("-m", "style=poppies", "strength=0.5,1", "data=bundled", "schedule=quick")
    (time,) = {folder.partition("-strength")[0] for folder in runs}
    assert list(runs) == [f"{time}-strength_0.5", f"{time}-strength_1"]


def test_names_keep_their_commas_and_runs_of_one_style_their_folders(started, tmp_path):
    painting = tmp_path / "one, two (3).jpg"
    painting.touch()
    runs = started("--multirun", f"style.image={painting}", "strength=0.3,3", "hydra.run.dir=out", "resume=true")
    assert list(runs) == ["out-strength_0.3", "out-strength_3"]
    assert all(f"style.image={painting}" in words for words in runs.values())
    assert [[word for word in words if word.startswith("strength")] for words in runs.values()] == [
        ["strength=0.3"],
        ["strength=3"],
    ]


def test_folders_with_a_comma_between_them_are_several(started, tmp_path):
    for name in ("one", "two", "one,three"):
        (tmp_path / name).mkdir()
    runs = started("-m", "style=poppies", "data=folder", "data.root=one,two", "schedule=quick")
    assert [words[0] for words in runs.values()] == ["data.root=one", "data.root=two"]
    (words,) = started("-m", "style=poppies", "data=folder", "data.root=one,three", "schedule=quick").values()
    assert "data.root=one,three" in words


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
    for first in ("a.jpg", "never.jpg"):
        with pytest.raises(UserError, match=rf"style.image={first},nowhere.jpg: there is no 'n.*.jpg'"):
            started("-m", f"style.image={first},nowhere.jpg")


def test_runs_of_a_sweep_go_on_from_one_with_its_words(started, tmp_path):
    (tmp_path / "first" / "checkpoints").mkdir(parents=True)
    (tmp_path / "first" / "checkpoints" / "000000008.ckpt").touch()
    (tmp_path / "first" / "overrides.yaml").write_text("[style=poppies, seed=7]")
    runs = started("-m", "resume=first", "seed=1,2")
    assert list(runs) == ["first-seed_1", "first-seed_2"]
    assert all("resume=first" in words for words in runs.values())  # each takes the others by itself
    shutil.copytree(tmp_path / "first", tmp_path / "first-seed_1")  # which was begun, and stopped
    assert list(started("-m", "resume=first", "seed=1,2")) == ["first-seed_1", "first-seed_2"]
    assert list(started("-m", "resume=true", "hydra.run.dir=first")) == ["first"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["style=poppies,popies"], "style 'popies' is unknown; did you mean 'poppies'"),
        (["style=poppies", "seed=interval(1,2)"], "does not support sweep type"),
        (["style=poppies", "hydra.sweep.dir=out"], "hydra.sweep.dir=out has no say"),
        (["style=poppies", "hydra.verbose=true"], "hydra.verbose=true has no say"),
        (["style=poppies", "seed=[1"], "is not understood"),
        (["style=poppies", "hydra.run.dir=/"], "hydra.run.dir=/ has no name that runs could have beside it"),
        (["style=poppies", "strength=1,2", "resume=true"], "go on in 'runs/poppies/2020': hydra.run.dir=DIR goes on"),
    ],
)
def test_mistakes_start_nothing(started, tmp_path, words, line):
    for folder in ("runs/poppies/2020/checkpoints",):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "000000001.ckpt").touch()
    runs = {}
    with pytest.raises(UserError, match=line):
        started("-m", *words, runs=runs)
    assert not runs


def test_folders_have_names_that_file_systems_take(started, tmp_path):
    """255 bytes, of which a checkpoint's temporary name and a log's ending take some; letters beyond ASCII have two."""
    paintings = [tmp_path / f"{number}{'é' * 100}.jpg" for number in "12"]
    for painting in paintings:
        painting.write_bytes(b"")
    runs = started("-m", f"style.image={paintings[0]},{paintings[1]}", "style.name=x", "hydra.run.dir=out/é")
    names = [folder.removeprefix("out/") for folder in runs]
    assert len(names) == 2
    assert all(180 < len(name.encode()) <= 200 for name in names)


def test_it_starts_processes_of_its_own(started, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    with pytest.raises(UserError, match="-m starts processes of its own: leave torchrun out"):
        started("-m", "style=poppies,summertime")
