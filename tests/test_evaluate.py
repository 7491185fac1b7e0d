import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from impasto.assets import PHOTOS, STYLES, painting, provenance
from impasto.checkpoint import load_network, save_network
from impasto.commands.evaluate import EvaluateOptions, _objective, evaluate
from impasto.data.content import ContentDataModule
from impasto.data.scan import fingerprint, short_key
from impasto.errors import UserError
from impasto.evaluation import contest
from impasto.evaluation import scores as module
from impasto.evaluation.artefacts import Finding
from impasto.image import find_images, read_image, with_long_side
from impasto.losses.objective import reference_photos
from impasto.models.transformer_net import TransformerNet
from impasto.tensors import to_tensor

from .conftest import ROOT, noise_image
from .test_optimization import Quadratic

CONFIGS = ROOT / "configs"
RECORD = ("style", "strength", "loss", "vgg", "content", "seed")
LINE = {"size": 96, "start": "noise", "least": 7, "median": 7, "most": 7, "limit": 9, "photos": [{}]}
SCORES = {"worth": [LINE], "skipped": [], "terms": {}, "similarity": {"ssim": 0.5}, "artefacts": [], "machine": {}}
SCORES |= {"precision": "float32", "compared": []}
HELD_OUT = ["picos_de_europa.jpg", "dahlia.jpg", "coffee.jpg"]  # the large ones first


def learned_from_the_others(*held_out):
    """What the record of a network says that has learned from all photos that ship but `held_out`."""
    folder = fingerprint(find_images(PHOTOS), PHOTOS, times=False)[:16]
    return {"folder": folder, "held_out": [short_key(PHOTOS / name, PHOTOS) for name in held_out]}


@pytest.fixture
def recorded(tmp_path, small_net):
    """A network that says what it was trained for, on photos of the bundled data."""
    record = {
        "style": {"name": "poppies", "stroke": 64, **provenance(painting("poppies"))},
        "strength": 1.0,
        "loss": {**yaml.safe_load((CONFIGS / "loss/default.yaml").read_text()), "relative": False},  # which is faster
        "vgg": {"source": "oxford"},
        "content": {"name": "bundled", "photos": 12, "validation": 3, **learned_from_the_others(*HELD_OUT)},
        "seed": 0,
    }
    path = tmp_path / "net" / "poppies.safetensors"
    save_network(path, small_net, record)
    return path


def test_a_report_has_everything(forked, recorded):
    result = forked("scripts/evaluate.py", f"ckpt={recorded}", "sizes=96,644", "photos=2,3", "iterations=1")
    assert result.returncode == 0, result.stderr
    card = json.loads(recorded.with_suffix(".json").read_text())
    scores = card["scores"]
    assert [(line["size"], line["start"]) for line in scores["worth"]] == [
        (size, start) for size in (96, 644) for start in ("noise", "content")
    ]
    # the others it has learned from
    assert [[photo["photo"] for photo in line["photos"]] for line in scores["worth"]] == [
        *2 * [["picos_de_europa.jpg", "dahlia.jpg"]],
        *2 * [["picos_de_europa.jpg"]],
    ]
    assert card["content"] == "photos that its record does not name as learned from"
    small = "dahlia.jpg, coffee.jpg for 644 px: smaller on the long side"
    assert scores["skipped"] == [small]
    assert f"warning: skipped: {small}\n" in result.stderr
    assert scores["terms"]["style/relu1_1"].keys() == {"identity", "network", "optimizer"}
    assert scores["terms"]["content"]["identity"] == 0
    assert scores["similarity"].keys() == {"ssim", "photos", "short side", "lpips"}
    assert len(scores["artefacts"]) == 7
    assert all(finding["value"] <= finding["worst"] for finding in scores["artefacts"])
    assert [line["size"] for line in card["speed"]] == [96, 644]
    assert all(line["ms"] > 0 and line["peak MB"] > 50 for line in card["speed"])
    page = recorded.with_suffix(".md").read_text()
    assert "# Poppies" in page
    assert "Katsushika Hokusai" in page
    assert "96 px, from noise: worth" in page
    assert (recorded.parent / "poppies_sheet.jpg").stat().st_size > 5000
    assert "another painting" not in page
    assert scores["compared"] == ["picos_de_europa.jpg", "dahlia.jpg"]
    assert card["credits"][0] == "picos_de_europa.jpg: Aitzol Berasategi 2018, CC BY 4.0"
    assert f"\n\nPhotos: {'; '.join(card['credits'])}.\n\n" in page
    assert f"Skipped: {small}." in page
    assert "Measured at strength 1 and a stroke of 64 px, as the network's record says." in page
    events = EventAccumulator(str(recorded.parent / "poppies_scores")).Reload()
    reached = {f"worth/{line['size']}/{line['start']}": line["median"] for line in scores["worth"]}
    reached = {name: value for name, value in reached.items() if value is not None}
    logged = [name for name in events.Tags()["scalars"] if name.startswith("worth/")]
    assert {name: events.Scalars(name)[0].value for name in logged} == reached
    assert events.Scalars("ssim")[0].value == pytest.approx(scores["similarity"]["ssim"])
    assert "_hparams_/session_start_info" in events.summary_metadata


