import os
from datetime import datetime

import pytest
import yaml

from impasto.commands.training_words import as_begun, composed, run_dir, trainer_of, with_search_path
from impasto.errors import UserError

from .conftest import ROOT

CONFIGS = ROOT / "configs"
NOW = datetime(2026, 1, 4)


def test_the_default_run_folder_is_the_one_to_go_on_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for when, saved in (("2026-01-01", True), ("2026-01-02", True), ("2026-01-03", False)):
        (tmp_path / "runs" / "night" / when / "checkpoints").mkdir(parents=True)
        if saved:
            (tmp_path / "runs" / "night" / when / "checkpoints" / "000000008.ckpt").touch()
            os.utime(tmp_path / "runs" / "night" / when / "checkpoints" / "000000008.ckpt", (int(when[-2:]),) * 2)
    (tmp_path / "runs" / "night" / "my_first" / "checkpoints").mkdir(parents=True)
    (tmp_path / "runs" / "night" / "my_first" / "checkpoints" / "000000009.ckpt").touch()
    os.utime(tmp_path / "runs" / "night" / "my_first" / "checkpoints" / "000000009.ckpt", (1, 1))  # older than 01-02
    assert run_dir(NOW, "night", "true") == "runs/night/2026-01-02"
    ckpt = "runs/night/2026-01-01/checkpoints/000000008.ckpt"
    assert run_dir(NOW, "night", ckpt) == run_dir(NOW, "night", "runs/night/2026-01-01") == "runs/night/2026-01-01"
    assert run_dir(NOW, "night", "false") == "runs/night/2026-01-04_00-00-00-000000"
    assert composed(CONFIGS, ["style=night_cafe"], NOW).hydra.run.dir == "runs/night_cafe/2026-01-04_00-00-00-000000"


def test_words_given_now_end_what_was_said_of_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    for place in (folder / "checkpoints", tmp_path / "photos"):
        place.mkdir(parents=True)
    (folder / "checkpoints" / "000000008.ckpt").touch()
    begun = ["data=folder", "data.root=photos", "data.image_size=96", "schedule.images=300", "schedule=quick"]
    (folder / "overrides.yaml").write_text(yaml.safe_dump(begun))

    def words(*given):
        return sorted(as_begun(CONFIGS, [f"resume={folder}", *given])[: -1 - len(given)])

    assert words() == sorted(begun)
    assert words("data=folder") == sorted(begun[1:])
    assert words("data=bundled") == ["schedule.images=300", "schedule=quick"]
    assert words("data.root=others") == ["data.image_size=96", "data=folder", "schedule.images=300", "schedule=quick"]
    begun[0] = "data=coco"  # on a disk that has moved
    (folder / "overrides.yaml").write_text(yaml.safe_dump(begun))
    assert "data=coco" in words("data.root=others", "data.validation_root=more")
    del begun[1]  # and where COCO is expected
    (folder / "overrides.yaml").write_text(yaml.safe_dump(begun))
    assert words("data.root=others") == ["data.image_size=96", "schedule.images=300", "schedule=quick"]
    begun[:1] = ["data=folder", "data.root=photos"]
    (folder / "overrides.yaml").write_text(yaml.safe_dump(begun))
    assert words("schedule=full") == ["data.image_size=96", "data.root=photos", "data=folder"]


