import json
import os
from pathlib import Path

import pytest

from impasto import styles
from impasto.checkpoint import load_network, save_network
from impasto.commands import evaluate, train_gallery
from impasto.commands.gallery import gallery
from impasto.commands.stylize import stylize
from impasto.commands.train_gallery import GalleryOptions, Run, _done, planned
from impasto.errors import UserError
from impasto.image import read_image
from impasto.stylizer import Stylizer

from . import ranks
from .conftest import ROOT, noise_image

SMALL = ["model.width=4", "model.depth=1", "data.image_size=32", "schedule.images=2", "data.batch_size=1"]
SMALL += ["loss.relative=false"]


@pytest.fixture
def shipped(tmp_path, monkeypatch, small_net):
    folder = tmp_path / "styles"
    monkeypatch.setattr(styles, "STYLES", folder)
    for name in ("night", "wave", "cafe"):
        save_network(folder / f"{name}.safetensors", small_net, {"style": {"name": name}})
    noise_image(120, 80).save(tmp_path / "photo.jpg")
    return tmp_path


def test_one_photo_in_all_styles_makes_a_wide_sheet(shipped):
    gallery([f"input={shipped}/photo.jpg", "size=60"])
    assert read_image(shipped / "photo_gallery.jpg").size == (3 * 60 + 4 * 8, 2 * (22 + 40) + 3 * 8)


def test_a_folder_has_a_row_for_each_photo(shipped, photos):
    gallery([f"input={photos}", "ckpt=night,wave", f"output={shipped}/sheet.png", "size=40"])
    width, height = read_image(shipped / "sheet.png").size
    assert width == 3 * 40 + 4 * 8
    assert height > 6 * (22 + 30)


def test_a_folders_sheet_has_all_of_its_name(shipped):
    folder = shipped / "trip_2024.05"
    folder.mkdir()
    (shipped / "photo.jpg").rename(folder / "photo.jpg")
    gallery([f"input={folder}", "ckpt=night", "size=40"])
    assert (shipped / "trip_2024.05_gallery.jpg").is_file()


def test_stylize_takes_all_styles(shipped):
    stylize(["ckpt=all", f"input={shipped}/photo.jpg"])
    assert {path.name for path in shipped.glob("photo_*")} == {f"photo_{n}.jpg" for n in ("night", "wave", "cafe")}
    stylize(["ckpt=night,wave", f"input={shipped}/photo.jpg", f"output={shipped}/out"])
    assert (shipped / "out" / "night" / "photo.jpg").is_file()
    assert (shipped / "out" / "wave" / "photo.jpg").is_file()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["ckpt=night,wav"], "did you mean 'wave'"),
        (["size=0"], "size=0 should be in 1…8192 px"),
        (["size=100000"], "size=100000 should be in 1…8192 px"),
        (["output=sheet.xyz"], "its suffix should be one of"),
        (["output={}/photo.jpg"], "photo.jpg' is the input: it would be written over"),
        (["input={}", "output={}/sheet.jpg"], "sheet.jpg' is in the input folder: the sheet would be a photo the next"),
    ],
)
def test_mistakes_are_one_line(shipped, words, line):
    words = [word.format(shipped) for word in words]
    with pytest.raises(UserError, match=line):
        gallery([*([] if words[0].startswith("input") else [f"input={shipped}/photo.jpg"]), *words])


def test_a_sheet_too_long_for_its_format_is_told_before_painting(shipped, monkeypatch):
    monkeypatch.setattr(Stylizer, "__call__", None)
    noise_image(200, 2).save(shipped / "strip.png")
    with pytest.raises(UserError, match=r"gallery.webp': 24608×.* px do not fit into .webp"):
        gallery([f"input={shipped}/strip.png", f"output={shipped}/gallery.webp", "size=8192"])


def test_also_with_the_styles_columns(shipped, monkeypatch):
    monkeypatch.setattr(Stylizer, "__call__", None)
    (shipped / "folder").mkdir()
    for name in ("a", "b"):
        noise_image(200, 2).save(shipped / "folder" / f"{name}.png")
    with pytest.raises(UserError, match=r"sheet.webp': 20040×.* px do not fit into .webp"):
        gallery([f"input={shipped}/folder", f"output={shipped}/sheet.webp", "size=5000"])