@pytest.fixture
def scored(monkeypatch):
    """Everything but the scores themselves, which take a while."""
    from impasto.evaluation import card, scores

    seen = {}

    def score(net, objective, painting, content, plan):
        seen.update(objective=objective, painting=painting, content=content, plan=plan)
        raise UserError("scored")

    few = reference_photos()[:2, :, :64, :64]  # all take seconds
    monkeypatch.setattr("impasto.losses.objective.reference_photos", lambda: few)
    monkeypatch.setattr(scores, "score", score)
    monkeypatch.setattr(card, "write_card", None)
    return seen


def test_without_metadata_the_default_objective_serves_with_a_warning(network_file, scored, caplog):
    with pytest.raises(UserError, match="scored"):
        evaluate(CONFIGS, EvaluateOptions(ckpt=str(network_file), painting="starry_night"))
    assert any("does not say what it was trained for" in message for message in caplog.messages)
    assert scored["objective"].weights.weights["style"] == 6
    assert min(scored["painting"].size) == 320
    assert len(scored["content"]) == 15


def test_of_half_a_record_the_default_objective_serves(recorded, caplog):
    _, record = load_network(recorded)
    whole = {key: record[key] for key in ("loss", "vgg", "strength")} | {"stroke": 64}
    assert _objective(CONFIGS, record) == (whole, True)
    more = {**record, "vgg": {**record["vgg"], "of a later version": 1}}
    assert _objective(CONFIGS, more) == (whole, True)
    assert not caplog.messages
    halves = [{"strength": None}, {"loss": {"relative": True}}, {"loss": None}, {"vgg": {}}, {"style": {"name": "x"}}]
    for half in [*halves, {"loss": {**record["loss"], "weights": None}}]:
        caplog.clear()
        objective, recorded = _objective(CONFIGS, {**record, **half})
        assert objective["loss"]["weights"]["style"] == 6
        assert not recorded
        assert any("does not say what it was trained for" in message for message in caplog.messages)


@pytest.mark.parametrize("part", [{"style": None}, {"style": {"name": ["a"]}}, {"content": {"name": "bundled"}}])
def test_records_that_say_little_are_no_obstacle(recorded, small_net, monkeypatch, part):
    """Photos of which it is not known whether they were learned from are none to judge it by."""
    _, record = load_network(recorded)
    save_network(recorded, small_net, {**{key: record[key] for key in RECORD}, **part})
    monkeypatch.setattr(module, "score", lambda *_: (SCORES, noise_image(64, 64)))
    monkeypatch.setattr("impasto.losses.objective.build_objective", lambda *_: None)  # seconds
    timed = []
    monkeypatch.setattr(module, "speed", lambda _, sizes, *__: timed.append(sizes) or [])
    options = EvaluateOptions(ckpt=str(recorded), painting="poppies", sizes="96,512", photos="1,1")
    if "style" in part:
        evaluate(CONFIGS, options)
        page = recorded.with_suffix(".md").read_text()
        assert "a stroke of 320 px, **assumed: its record does not say**." in page
        assert "Skipped: milliseconds and memory at 96 px: it failed." in page
        assert timed == [[96]]  # not the sizes for which there was no photo
        return
    with pytest.raises(UserError, match="has learned from all photos that ship"):
        evaluate(CONFIGS, options)