def test_what_is_gone_on_with_is_a_run_and_what_it_learned_from_is_there(tmp_path, monkeypatch):
    run = tmp_path / "runs" / "mine" / "first"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "000000008.ckpt").touch()
    (run / "mine.safetensors").touch()
    (tmp_path / "mine.jpg").touch()
    (run / "overrides.yaml").write_text(yaml.safe_dump(["style.image=mine.jpg", "seed=3"]))
    monkeypatch.chdir(tmp_path)
    for wrong, mend in (
        ("runs/mine", "; resume=runs/mine/first is one"),
        ("runs/mine/first/checkpoints", f"; resume={run} is one"),
        ("runs/mine/first/mine.safetensors", f"; resume={run} is one"),
        ("mine.jpg", ""),
    ):
        with pytest.raises(UserError, match=f"resume={wrong} is neither a run's folder nor a checkpoint{mend}$"):
            as_begun(CONFIGS, [f"resume={wrong}"])
    killed = tmp_path / "runs" / "mine" / "second"
    killed.mkdir()
    (killed / "overrides.yaml").write_text(yaml.safe_dump(["style.image=mine.jpg"]))
    mend = ["resume=true", "hydra.run.dir=runs/mine/second"]
    told = f"^resume=runs/mine/second: that run has no checkpoint yet: {' '.join(mend)} begins it anew$"
    with pytest.raises(UserError, match=told):
        as_begun(CONFIGS, ["resume=runs/mine/second"])
    assert as_begun(CONFIGS, mend) == ["style.image=mine.jpg", *mend]
    begun = ["style.image=mine.jpg", "seed=3"]
    assert as_begun(CONFIGS, ["resume=runs/mine/first/checkpoints/000000008.ckpt"])[:2] == begun
    monkeypatch.chdir(run / "checkpoints")
    with pytest.raises(
        UserError, match="^style.image=mine.jpg, as the run was begun, is not here: say where it is now"
    ):
        as_begun(CONFIGS, ["resume=000000008.ckpt"])
    monkeypatch.undo()
    words = as_begun(CONFIGS, [f"resume={run}", "style.image=elsewhere.jpg"])
    assert words[0] == "seed=3"
    monkeypatch.chdir(run / "checkpoints")
    assert run_dir(NOW, "mine", "000000008.ckpt") == ".."
    assert run_dir(NOW, "mine", "../checkpoints/000000008.ckpt") == ".."


def test_a_folder_of_ones_own_configuration_that_has_gone_is_named(tmp_path):
    own = tmp_path / "it's mine"
    (own / "style").mkdir(parents=True)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "000000008.ckpt").touch()
    (tmp_path / "overrides.yaml").write_text(yaml.safe_dump(with_search_path([f"--config-dir={own}", "style=mine"])))
    assert "style=mine" in as_begun(CONFIGS, [f"resume={tmp_path}"])
    own = own.rename(tmp_path / "moved")
    with pytest.raises(
        UserError, match="--config-dir=.*/it's mine, as the run was begun, is not here: say where it is"
    ):
        as_begun(CONFIGS, [f"resume={tmp_path}"])
    now = with_search_path([f"resume={tmp_path}", f"--config-dir={own}"])
    assert "style=mine" in as_begun(CONFIGS, now)


def test_null_is_nothing_where_that_is_the_default(tmp_path):
    config = composed(CONFIGS, ["style=poppies", "data=folder", "data.root=x", "data.validation_root=null"], NOW)
    assert config.data.validation_root is None
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "000000008.ckpt").touch()
    (tmp_path / "overrides.yaml").write_text(yaml.safe_dump(["style=poppies", "vgg.path=null"]))
    assert as_begun(CONFIGS, [f"resume={tmp_path}"])[:2] == ["style=poppies", "vgg.path=null"]


@pytest.mark.parametrize("where", [["hydra.run.dir={run}"], ["style.image=mine.jpg", "data=folder"]])
def test_what_a_run_was_begun_with_need_not_be_said_again(tmp_path, monkeypatch, where):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "mine" / "first"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "000000008.ckpt").touch()
    begun = ["style.image=mine.jpg", "data=folder", "data.root=photos"]
    (tmp_path / "photos").mkdir()
    (tmp_path / "mine.jpg").touch()
    (run / "overrides.yaml").write_text(yaml.safe_dump(begun))
    words = as_begun(CONFIGS, [*(word.format(run=run) for word in where), "resume=true"])
    assert set(words) >= set(begun)
    assert composed(CONFIGS, words).hydra.run.dir in (str(run), "runs/mine/first")


def test_a_run_is_placed_as_it_was_begun(tmp_path):
    assert trainer_of(CONFIGS, tmp_path / "new", ["style=poppies"])["devices"] == "auto"
    (tmp_path / "overrides.yaml").write_text(yaml.safe_dump(["trainer=ddp", "trainer.devices=2", "seed=3"]))
    begun = trainer_of(CONFIGS, tmp_path, ["style=poppies"])
    assert (begun["devices"], begun["strategy"]) == (2, "ddp")
    assert trainer_of(CONFIGS, tmp_path, ["style=poppies", "trainer.devices=4"])["devices"] == 4
