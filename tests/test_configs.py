import pytest

from impasto.commands.configuration import plain
from impasto.commands.training_words import composed
from impasto.data.photos import source_size
from impasto.errors import UserError
from impasto.losses.perceptual import LossWeights
from impasto.models.transformer_net import TransformerNet
from impasto.models.vgg import LAYERS, VGG19Features
from impasto.schedule import Schedule

from .conftest import ROOT

CONFIGS = ROOT / "configs"
GROUPS = [f"{path.parent.name}={path.stem}" for path in sorted(CONFIGS.glob("*/*.yaml"))]
GIVEN = {"style=custom": ["style.image=a.jpg"], "data=folder": ["data.root=photos"], "vgg=file": ["vgg.path=vgg.pth"]}


@pytest.mark.parametrize("choice", GROUPS)
def test_every_choice_resolves_into_objects(choice):
    words = [choice, *GIVEN.get(choice, [])]
    if not choice.startswith("style="):
        words.append("style=starry_night")
    config = plain(composed(CONFIGS, words))
    settings = {"seed", "init", "resume", "checkpoint", "validation", "strength", "stroke", "preview", "guards"}
    groups = {"style", "data", "model", "vgg", "loss", "schedule", "trainer"}
    assert set(config) == {*groups, *settings}
    TransformerNet(**config["model"])
    LossWeights(**config["loss"]["weights"])
    Schedule(**{key: value for key, value in config["schedule"].items() if key != "name"})
    assert {*config["loss"]["style_layers"], *config["loss"]["content_layers"]} <= set(LAYERS)
    if config["vgg"]["source"] == "oxford":
        VGG19Features(["relu1_1"], **config["vgg"])


OWN = {
    "schedule/bare": "{name: bare, images: 100, learning_rate: 1e-3, warmup: 5, final: 0.1}",
    "schedule/words": "# @package _global_\nschedule: {name: a, images: many, learning_rate: 1, warmup: 5, final: 1}",
    "model/misspelt": "{width: 8, depht: 4, margin: 8}",
    "style/nameless": "image: a.jpg",
    "style/broken": "name: [1,",
    "vgg/average": "{source: oxford, path: null, preprocessing: null, pooling: average}",
    "style/number": "name: [1]\nimage: a.jpg",
    "data/several": "{defaults: [folder, _self_], root: [photos, more]}",
    "data/kinds": "{defaults: [folder, _self_], root: photos, keep: [tiny, grey]}",
    "data/empty": "{defaults: [folder, _self_], root: photos, packs: }",
    "data/year": "{defaults: [folder, _self_], root: photos, validation_root: 2017}",
    "model/tiny": "{defaults: [johnson, _self_], width: 8}",
}


@pytest.mark.parametrize(
    ("choice", "problem"),
    [
        ("schedule=bare", "schedule/bare.yaml: 'data.image_size' is missing; configs/schedule/quick.yaml is one that"),
        ("schedule=words", "schedule/words.yaml: schedule.images='many' should be a whole number; configs/schedule/"),
        ("model=misspelt", "model/misspelt.yaml: 'model.depht' is unknown; did you mean 'depth'"),
        ("style=nameless", "style/nameless.yaml: 'style.name' is missing; configs/style/"),
        ("style=number", r"style.name=\[1\] should be text"),
        ("data=several", r"data.root=\['photos', 'more'\] should be text"),
        ("data=kinds", r"data.keep=\['tiny', 'grey'\] should be text"),
        ("data=empty", "data.packs=None should be text"),
        ("data=year", "data.validation_root=2017 should be text"),
        ("style=broken", "a configuration file is no YAML: .*broken.yaml"),
    ],
)
def test_files_of_ones_own_are_compared_with_those_that_ship(tmp_path, choice, problem):
    for name, text in OWN.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text(text)
    words = [f"--config-dir={tmp_path}", *(["style=poppies"] if not choice.startswith("style=") else [])]
    with pytest.raises(UserError, match=problem):
        composed(CONFIGS, [*words, choice])
    if choice.startswith("model"):
        config = plain(composed(CONFIGS, [*words, "model=tiny", "vgg=average"]))
        assert (config["model"]["width"], config["vgg"]["pooling"]) == (8, "average")


@pytest.mark.parametrize("choice", GROUPS)
def test_files_are_short_and_say_what_they_are(choice):
    lines = (CONFIGS / f"{choice.replace('=', '/')}.yaml").read_text().splitlines()
    assert len(lines) <= 16
    assert any(line.startswith("# ") and not line.startswith("# @") for line in lines[:2])


def test_a_schedules_sizes_give_way_to_the_users():
    config = plain(composed(CONFIGS, ["style=starry_night", "schedule=full", "data.image_size=128"]))
    assert (config["data"]["image_size"], config["data"]["batch_size"]) == (128, 4)


@pytest.mark.parametrize(
    ("word", "changes"),
    [
        ("loss.style_layers.relu1_2=0.5", {"relu1_2": 0.5}),
        ("loss.style_layers={relu1_1: 2, relu3_3: 1}", {"relu1_1": 2, "relu3_3": 1}),
        ("+loss.style_layers.relu1_2=3", {"relu1_2": 3}),
    ],
)
def test_any_layer_of_vgg_can_have_a_weight(word, changes):
    before, after = (plain(composed(CONFIGS, ["style=poppies", *more]))["loss"] for more in ([], [word]))
    assert after == {**before, "style_layers": {**before["style_layers"], **changes}}


@pytest.mark.parametrize("schedule", ["quick", "full"])
@pytest.mark.parametrize("data", ["coco", "coco2014"])
def test_a_pack_of_320_px_does_for_coco_by_any_schedule(data, schedule):
    photos = plain(composed(CONFIGS, ["style=starry_night", f"data={data}", f"schedule={schedule}"]))["data"]
    assert source_size(photos["image_size"], photos["min_scale"]) == 320


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("my.jpg", "my"),
        ("a b/My painting (1), ü=x.png", "My_painting_1_ü_x"),
        ("'.png", "style"),
        (f"{'夜' * 82}.png", "夜" * 81),
    ],
)
def test_a_painting_names_its_style(path, name):
    config = composed(CONFIGS, [f"style.image={path}"])
    assert config.style.image == path
    assert config.style.name == name
    assert config.hydra.run.dir.startswith(f"runs/{name}/")