def test_a_card_says_that_another_painting_was_the_measure(recorded, monkeypatch):
    monkeypatch.setattr("impasto.losses.objective.build_objective", lambda *_: None)  # seconds
    monkeypatch.setattr(module, "score", lambda *_: (SCORES, noise_image(64, 64)))
    monkeypatch.setattr(module, "speed", lambda *_: [])
    evaluate(CONFIGS, EvaluateOptions(ckpt=str(recorded), painting="summertime"))
    assert "says, **by another painting than its own**." in recorded.with_suffix(".md").read_text()


def test_a_second_evaluation_takes_the_place_of_the_first(recorded, monkeypatch):
    """Neither is its sheet a photo to judge by, nor are its curves there twice."""
    seen = []
    monkeypatch.setattr("impasto.losses.objective.build_objective", lambda *_: None)  # seconds
    monkeypatch.setattr(module, "score", lambda *given: seen.append(given[3]) or (SCORES, noise_image(64, 64)))
    monkeypatch.setattr(module, "speed", lambda *_: [])
    noise_image(96, 96).save(recorded.parent / "photo.png")
    for _ in range(2):
        evaluate(CONFIGS, EvaluateOptions(ckpt=str(recorded), content=str(recorded.parent)))
    assert seen == [[recorded.parent / "photo.png"]] * 2
    assert len(list((recorded.parent / "poppies_scores").iterdir())) == 1
    events = EventAccumulator(str(recorded.parent / "poppies_scores")).Reload()
    assert [event.value for event in events.Scalars("worth/96/noise")] == [7]
    assert not list(recorded.parent.glob("events*"))  # which are the run's own


def test_a_record_that_no_card_can_hold_is_told_before_the_scores(recorded, small_net, scored):
    save_network(recorded, small_net, {"note": float("inf")})
    with pytest.raises(UserError, match="the network's record holds a number that JSON has not"):
        evaluate(CONFIGS, EvaluateOptions(ckpt=str(recorded), painting="poppies"))


def test_another_painting_than_the_networks_is_told(recorded, scored, caplog):
    for painted, told in (("poppies", False), ("starry_night", True)):
        with pytest.raises(UserError, match="scored"):
            evaluate(CONFIGS, EvaluateOptions(ckpt=str(recorded), painting=painted))
        assert any("is not the file that the network was trained with" in line for line in caplog.messages) is told


def test_photos_are_those_asked_for(recorded, scored, photos):
    with pytest.raises(UserError, match="scored"):
        evaluate(CONFIGS, EvaluateOptions(ckpt=str(recorded), content=str(photos)))
    assert len(scored["content"]) == 6
    with pytest.raises(UserError, match="scored"):
        evaluate(CONFIGS, EvaluateOptions(ckpt=str(recorded)))
    assert [path.name for path in scored["content"]] == HELD_OUT


def test_what_the_start_has_learned_from_is_not_held_out(tmp_path, small_net, recorded, scored):
    _, record = load_network(recorded)
    record = {key: record[key] for key in ("style", "strength", "loss", "vgg", "seed")}

    def started_from(before, content):
        path = tmp_path / "after.safetensors"
        save_network(path, small_net, {**record, "content": content, "init": {"learned": before}})
        return EvaluateOptions(ckpt=str(path))

    theirs = {"name": "holiday", "photos": 90, "validation": 16, "folder": "0123456789abcdef", "held_out": []}
    ours = learned_from_the_others(*HELD_OUT)
    with pytest.raises(UserError, match="scored"):
        evaluate(CONFIGS, started_from([ours], theirs))
    assert [path.name for path in scored["content"]] == HELD_OUT
    with pytest.raises(UserError, match="scored"):
        evaluate(CONFIGS, started_from([learned_from_the_others("cat.jpg", *HELD_OUT[:2])], ours))
    assert [path.name for path in scored["content"]] == HELD_OUT[:2]  # in both splits
    with pytest.raises(UserError, match="has learned from all photos that ship: content=DIR"):
        evaluate(CONFIGS, started_from([learned_from_the_others("cat.jpg")], ours))