def test_a_sheet_is_no_photo_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr("impasto.multirun.run_all", pytest.fail)
    (tmp_path / "out").mkdir()
    noise_image(64, 48).save(tmp_path / "out" / "sheet.jpg")
    before = (tmp_path / "out" / "sheet.jpg").read_bytes()
    for photos in (tmp_path / "out" / "sheet.jpg", tmp_path / "out"):
        with pytest.raises(UserError, match=f"sheet={photos}: .*sheet.jpg' would be written over it, or be a photo"):
            train_gallery.train_gallery(ROOT, [f"sheet={photos}", f"output={tmp_path}/out", "styles=poppies"])
    assert (tmp_path / "out" / "sheet.jpg").read_bytes() == before


def test_a_gallery_trains_what_is_missing_and_draws(forked, tmp_path):
    noise_image(64, 48).save(tmp_path / "photo.png")
    words = ["styles=poppies", "strengths=0.5", f"sheet={tmp_path}/photo.png", "output=out", "strokes=48", *SMALL]
    result = forked("scripts/train_gallery.py", *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr + result.stdout
    assert load_network(tmp_path / "out" / "poppies" / "poppies.safetensors")[1]["strength"] == 0.5
    assert read_image(tmp_path / "out" / "sheet.jpg").width > 2 * 200
    again = forked("scripts/train_gallery.py", *words, cwd=tmp_path)
    assert "0 of 1 runs to do" in again.stdout
    failing = forked("scripts/train_gallery.py", "styles=poppies", "output=bad", *SMALL, "seed=abc", cwd=tmp_path)
    assert failing.returncode == 1
    assert failing.stderr.strip() == "error: seed='abc' should be a whole number"
    assert not (tmp_path / "bad").exists()
    (tmp_path / "out" / "sheet.jpg").unlink()
    (tmp_path / "out" / "night_cafe").touch()  # where a folder should be
    failing = forked("scripts/train_gallery.py", "styles=poppies,night_cafe", *words[1:], cwd=tmp_path)
    assert failing.returncode == 1
    assert failing.stderr.strip() == "error: failed: out/night_cafe.log"
    assert "night_cafe" in (tmp_path / "out" / "night_cafe.log").read_text()
    assert (tmp_path / "out" / "sheet.jpg").is_file()  # of the one that is there


def test_what_is_worth_less_than_before_is_said():
    def scores(*medians):
        places = ((256, "noise"), (256, "content"), (512, "noise"))
        return {
            "worth": [
                {"size": size, "start": start, "median": median, "limit": 60}
                for (size, start), median in zip(places, medians, strict=False)
            ]
        }

    assert train_gallery._worth_less(scores(30, 14.5, 35), scores(32.5, 14.5, None)) == [
        "256 px from noise 30 iterations, before 32.5",
        "512 px from noise 35 iterations, before more than 60",
    ]
    assert train_gallery._worth_less(scores(None, 20, 35), scores(32, 14)) == []
    assert train_gallery._worth_less(scores(80), scores(None)) == []  # which may have been less


@pytest.mark.parametrize(("starter", "variables"), [("torchrun", ranks.torchrun(0, 4)), ("srun", ranks.srun(0, 4))])
def test_each_of_several_ranks_would_train_the_gallery(monkeypatch, starter, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"train_gallery.py starts processes of its own: leave {starter} out"):
        train_gallery.train_gallery(ROOT, ["styles=poppies"])


def test_what_ships_is_half_precision_and_scored(tmp_path, monkeypatch, small_net, caplog):
    scored, worth = [], 30
    findings = [{"name": "border", "passed": False}, {"name": "holes", "passed": True}]
    monkeypatch.setattr(train_gallery, "STYLES", tmp_path / "styles")

    def score(configs, options):
        assert not target.exists(), "it ships before it has been scored"
        scored.append((options.ckpt, options.vgg))
        if "mine" not in options.ckpt:
            raise UserError("its weights are not finite")
        for suffix in (".json", ".md", "_sheet.jpg"):
            scores = {"artefacts": findings, "worth": [{"size": 256, "start": "noise", "median": worth, "limit": 60}]}
            Path(options.output, f"mine{suffix}").write_text(json.dumps({"scores": scores}))

    monkeypatch.setattr(evaluate, "evaluate", score)
    options = GalleryOptions(styles="mine", output=str(tmp_path / "runs"), ship=True)
    (run,) = planned(options)
    save_network(run.network, small_net, {"style": {"name": "mine"}})
    whole = run.network.stat().st_size
    target = tmp_path / "styles" / "mine.safetensors"
    target.parent.mkdir()
    assert not train_gallery._ship(ROOT, run, "vgg.pth", anyway=False)
    assert caplog.messages == [
        f"mine does not ship: artefacts beyond their limits (border): it is in '{run.folder / 'half'}', "
        "and anyway=true ships it"
    ]
    assert not target.exists()
    assert train_gallery._ship(ROOT, run, "vgg.pth", anyway=True)
    assert caplog.messages[1] == "mine ships: artefacts beyond their limits (border)"
    assert scored == [(str(run.folder / "half" / "mine.safetensors"), "vgg.pth")]
    assert target.stat().st_size < 0.7 * whole
    assert json.loads((tmp_path / "styles" / "mine.json").read_text())["scores"]["artefacts"] == findings
    net, metadata = load_network(target)
    assert metadata["style"] == {"name": "mine"}
    for name, weight in net.state_dict().items():
        assert (weight - load_network(run.network)[0].state_dict()[name]).abs().max() < 1e-3
    assert len(scored) == 1, "scored again"
    os.utime(run.folder / "half" / "mine_sheet.jpg", (0, 0))
    before, worth, findings[0]["passed"] = target.read_bytes(), 20, True
    target.unlink()  # as `score` asks for
    caplog.clear()
    assert not train_gallery._ship(ROOT, run, "vgg.pth", anyway=False)
    less = "worth less than the one before (256 px from noise 20 iterations, before 30)"
    assert caplog.messages[0].startswith(f"mine does not ship: {less}: it is in ")
    assert train_gallery._ship(ROOT, run, "vgg.pth", anyway=True)
    assert caplog.messages[1] == f"mine ships: {less}"
    assert target.read_bytes() == before
    assert len(scored) == 2
    (other,) = planned(GalleryOptions(styles="other", output=str(tmp_path / "runs")))
    save_network(other.network, small_net, {})
    target = target.with_name("other.safetensors")
    assert not train_gallery._ship(ROOT, other, None, anyway=False)
    assert caplog.messages[-1] == "other does not ship: its weights are not finite"
    assert not target.exists()


def test_a_package_that_cannot_be_written_is_told_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(train_gallery, "STYLES", tmp_path / "photo.jpg" / "styles")
    noise_image(9, 9).save(tmp_path / "photo.jpg")
    for words, line in ((["ship=true"], "cannot write .*styles"), (["anyway=true"], "anyway=true is of ship=true")):
        with pytest.raises(UserError, match=line):
            train_gallery.train_gallery(ROOT, ["styles=poppies", f"output={tmp_path}", *words])


def test_a_sheet_of_no_photos_is_told_before_training(tmp_path):
    (tmp_path / "notes.txt").write_text("no photo")
    for sheet, line in (("/nowhere", "there is no image '/nowhere'"), (tmp_path / "notes.txt", "is not an image")):
        with pytest.raises(UserError, match=line):
            train_gallery.train_gallery(ROOT, [f"sheet={sheet}", f"output={tmp_path}/out"])
    assert not (tmp_path / "out").exists()


def test_a_sheet_too_wide_is_told_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr("impasto.multirun.run_all", None)
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(29):
        noise_image(30, 20).save(photos / f"{number}.png")
    strengths = ",".join(map(str, range(1, 11)))
    with pytest.raises(UserError, match=r"sheet=.*photos: rows of 291 pictures are too long: say fewer"):
        train_gallery.train_gallery(ROOT, [f"sheet={photos}", f"strengths={strengths}", f"output={tmp_path}/out"])


def test_a_place_for_no_sheet_is_told_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr("impasto.multirun.run_all", None)
    (tmp_path / "notes.txt").write_text("no folder")
    with pytest.raises(UserError, match=r"cannot write '.*notes.txt/sheet.jpg': Not a directory"):
        train_gallery.train_gallery(ROOT, ["styles=poppies", f"output={tmp_path}/notes.txt"])


def test_a_network_of_other_words_is_not_taken_for_these(tmp_path, small_net):
    run = Run("night", "1", "320", tmp_path / "night")
    rest = ["schedule.images=8", "trainer.devices=1"]
    assert not _done(run, rest)
    run.folder.mkdir()
    begun = ["data=bundled", "schedule=quick", "style=night", "strength=1", "stroke=320", *rest]
    (run.folder / "overrides.yaml").write_text(json.dumps(begun))
    assert not _done(run, rest)
    save_network(run.network, small_net, {})
    assert _done(run, ["schedule.images=8", "trainer=cpu"])
    for strength, stroke, words, line in (
        ("3", "320", rest, "was begun with strength=1, not strength=3: say the same, or another"),
        ("1", "800", rest, "stroke=320, not stroke=800"),
        ("1", "320", [], "schedule.images=8, not no schedule.images="),
        ("1", "320", [*rest, "model=slim"], "no model=, not model=slim"),
        ("1", "320", [*rest, "data=coco"], "data=bundled, not data=coco"),
        ("1", "320", [*rest, "trainer.gradient_clip=1"], "no trainer.gradient_clip=, not trainer.gradient_clip=1"),
    ):
        with pytest.raises(UserError, match=line):
            _done(Run("night", strength, stroke, run.folder), words)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["strength=0.3"], "strength= is strengths= here"),
        (["style=poppies"], "style= is styles= here"),
        (["hydra.run.dir=out"], "hydra.run.dir= is output= here"),
        (["resume=false"], "resume=false: runs are gone on with anyway"),
        (["++strength=0.3"], "strength= is strengths= here"),
        (["style.image=mine.jpg"], "style.image=mine.jpg is for python train.py"),
        (["preview=true"], "preview=true is for python train.py"),
        (["schedule.image=3"], "'schedule.image' is unknown; did you mean 'schedule.images'"),
        (["styles=starry_night,popies"], "there is no painting 'popies'; did you mean 'poppies'"),
        (["strengths=1,"], "strengths=1, should be numbers with commas between them"),
        (["strokes=large"], "strokes=large should be whole numbers"),
        (["strokes=1"], "stroke=1 should be in 16…4096 px"),
        (["strengths=1,0"], "strengths=1,0 should be above 0"),
        (["strengths=nan"], "strengths=nan should be above 0"),
    ],
)
def test_words_of_one_run_are_no_gallerys(tmp_path, monkeypatch, words, line):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=line):
        train_gallery.train_gallery(ROOT, words)