def test_the_folder_learned_from_is_judged_by_its_held_out_photos(tmp_path, small_net, recorded, scored, caplog):
    photos = tmp_path / "photos"
    photos.mkdir()
    for seed in range(9):
        noise_image(32, 32, seed).save(photos / f"{seed}.png")
    noise_image(32, 32, 9).convert("L").save(photos / "grey.png")  # which is left out
    arguments = {"image_size": 32, "seed": 7, "max_rejects": 0.5}
    data = ContentDataModule("mine", photos, 2, **arguments)
    _, record = load_network(recorded)
    record = {**{key: record[key] for key in ("style", "strength", "loss", "vgg")}, "seed": 7}
    path = tmp_path / "mine.safetensors"
    options = EvaluateOptions(ckpt=str(path), content=str(photos))

    def learned(data):
        save_network(path, small_net, {**record, "content": {"folder": data.folder, "held_out": data.held_out()}})

    learned(data)
    caplog.set_level("INFO", "impasto")
    with pytest.raises(UserError, match="scored"):
        evaluate(CONFIGS, options)
    assert scored["content"] == data.validation
    assert "judged by the 2 photos that were held out" in caplog.text

    noise_image(32, 32, 98).save(photos / "mine_sheet.jpg")  # of an evaluation before
    (photos / "mine.json").write_text(json.dumps({"network": {}, "scores": {}}))
    options.output = str(photos)
    with pytest.raises(UserError, match="scored"):
        evaluate(CONFIGS, options)
    assert scored["content"] == data.validation
    (photos / "mine_sheet.jpg").unlink()
    (photos / "mine.json").unlink()

    noise_image(32, 32, 97).save(photos / "added.png")
    with pytest.raises(UserError, match="scored"):
        evaluate(CONFIGS, options)
    assert scored["content"] == data.validation
    assert "seems, by the names in it, to have learned from" in caplog.text
    (photos / "added.png").unlink()

    (tmp_path / "others").mkdir()
    noise_image(32, 32, 99).save(tmp_path / "others" / "a.png")
    learned(ContentDataModule("mine", photos, 2, validation_root=tmp_path / "others", **arguments))
    with pytest.raises(UserError, match=f"has learned from all photos in content={photos}"):
        evaluate(CONFIGS, options)

    noise_image(32, 32, 10).save(photos / "10.png")  # it is another folder
    with pytest.raises(UserError, match="scored"):
        evaluate(CONFIGS, options)
    assert len(scored["content"]) == 11


def test_the_photos_that_ship_are_known_in_a_folders_record(recorded, small_net, scored):
    """Trained with data=folder data.root=…/photos, they are no less learned from."""
    data = ContentDataModule("mine", PHOTOS, 4, image_size=32, seed=7)
    _, record = load_network(recorded)
    record = {key: record[key] for key in ("style", "strength", "loss", "vgg")}
    save_network(recorded, small_net, {**record, "content": {"folder": data.folder, "held_out": data.held_out()}})
    with pytest.raises(UserError, match="scored"):
        evaluate(CONFIGS, EvaluateOptions(ckpt=str(recorded)))
    assert {*scored["content"]} == {*data.validation}


def test_a_peers_network_is_scored_as_it_paints(tmp_path, monkeypatch, scored):
    monkeypatch.setattr("impasto.export.load_peer_network", lambda path: (TransformerNet(4, 1, output="clamp"), {}))
    (tmp_path / "candy.pth").touch()
    options = EvaluateOptions(ckpt=str(tmp_path / "candy.pth"), painting="poppies")
    with pytest.raises(UserError, match="scored"):
        evaluate(CONFIGS, options)
    assert scored["plan"].precision == "float32"
    options.precision = "bfloat16"
    with pytest.raises(UserError, match="scored"):
        evaluate(CONFIGS, options)
    assert scored["plan"].precision == "bfloat16"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"sizes": "256,big"}, "sizes=256,big should be whole numbers above 0"),
        ({"photos": "1,0"}, "photos=1,0 should be whole numbers above 0"),
        ({"sizes": "256"}, "photos=6,3,2 should have as many numbers as sizes=256"),
        ({"iterations": 0}, "iterations=0 should be at least 1"),
        ({}, "the network's painting is none of those that ship: painting=FILE"),
        ({"painting": "stary_night"}, "did you mean 'starry_night'"),
        ({"content": "/nowhere"}, "there is no folder '/nowhere'"),
        ({"device": "tpu"}, "device is auto"),
        ({"precision": "half"}, "precision is auto"),
        ({"output": "/dev/null"}, "cannot write '/dev/null/test.json'"),
    ],
)
def test_mistakes_are_one_line(network_file, options, line):
    with pytest.raises(UserError, match=line):
        evaluate(CONFIGS, EvaluateOptions(ckpt=str(network_file), **options))


def test_a_vgg_of_ones_own_is_asked_for(tmp_path, small_net, recorded, scored):
    path = tmp_path / "own.safetensors"
    _, record = load_network(recorded)
    record = {key: record[key] for key in ("style", "strength", "loss", "content", "seed")}
    save_network(path, small_net, {**record, "vgg": {"source": "file", "preprocessing": "caffe", "pooling": "max"}})
    with pytest.raises(UserError, match="a VGG19 of your own: vgg=FILE, as it was for training"):
        evaluate(CONFIGS, EvaluateOptions(ckpt=str(path)))
    with pytest.raises(UserError, match="/nowhere.pth"):
        evaluate(CONFIGS, EvaluateOptions(ckpt=str(path), vgg="/nowhere.pth"))
    with pytest.raises(UserError, match="vgg=/nowhere.pth: the network was trained with the VGG19 of oxford"):
        evaluate(CONFIGS, EvaluateOptions(ckpt=str(recorded), vgg="/nowhere.pth"))


@pytest.mark.parametrize(("trained_with", "warned"), [(b"weights", False), (b"others", True), (None, False)])
def test_another_vgg_than_the_networks_is_said(tmp_path, small_net, recorded, caplog, trained_with, warned):
    path, vgg = tmp_path / "own.safetensors", tmp_path / "vgg.pth"
    vgg.write_bytes(b"weights")
    _, record = load_network(recorded)
    record = {key: record[key] for key in RECORD}
    record["vgg"] = {"source": "file", "preprocessing": "caffe", "pooling": "max"}
    if trained_with is not None:  # as records of older versions
        record["vgg"]["sha256"] = hashlib.sha256(trained_with).hexdigest()
    save_network(path, small_net, record)
    with pytest.raises(UserError, match=r"vgg\.pth"):  # no weights at all
        evaluate(CONFIGS, EvaluateOptions(ckpt=str(path), vgg=str(vgg)))
    assert ("is not the file that the network was trained with" in caplog.text) == warned