@pytest.mark.parametrize("flag", [["--config-dir", "mine"], ["--config-dir=mine"]])
def test_a_gallery_with_configuration_of_ones_own_is_gone_on_with(tmp_path, monkeypatch, small_net, flag):
    """Whichever way the folder is given; what is done is not begun again."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    asked = {}
    monkeypatch.setattr("impasto.multirun.run_all", lambda script, runs, places: asked.update(runs) or [])
    words = ["styles=poppies", "schedule=quick", "data=bundled", "output=out", *flag]
    train_gallery.train_gallery(ROOT, words)
    (folder,) = asked
    begun = [word for word in asked[folder] if word != "resume=true"]
    folder.mkdir(parents=True)
    (folder / "overrides.yaml").write_text(json.dumps(begun))
    save_network(folder / "poppies.safetensors", small_net, {})
    asked.clear()
    train_gallery.train_gallery(ROOT, words)
    assert not asked


def test_a_style_ships_once():
    with pytest.raises(UserError, match="ship=true takes one strength and one stroke"):
        planned(GalleryOptions(strengths="1,2", ship=True))


def test_each_combination_is_a_run_with_a_folder_of_its_own():
    twice = planned(GalleryOptions(styles="a,a,b", strengths="2,2", output="out"))
    assert [str(run.folder) for run in twice] == ["out/a", "out/b"]
    runs = planned(GalleryOptions(styles="a,b", strengths="0.5,2", strokes="320", output="out"))
    assert [str(run.folder) for run in runs] == [
        f"out/{style}-strength_{strength}" for style in "ab" for strength in ("0.5", "2")
    ]
    assert [run.settings for run in runs] == ["strength 0.5", "strength 2"] * 2
    assert str(runs[0].network) == "out/a-strength_0.5/a.safetensors"