def test_the_card_of_a_style_that_ships_is_not_written_over(tmp_path, scored, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = os.path.relpath(STYLES / "starry_night.safetensors")
    stems = []
    monkeypatch.setattr("impasto.evaluation.card.check_free", stems.append)
    with pytest.raises(UserError, match="scored"):
        evaluate(CONFIGS, EvaluateOptions(ckpt=shipped))
    assert stems == [Path("runs", "starry_night", "scores", "starry_night")]
    assert not list(tmp_path.iterdir())  # of an evaluation that did not come to its end


def test_a_record_of_other_photos_that_ship_asks_for_ones_own(tmp_path, small_net, recorded, scored):
    """Of another version, perhaps: which of ours were among them is not known."""
    path = tmp_path / "all.safetensors"
    _, record = load_network(recorded)
    record = {key: record[key] for key in ("style", "strength", "loss", "vgg", "seed")}
    before = {"name": "bundled", "photos": 9, "validation": 3, "folder": "0123456789abcdef", "held_out": ["cat"]}
    save_network(path, small_net, {**record, "content": before})
    with pytest.raises(UserError, match="has learned from all photos that ship: content=DIR"):
        evaluate(CONFIGS, EvaluateOptions(ckpt=str(path)))


def scores_of(folder, objective, stylize=lambda content: content, sizes=(64,), precision="auto", photos=1):
    """Of a network that does what `stylize` does, in seconds."""
    net = TransformerNet(4, 1)
    net.forward = stylize
    plan = module.Plan(sizes, [photos] * len(sizes), 2, torch.device("cpu"), precision)
    return module.score(net, objective, noise_image(64, 64), find_images(folder), plan)[0]


@pytest.fixture
def quadratic():
    return Quadratic(torch.ones(1, 3, 1, 1))


def test_the_comparison_is_made_at_the_largest_size_that_has_photos(tmp_path, quadratic):
    noise_image(100, 64).save(tmp_path / "a.png")
    scores = scores_of(tmp_path, quadratic, sizes=[64, 96, 500])
    assert [(line["size"], line["start"]) for line in scores["worth"]] == [
        (size, start) for size in (64, 96) for start in ("noise", "content")
    ]
    # L-BFGS goes on to the end where it is compared, and stops there where it is as good
    assert [len(line["photos"][0]["trace"]) for line in scores["worth"] if line["start"] == "content"] == [1, 3]
    assert scores["terms"]["total"].keys() == {"identity", "network", "optimizer"}


def test_the_comparison_is_made_at_no_larger_size_than_can_be_shown(tmp_path, quadratic, monkeypatch):
    noise_image(100, 64).save(tmp_path / "a.png")
    monkeypatch.setattr(contest, "COMPARED", 64)
    scores = scores_of(tmp_path, quadratic, sizes=[64, 96])
    assert [len(line["photos"][0]["trace"]) for line in scores["worth"] if line["start"] == "content"] == [3, 1]


def test_a_photos_line_has_the_objective_of_the_networks_picture(tmp_path, quadratic):
    noise_image(80, 64).save(tmp_path / "a.png")
    scores = scores_of(tmp_path, quadratic, lambda content: content * 0.5, precision="float32")
    picture = to_tensor(with_long_side(read_image(tmp_path / "a.png"), 64)) * 0.5
    expected = pytest.approx(float(quadratic(picture, picture)["total"]), rel=1e-5)
    assert [line["photos"][0]["objective"] for line in scores["worth"]] == [expected] * 2
    assert scores["terms"]["total"]["network"] == expected


def test_terms_are_means_over_the_photos():
    sides = [{who: {"tv": value} for who in ("identity", "network", "optimizer")} for value in (1.0, 4.0)]
    assert module._means(sides) == {"tv": dict.fromkeys(("identity", "network", "optimizer"), 2.5)}


def test_panoramas_and_damaged_photos_are_passed_over(tmp_path, quadratic, caplog):
    noise_image(64, 20).save(tmp_path / "wide.png")
    (tmp_path / "damaged.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    scores = scores_of(tmp_path, quadratic)
    assert [line["photos"][0]["photo"] for line in scores["worth"]] == ["wide.png", "wide.png"]
    assert scores["artefacts"] == []
    assert scores["skipped"] == [
        "damaged.jpg for 64 px: cannot be read",
        "the artefact suite: no photo has 256 px on its short side",
    ]
    assert sum("damaged.jpg" in message for message in caplog.messages) == 1
    assert any("damaged.jpg' cannot be read" in message for message in caplog.messages)


def test_many_small_photos_are_one_line_and_are_not_decoded(tmp_path, quadratic, monkeypatch, caplog):
    decoded = []
    read = contest.read_image
    monkeypatch.setattr(contest, "read_image", lambda path, *size: decoded.append(path.name) or read(path, *size))
    for number in range(9):
        noise_image(40, 30).save(tmp_path / f"{number}.png")
    noise_image(600, 300).save(tmp_path / "large.png")
    scores = scores_of(tmp_path, quadratic)
    small = "0.png, 1.png, 2.png and 6 more for 64 px: smaller on the long side"
    assert scores["skipped"] == [small]
    assert caplog.messages.count(f"skipped: {small}") == 1
    assert len([message for message in caplog.messages if message.startswith("skipped: 0.png")]) == 3
    assert set(decoded) == {"large.png"}


def test_photos_wait_for_their_turn_at_the_size_they_are_judged_at(tmp_path):
    """A folder of large ones would fill the memory."""
    noise_image(60, 500).save(tmp_path / "a.png")
    photos = contest.HeldOut([tmp_path / "a.png"])
    assert photos.of_long_side(100, 1)[0][0][1].size == (12, 100)
    assert photos.of_short_side(40, 1)[0][0][1].size == (40, 333)
    assert photos.of_short_side(40, 1, 50)[0][0][1].size == (50, 417)
    assert photos.of_short_side(61, 1) == ([], ["a.png for 61 px: smaller on the short side"])


def test_what_the_memory_does_not_hold_is_passed_over(tmp_path, quadratic, monkeypatch, caplog):
    noise_image(96, 64).save(tmp_path / "a.png")
    needed = (1 << 30) + 64 * 43 * (3100 + 3 * 33)  # for 3 evaluations of 64 px, in float32
    monkeypatch.setattr("impasto.optimization.free_memory", lambda device: needed)
    scores = scores_of(tmp_path, quadratic, sizes=[64, 96], precision="float32")
    assert [line["size"] for line in scores["worth"]] == [64, 64]
    shortage = "size 96 takes 1.1 GB of memory, and 1.1 GB are free: size 64 fits"
    assert scores["skipped"][:2] == [f"a.png at 96 px from {start}: {shortage}" for start in ("noise", "content")]
    assert f"skipped: a.png at 96 px from noise: {shortage}" in caplog.messages

    monkeypatch.setattr("impasto.optimization.free_memory", lambda device: needed - 1)
    with pytest.raises(
        UserError, match="none of the 1 photos can be used: .*a.png at 64 px from noise: size 64 takes .* GB are free"
    ):
        scores_of(tmp_path, quadratic, sizes=[64, 96], precision="float32")


def test_memory_that_runs_out_costs_that_size_alone(tmp_path, quadratic, monkeypatch, caplog):
    noise_image(96, 64).save(tmp_path / "a.png")

    def forward(stylized, content):
        if stylized.shape[-1] == 96:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"total": stylized.sum()}

    monkeypatch.setattr(quadratic, "forward", forward)
    scores = scores_of(tmp_path, quadratic, sizes=[96, 64])
    assert [line["size"] for line in scores["worth"]] == [64, 64]
    assert "skipped: a.png at 96 px from content: it takes more memory than there is" in caplog.messages


@pytest.mark.parametrize("part", ["artefacts", "_similarity"])
def test_memory_that_runs_out_after_the_contest_costs_no_scores(tmp_path, quadratic, monkeypatch, caplog, part):
    noise_image(300, 260).save(tmp_path / "a.png")

    def hungry(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(module, part, hungry)
    scores = scores_of(tmp_path, quadratic)
    assert len(scores["worth"]) == 2
    where = {"artefacts": "the artefact suite on a.png", "_similarity": "the similarity to the photo"}[part]
    assert scores["skipped"] == [f"{where}: it takes more memory than there is"]
    assert f"skipped: {scores['skipped'][0]}" in caplog.messages
    assert (scores["artefacts"] == []) is (part == "artefacts")
    assert isinstance(scores["similarity"]["ssim"], float) is (part == "artefacts")


def test_sizes_that_only_the_objective_takes_are_scored_all_the_same(tmp_path, quadratic):
    """SSIM's window is larger than them."""
    noise_image(300, 260).save(tmp_path / "a.png")
    scores = scores_of(tmp_path, quadratic, sizes=[4])
    assert (len(scores["worth"]), scores["similarity"]["short side"]) == (2, 16)


def test_a_card_does_not_replace_what_is_none(tmp_path):
    from impasto.evaluation.card import check_free, is_sheet

    stem = tmp_path / "my model"
    check_free(stem)
    (tmp_path / "my model.json").write_text(json.dumps({"network": {}, "scores": {}}))
    (tmp_path / "my model.md").write_text("# A card")
    (tmp_path / "my model_sheet.jpg").write_text("its sheet")
    check_free(stem)
    assert is_sheet(tmp_path / "my model_sheet.jpg")
    assert not is_sheet(tmp_path / "another_sheet.jpg")
    for content in ('{"my": "configuration"}', "[1]", "{", None):
        if content is None:
            (tmp_path / "my model.json").unlink()
        else:
            (tmp_path / "my model.json").write_text(content)
        with pytest.raises(UserError, match=r"my model\.(json|md)' is there, and is no card of an evaluation: output="):
            check_free(stem)
    (tmp_path / "my model.md").unlink()
    with pytest.raises(UserError, match="my model_sheet.jpg' is there, and is no card"):
        check_free(stem)
    assert not is_sheet(tmp_path / "my model_sheet.jpg")


def test_a_measure_is_the_median_and_has_its_worst():
    findings = [Finding("blobs", value, 0.25, "spots") for value in (0.1, 0.3, 0.2)]
    typical = module._typical(findings)
    assert (typical["value"], typical["worst"], typical["passed"]) == (0.2, 0.3, True)
    typical = module._typical([*findings, Finding("blobs", float("nan"), 0.25, "spots")])
    assert (typical["value"], typical["worst"], typical["passed"]) == (None, None, False)


def test_a_panorama_too_low_for_vgg_is_passed_over(tmp_path, quadratic, monkeypatch, caplog):
    noise_image(64, 3).save(tmp_path / "a.png")
    noise_image(64, 64).save(tmp_path / "b.png")

    def forward(stylized, content):
        if stylized.shape[-2] < 16:
            raise UserError("an image of 64×3 px is too small for VGG19 at relu5_1")
        return {"total": stylized.sum()}

    monkeypatch.setattr(quadratic, "forward", forward)
    scores = scores_of(tmp_path, quadratic, photos=2)
    assert [photo["photo"] for line in scores["worth"] for photo in line["photos"]] == ["b.png", "b.png"]
    assert (
        "skipped: a.png at 64 px from noise: an image of 64×3 px is too small for VGG19 at relu5_1" in caplog.messages
    )


def test_a_time_that_cannot_be_taken_costs_no_scores(monkeypatch, caplog):
    monkeypatch.setattr(module, "stylize_pass", sized)
    assert [line["size"] for line in module.speed(Path("a.safetensors"), [8, 16, 32], repeats=1)] == [8, 32]
    assert "skipped: the time of one pass at 16 px: it takes more memory than there is" in caplog.messages


def sized(kind, size, file, on):
    if size == 16:
        raise MemoryError
    return lambda: size


def test_an_optimiser_that_dies_makes_no_network_good(tmp_path, quadratic, monkeypatch):
    noise_image(64, 64).save(tmp_path / "a.png")
    monkeypatch.setattr(quadratic, "forward", lambda stylized, content: {"total": stylized.sum() * float("nan")})
    with pytest.raises(UserError, match="what the network paints of a.png at 64 px is not finite"):
        scores_of(tmp_path, quadratic)

    def dying(stylized, content):
        return {"total": stylized.sum() * (float("nan") if torch.is_grad_enabled() else 1)}

    monkeypatch.setattr(quadratic, "forward", dying)
    with pytest.raises(UserError, match="none of the 1 photos can be used"):
        scores_of(tmp_path, quadratic)


def test_photos_all_too_small_end_it(recorded, tmp_path):
    noise_image(90, 60).save(tmp_path / "a.png")
    options = EvaluateOptions(ckpt=str(recorded), content=str(tmp_path), sizes="1024", photos="1")
    with pytest.raises(UserError, match="none of the 1 photos can be used: .*for 1024 px: smaller on the long side"):
        evaluate(CONFIGS, options)


def test_similarity_is_measured_at_one_size_where_photos_allow(tmp_path):
    for name, side in (("a", 40), ("b", 64), ("c", 90)):
        noise_image(side + 20, side).save(tmp_path / f"{name}.png")
    photos = sorted(tmp_path.glob("*.png"))
    found = module._similarity(lambda photo: photo, module.HeldOut(photos), 64)
    assert (found["photos"], found["short side"], found["ssim"]) == (2, 64, 1.0)
    grey = module._similarity(lambda photo: torch.full_like(photo, 0.5), module.HeldOut(photos), 64)
    assert 0 < grey["ssim"] < 0.05  # of a texture, nothing is left
    found = module._similarity(lambda photo: photo, module.HeldOut(photos), 100)  # as large as none
    assert (found["photos"], found["short side"]) == (3, 40)


def test_a_network_that_gives_no_numbers_has_no_similarity():
    assert module._shown([0.5, 0.7]) == 0.6
    assert module._shown([0.5, float("nan")]) == "skipped: not a number"
    found = module._similarity(lambda photo: photo * torch.nan, module.HeldOut([PHOTOS / "cat.jpg"]), 64)
    assert found["ssim"] == "skipped: not a number"


def test_a_file_that_is_not_alexnet_is_not_loaded(tmp_path, monkeypatch):
    """Torchvision would execute it."""

    class Loaded:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save(Loaded(), tmp_path / "checkpoints" / module.ALEXNET)
    found = module._similarity(lambda photo: photo, module.HeldOut([PHOTOS / "cat.jpg"]), 64)
    assert "is not torchvision's AlexNet" in found["lpips"]
    assert not (tmp_path / "executed").exists()
