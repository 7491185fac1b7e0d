"""The whole path, through the real commands."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torchvision.models import vgg as torchvision_vgg

from impasto.assets import PHOTOS
from impasto.checkpoint import load_network, load_training_checkpoint
from impasto.commands.configuration import plain
from impasto.commands.training_words import composed
from impasto.errors import UserError
from impasto.image import read_image
from impasto.resume import begun_with

from .conftest import ROOT, noise_image

# a small network and small crops: seconds, not minutes, through every part of the real thing
SMALL = ["model.width=4", "model.depth=1", "data.image_size=32", "trainer.precision=32-true", "trainer.log_every=1"]
SMALL += ["loss.relative=false"]  # saves a pass over the photos that ship


def events(run_dir: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(run_dir))
    accumulator.Reload()
    return accumulator


def losses(run_dir: Path, tag: str = "train/total") -> dict[int, float]:
    """Images seen → value."""
    return {event.step: event.value for event in events(run_dir).Scalars(tag)}


@pytest.fixture(scope="module")
def great_wave(tmp_path_factory, forked):
    """One run of the real network, at the smallest sensible size, all of whose outputs the tests below look at."""
    run_dir = tmp_path_factory.mktemp("runs") / "great wave (1), a=b"
    words = ["style=great_wave", "init=random", "schedule.images=64", "data.image_size=64", f"hydra.run.dir={run_dir}"]
    words += ["trainer.log_every=2", "validation.every=32", "checkpoint.every=32"]
    result = forked("train.py", *words, cwd=tmp_path_factory.mktemp("elsewhere"))  # where no COCO has been fetched
    assert result.returncode == 0, result.stderr
    return run_dir, result


def test_a_run_writes_what_it_promises(great_wave):
    run_dir, result = great_wave
    assert {path.name for path in (run_dir / "checkpoints").iterdir()} == {"000000032.ckpt", "000000064.ckpt"}
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert config["schedule"]["images"] == 64
    assert load_network(run_dir / "great_wave.safetensors")[1]["gradient_clip"] == 30  # as its terms are relative
    assert "${" not in (run_dir / "config.yaml").read_text()
    assert f"python stylize.py ckpt='{run_dir}/great_wave.safetensors' input=photo.jpg" in result.stdout
    assert "photos that ship" in result.stdout
    assert "Schedule: quick" in result.stdout


def test_the_loss_falls_and_every_term_is_logged(great_wave):
    run_dir, _ = great_wave
    style = [f"style/relu{block}_1" for block in range(1, 6)]
    terms = ["content", "style", "tv", "grid", "total", "content/relu4_2", *style]
    expected = {f"{stage}/{term}" for stage in ("train", "val") for term in terms}
    expected |= {"learning_rate", "train/images_per_second", "train/gradient_norm"}
    expected |= {f"train/output/{name}" for name in ("min", "mean", "max")}
    tags = events(run_dir).Tags()
    assert expected <= set(tags["scalars"])
    assert {"val/pictures", "style"} <= set(tags["images"])
    assert "64 of 64 images, val/total" in great_wave[1].stdout
    total = losses(run_dir)
    assert max(total) == 64
    assert min(total.values()) < 0.7 * total[min(total)]
    assert sorted(losses(run_dir, "val/total")) == [32, 64]
    assert read_image(run_dir / "preview.jpg").size == (2 * 256 + 3 * 4, 3 * 256 + 4 * 4)


def test_the_inference_file_says_where_it_comes_from(great_wave):
    run_dir, _ = great_wave
    net, metadata = load_network(run_dir / "great_wave.safetensors")
    assert sum(parameter.numel() for parameter in net.parameters()) == 1_679_235 + 3200 + 768
    assert net.waves.weight.any()
    assert not any(tensor.any() for name, tensor in net.state_dict().items() if name.endswith("_growth"))
    assert metadata["style"]["title"] == "The Great Wave off Kanagawa"
    assert metadata["images_seen"] == 64
    content = metadata["content"]
    assert (content["name"], content["photos"], content["validation"], content["colour"]) == ("bundled", 12, 3, 0.3)
    assert metadata["init"] == {"weights": "random"}
    assert set(metadata["versions"]) == {"impasto", "torch", "pytorch-lightning"}
    assert metadata["loss"]["weights"].keys() == {"content", "style", "tv", "grid"}


def test_the_checkpoint_loads_safely_and_without_vgg(great_wave):
    path = great_wave[0] / "checkpoints" / "000000064.ckpt"
    raw = torch.load(path, weights_only=True)
    assert all(name.startswith("net.") for name in raw["state_dict"])
    assert path.stat().st_size < 4 * 6.8e6
    assert load_training_checkpoint(path)["images_seen"] == 64


def test_export_from_the_checkpoint_equals_trainings_own(great_wave, forked, tmp_path):
    run_dir, _ = great_wave
    output = tmp_path / "again.safetensors"
    result = forked("scripts/export.py", f"ckpt={run_dir}/checkpoints/000000064.ckpt", f"output={output}")
    assert result.returncode == 0, result.stderr
    ours, theirs = load_network(output), load_network(run_dir / "great_wave.safetensors")
    assert ours[1] == theirs[1]
    for name, weight in ours[0].state_dict().items():
        assert torch.equal(weight, theirs[0].state_dict()[name])


def test_onnx_of_a_network_agrees(network_file, forked, tmp_path):
    words = [f"ckpt={network_file}", "format=onnx", f"output={tmp_path}/w.onnx"]
    result = forked("scripts/export.py", *words)
    assert result.returncode == 0, result.stderr
    assert len(re.findall(r"Largest difference to PyTorch at \d+×\d+ px: \d\.\de-0[4-9]", result.stdout)) == 3


def test_stylize_paints_with_it_whatever_the_names(great_wave, forked, tmp_path):
    folder = tmp_path / "my photos (2024), été = 'fun' \"x\""
    folder.mkdir()
    for size in ((1, 1), (61, 35), (190, 107)):
        noise_image(*size).save(folder / f"{size[0]} × {size[1]}, 'a'=(b).png")
    result = forked("stylize.py", f"ckpt={great_wave[0]}/great_wave.safetensors", f"input={folder}", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    painted = tmp_path / f"{folder.name}_great_wave"
    for path in folder.iterdir():
        assert read_image(painted / path.name).size == read_image(path).size
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([folder.name, painted.name])


def test_a_killed_run_ends_with_the_bits_of_one_that_was_not(run, tmp_path):
    """Two kills of scripts/chaos.py, which compares curves and weights: SIGKILL amid a checkpoint, and SIGTERM."""
    words = ["kills=2", "faults=torn,SIGTERM", "images=96", f"output={tmp_path / 'runs'}"]
    result = run("scripts/chaos.py", *words)
    assert result.returncode == 0, result.stderr
    assert "ended with the same weights and curves, after 2 kills in all" in result.stdout
    assert re.findall(r"^(torn|SIGTERM) +(\d) ", result.stdout, re.M) == [("torn", "1"), ("SIGTERM", "1")]


def test_norms_learn_what_sizes_make_of_them(forked, tmp_path, photos):
    """Where batches have several sizes, and with the same bits for a run in two parts."""
    words = [f"style.image={photos / 'a.jpg'}", "stroke=64", *SMALL, "data=folder", f"data.root={photos}"]
    words += ["data.keep=tiny,duplicate", "data.max_rejects=0.2", "data.batch_size=1", "data.workers=0"]
    words += ["data.image_size=128", "data.smallest_size=64", "checkpoint.every=8", "init=random"]
    for run_dir, parts in ((tmp_path / "whole", [16]), (tmp_path / "parts", [8, 16])):
        for images in parts:
            told = [f"schedule.images={images}", "schedule.final=1", f"hydra.run.dir={run_dir}"]
            result = forked("train.py", *words, *told, *(["resume=true"] if run_dir.exists() else []))
            assert result.returncode == 0, result.stderr
    whole, parts = (load_network(tmp_path / name / "a.safetensors") for name in ("whole", "parts"))
    assert whole[1]["smallest_size"] == 64
    growths = [tensor for name, tensor in whole[0].state_dict().items() if name.endswith("_growth")]
    assert all(growth.any() for growth in growths)
    for name, weight in whole[0].state_dict().items():
        assert torch.equal(weight, parts[0].state_dict()[name])


def test_resuming_a_finished_run_exports_and_a_longer_one_trains_on(forked, tmp_path, photos):
    words = ["style.image=" + str(photos / "a.jpg"), "stroke=64", *SMALL, f"hydra.run.dir={tmp_path / 'run'}"]
    words += ["data=folder", f"data.root={photos}", "data.max_rejects=0.2", "data.keep=tiny,duplicate"]
    noise_image(80, 80).convert("L").save(photos / "grey.png")
    first = forked("train.py", *words, "schedule.images=8", "resume=true")
    assert first.returncode == 0, first.stderr
    assert "skipped 1 of 7 images" in first.stderr
    assert "schedule.warmup=50 is as long as the run" in first.stderr
    assert json.loads((tmp_path / "run" / "rejected.jsonl").read_text())["photo"] == "grey.png"
    for lost in ("a.safetensors", "config.yaml"):
        (tmp_path / "run" / lost).unlink()
    result = forked("train.py", *words, "schedule.images=8", "resume=true")
    assert result.returncode == 0, result.stderr
    assert "8 of 8 images seen" in result.stdout
    assert "going on with changes" not in result.stderr
    assert load_network(tmp_path / "run" / "a.safetensors")[1]["images_seen"] == 8
    assert (tmp_path / "run" / "config.yaml").exists()
    result = forked("train.py", *words, "schedule.images=16", "seed=1", "resume=true")
    assert result.returncode == 0, result.stderr
    assert "going on with changes, so not as an uninterrupted run would: schedule.images 8 → 16, seed 0 → 1" in (
        result.stderr
    )
    assert load_network(tmp_path / "run" / "a.safetensors")[1]["images_seen"] == 16
    (tmp_path / "run" / "a.safetensors").unlink()
    result = forked("train.py", *words, "schedule.images=16", "seed=2", "resume=true")  # too late for a seed
    assert result.returncode == 0, result.stderr
    assert "the run has seen its 16 images, so this has no say: seed 1 → 2; more" in result.stderr
    assert load_network(tmp_path / "run" / "a.safetensors")[1]["seed"] == 1
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["seed"] == 1
    result = forked("train.py", *words, "schedule.images=8", "resume=true")
    assert result.stderr.strip().endswith("error: the run has seen 16 images: schedule.images=8 should be more")
    assert list(losses(tmp_path / "run")) == list(range(1, 17))
    assert list(losses(tmp_path / "run", "val/total")) == [8, 16]


def test_a_vgg_of_ones_own_is_recorded_by_its_content(forked, tmp_path, photos):
    """And a run that goes on with another says so."""
    vgg = tmp_path / "vgg.safetensors"
    features = torchvision_vgg.make_layers(torchvision_vgg.cfgs["E"])
    state = {f"features.{name}": tensor for name, tensor in features.state_dict().items()}
    save_file(state, vgg)
    words = [f"style.image={photos / 'a.jpg'}", "stroke=64", *SMALL, f"hydra.run.dir={tmp_path / 'run'}", "init=random"]
    words += ["data=folder", f"data.root={photos}", "data.keep=tiny,duplicate", "vgg=file", f"vgg.path={vgg}"]
    first = forked("train.py", *words, "schedule.images=2")
    assert first.returncode == 0, first.stderr
    before = hashlib.sha256(vgg.read_bytes()).hexdigest()
    record = {"source": "file", "preprocessing": "torchvision", "pooling": "max", "sha256": before}
    assert load_network(tmp_path / "run" / "a.safetensors")[1]["vgg"] == record
    save_file({name: tensor * 1.01 for name, tensor in state.items()}, vgg)
    result = forked("train.py", *words, "schedule.images=4", "resume=true")
    assert result.returncode == 0, result.stderr
    after = hashlib.sha256(vgg.read_bytes()).hexdigest()
    assert f"vgg.sha256 {before} → {after}" in result.stderr


def test_a_resumed_run_goes_on_with_its_own_words_but_for_those_given_now(forked, tmp_path, photos):
    folder = f"hydra.run.dir={tmp_path / 'run'}"
    words = [f"style.image={photos / 'a.jpg'}", "stroke=64", "strength=2", "data=folder", f"data.root={photos}", *SMALL]
    first = forked("train.py", *words, "data.keep=tiny,duplicate", "schedule.images=4", folder, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    result = forked(
        "train.py", f"style.image={photos / 'a.jpg'}", "schedule.images=8", folder, "resume=true", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert "As the run was begun: stroke=64 strength=2 data=folder" in result.stdout
    assert "schedule.images 4 → 8" in result.stderr
    assert "strength" not in result.stderr
    record = load_network(tmp_path / "run" / "a.safetensors")[1]
    assert (record["strength"], record["style"]["stroke"], record["images_seen"]) == (2, 64, 8)
    assert record["init"] == {"weights": "random"}
    words = [f"resume={tmp_path / 'run'}", "data.batch_size=3", "schedule.images=9", "seed=1", "init=night_cafe"]
    result = forked("train.py", *words, cwd=tmp_path)
    assert "warning: init=night_cafe has no say: the run goes on with its own weights\n" in result.stderr
    assert not [word for word in begun_with(tmp_path / "run") if word.startswith("init=")]
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["init"] == "auto"
    assert "11 of 9 images" in result.stdout, result.stderr  # the last batch is whole
    before = {**record["content"], "seed": 0}  # what another seed holds out has been learned from
    record = load_network(tmp_path / "run" / "a.safetensors")[1]
    assert (record["seed"], record["init"]) == (1, {"weights": "random", "learned": [before]})
    (tmp_path / "run" / "a.safetensors").unlink()
    result = forked("train.py", f"resume={tmp_path / 'run'}", cwd=tmp_path)  # which has its style, and has ended
    assert result.returncode == 0, result.stderr
    assert load_network(tmp_path / "run" / "a.safetensors")[1]["images_seen"] == 11


def test_configuration_files_of_ones_own(forked, tmp_path, photos):
    folder = tmp_path / "my conf's"
    (folder / "style").mkdir(parents=True)
    (folder / "style" / "mine.yaml").write_text(f"name: mine\nimage: {photos / 'a.jpg'}\n")
    words = ["style=mine", "stroke=64", *SMALL, "schedule.images=4", f"hydra.run.dir={tmp_path / 'run'}"]
    result = forked("train.py", "--config-dir", str(folder), *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run" / "mine.safetensors").is_file()
    result = forked("train.py", f"--config-dir={folder}", *words, "seed=abc", cwd=tmp_path)
    assert result.stderr.splitlines() == ["error: seed='abc' should be a whole number"]


BAD = [
    (["style=stary_night"], "style 'stary_night' is unknown; did you mean 'starry_night'?; known: "),
    (["style=my/painting.jpg"], "style 'my/painting.jpg' is unknown; known: "),
    (["style=my/painting.jpg"], "; style.image=my/painting.jpg would be a painting of yours"),
    (["style=poppies,great_wave"], "are several: python train.py -m style=poppies,great_wave"),
    (["schedule=quik"], "schedule 'quik' is unknown; did you mean 'quick'"),
    ([], "style.image=… is missing: say style=starry_night"),
    (["style.image=/nowhere/my, (1).jpg"], "there is no image '/nowhere/my, (1).jpg'"),
    (
        ["style=starry_night", "loss.weights.styel=1"],
        "'loss.weights.styel' is unknown; did you mean 'loss.weights.style'?",
    ),
    (["style=starry_night", "loss.weights.style=-1"], "loss.weights.style is a number from 0 on, not -1"),
    (["style=starry_night", "+loss.style_layers.relu6_1=1"], "VGG19 has no layer 'relu6_1'"),
    (["style=starry_night", "loss.style_layers.relu6_1=1"], "VGG19 has no layer 'relu6_1'"),
    (
        ["style=starry_night", "data.smallest_size=64", "model.margin=25"],
        "data.smallest_size=64 is too small for VGG19: it takes 66 px, of which model.margin=25 twice",
    ),
    (["style=starry_night", "data.image_size=12"], "data.image_size=12 is too small for VGG19: it takes 32 px, of"),
    (["style=starry_night", "data.image_size=big"], "data.image_size='big' should be a whole number"),
    (["style=starry_night", "schedule.learning_rate=fast"], "schedule.learning_rate='fast' should be a number"),
    (["style=starry_night", "data.trusted=3"], "data.trusted=3 should be true or false"),
    (["style=starry_night", "data=folder"], "data.root=… is missing: say data.root=DIR"),
    (["style=starry_night", "data=bundled", "data.root=mine"], "data=bundled takes the photos that ship: data=folder"),
    (["style=starry_night", "hydra.mode=MULTIRUN"], "hydra.mode=MULTIRUN has no say: of Hydra's own words there is"),
    (["style=starry_night", "data=coco"], "python scripts/fetch_coco.py parts=train2017,val2017 fetches it"),
    (["style=starry_night", "data=folder", "data.root=/nowhere"], "there is no folder '/nowhere'"),
    (["style=starry_night", "resume=/nowhere.ckpt"], "resume=/nowhere.ckpt: there is no such checkpoint"),
    (["style=starry_night", "schedule.images=0"], "schedule.images=0 should be at least 1"),
    (["style=starry_night", "style.name=a/b"], "style.name='a/b' should do as a file name"),
    (["style=starry_night", f"style.name={'é' * 122}"], "is too long for a file name: it may have 243 bytes"),
    (["style=starry_night", "style.name=caf\udce9"], "style.name='caf\\udce9' is not UTF-8: torch cannot open files"),
    (["style=starry_night", "trainer.precision=17"], "trainer.precision=17 is none of auto, 32-true"),
    (["style=starry_night", "trainer.compile=often"], "trainer.compile is auto, true or false, not 'often'"),
    (["style=starry_night", "images=3"], "'images' is unknown"),
    (["style=starry_night", "seed=-1"], "seed=-1 should be in 0…4294967295"),
    (["style=starry_night", "model.width=0"], "model.width=0 should be at least 1"),
    (["style=starry_night", "loss.content_layers=null"], "loss.content_layers names nothing"),
    (["style=starry_night", "data.workers=-1"], "data.workers=-1 should be at least 0"),
    (["style=starry_night", "data.colour=7"], "data.colour=7 should be in 0…1"),
    (["style=starry_night", "trainer.log_every=0"], "trainer.log_every=0 should be at least 1"),
    (["style=starry_night", "trainer.gradient_clip=x"], "trainer.gradient_clip='x' should be a number"),
    (["style=starry_night", "trainer.gradient_clip=0"], "trainer.gradient_clip=0 should be above 0; inf for none"),
    (["style=starry_night", "validation.every=0"], "validation.every=0 should be at least 1"),
    (["style=starry_night", "loss.weights=null"], "loss.weights=None should be {name: value, …}, as in {content: 1.0}"),
    (["style=starry_night", "loss.content_layers=relu4_2"], "loss.content_layers='relu4_2' should be {name: value"),
    (["style=starry_night", "+vgg.pool=average"], "'vgg.pool' is unknown; did you mean 'pooling'?"),
    (["style=starry_night", "~strength"], "strength"),
    (["style=starry_night", "schedule=null"], "the configuration does not"),
    (["style=starry_night", "data.workers=auto"], "data.workers='auto' should be a whole number"),
    (["style=starry_night", "data.smallest_size=abc"], "data.smallest_size='abc' should be a whole number"),
    (["style=starry_night", "data.smallest_size=[1,2]"], "data.smallest_size=[1, 2] should be a whole number"),
    (["style=starry_night", "trainer.devices=none"], "trainer.devices=none should be a number from 1 on, a list of"),
    (
        ["style=starry_night", "trainer=cpu", "trainer.precision=bf16-true"],
        "trainer.precision=bf16-true is none of auto",
    ),
    (["style=starry_night", "trainer=cpu", "trainer.precision=64"], "trainer.precision=64 is none of auto, 32-true"),
    (["style=starry_night", "trainer.accelerator=tpu"], "trainer.accelerator=tpu is none of auto, cpu, gpu"),
    (["style=starry_night", "trainer.strategy=ddp_spawn"], "trainer.strategy=ddp_spawn is neither auto nor ddp"),
    (["style=starry_night", "stroke=9"], "stroke=9 should be in 16…4096 px"),
    (["style=starry_night", "strength=0.3,1"], "strength=0.3,1 are several: python train.py -m strength=0.3,1"),
    (["style=starry_night", "hydra.run.dir="], "hydra.run.dir=… is missing"),
    (["resume=true"], "style.image=… is missing: say style=starry_night"),
    (["resume=/nowhere"], "resume=/nowhere: there is no such checkpoint or run folder"),
    (["style=starry_night", "--cfg", "job"], "--cfg is unknown: there are -m, --config-dir=DIR and --help"),
    (["style=starry_night", "--config-dir", "/nowhere"], "--config-dir=/nowhere: there is no such folder"),
    (["style=starry_night", "strength=0"], "strength=0 should be above 0"),
    (["style=starry_night", "strength=-1.5"], "strength=-1.5 should be above 0"),
    (["style=starry_night", "loss.content_reduction=max"], "loss.content_reduction is mean or sum, not 'max'"),
    (["style=starry_night", "what"], "'what' is not understood"),
    (["style=starry_night", "seed=[1"], "is not understood: write key=value"),
    (
        ["style=starry_night", "checkpoint.every=soon"],
        "checkpoint.every=soon should be images, such as 300, or minutes",
    ),
    (["style=starry_night", "hydra.run.dir=/dev/null/run"], "cannot write '/dev/null/run"),
]


def assert_refused(monkeypatch, words, line):
    """What train.py says of these words is one line, with `line` in it."""
    from impasto.commands import train

    monkeypatch.setattr(train.cli, "run", lambda command, usage: command([*words, "loss.relative=false"]))
    with pytest.raises(UserError) as error:
        train.main(ROOT / "configs")
    assert line in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("words", "line"), BAD, ids=[" ".join(words) or "nothing" for words, _ in BAD])
def test_mistakes_are_one_line_and_leave_nothing(words, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_refused(monkeypatch, ["stroke=64", *words], line)  # a painting of 320 px takes a second
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_an_absent_gpu_is_one_line_on_stderr_with_status_1(forked, tmp_path):
    result = forked("train.py", "style=starry_night", "trainer=gpu", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1].startswith("error: trainer.accelerator=gpu was asked for")
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_of_several_runs_one_that_fails_stops_no_other(forked, tmp_path):
    result = forked("train.py", "-m", "style=poppies", "stroke=9,48", *SMALL, "schedule.images=4", cwd=tmp_path)
    assert result.returncode == 1
    (log,) = re.findall(r"^error: failed: (\S*\.log)$", result.stderr, re.MULTILINE)
    assert "stroke=9 should be in 16" in (tmp_path / log).read_text()
    (written,) = tmp_path.rglob("*.safetensors")
    assert f"{written.parent}.log" != str(tmp_path / log)
    assert "now paint" in Path(f"{written.parent}.log").read_text()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_trains_with_the_defaults(tmp_path):
    words = ["style=starry_night", "schedule.images=64", "data.image_size=128", f"hydra.run.dir={tmp_path / 'run'}"]
    result = subprocess.run([sys.executable, "train.py", *words], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    total = losses(tmp_path / "run")
    assert min(total.values()) < total[min(total)]


def test_a_preview_is_a_sheet_and_trains_nothing(tmp_path, monkeypatch, photos):
    from impasto import preview
    from impasto.commands import train

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preview, "ITERATIONS", 1)
    monkeypatch.setattr(preview, "SIZE", 48)
    words = ["style=poppies", "stroke=40", "preview=true", "data=folder", f"data.root={photos}", "hydra.run.dir=run"]
    words += ["loss.relative=false"]  # which is faster
    monkeypatch.setattr(train.cli, "run", lambda command, usage: command(words))
    train.main(ROOT / "configs")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["preview_sheet.jpg"]
    width, height = read_image(tmp_path / "run" / "preview_sheet.jpg").size
    assert width >= 3 * 48
    assert height >= 4 * 40


def test_a_preview_of_no_finite_objective_is_none(tmp_path, monkeypatch, photos):
    from impasto import preview

    monkeypatch.setattr(preview, "optimize", lambda *_, **__: [])
    monkeypatch.setattr(preview, "SIZE", 48)
    words = ["style=poppies", "stroke=40", "data=folder", f"data.root={photos}", "loss.relative=false"]
    with pytest.raises(UserError, match="the objective is not finite: lower strength or loss.weights"):
        preview.preview(plain(composed(ROOT / "configs", words)), tmp_path)
    assert not list(tmp_path.glob("*.jpg"))


def test_a_previews_mistakes_are_told_before_it_is_begun(tmp_path, monkeypatch):
    from impasto import preview

    monkeypatch.setattr(preview, "build_objectives", None)
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / "preview_sheet.jpg").write_text("of another strength")
    for config, place, line in (
        ({"strength": 1.0, "stroke": 40, "precision": "16-true"}, "run", "trainer.precision=16-true is none of auto"),
        ({"strength": 1.0, "stroke": 5}, "run", "stroke=5 should be in 16…4096 px"),
        ({"strength": -2.0, "stroke": 40}, "run", "strength=-2.0 should be above 0"),
        ({"strength": 1.0, "stroke": 40}, "before", "before/preview_sheet.jpg' is there, and would be written over"),
        ({"name": "../../elsewhere"}, "run", "style.name='../../elsewhere' should do as a file name"),
        ({"strength": 1.0, "stroke": 40}, "file", "cannot write '.*file/preview_sheet.jpg': Not a directory"),
    ):
        with pytest.raises(UserError, match=line):
            trainer = {"accelerator": "cpu", "precision": config.pop("precision", "auto")}
            style = {"name": config.pop("name", "mine")}
            preview.preview({"trainer": trainer, "data": {"root": PHOTOS}, "style": style, **config}, tmp_path / place)


def test_a_preview_takes_our_photo_for_a_pack_and_passes_over_damaged_ones(tmp_path, photos, caplog):
    from impasto import preview
    from impasto.data.pack import write_pack

    write_pack({"a.jpg": photos / "a.jpg"}, 72, tmp_path / "pack")
    assert preview._photo(tmp_path / "pack").size[0] == preview.SIZE
    (photos / "0.jpg").write_bytes(b"no image")
    assert preview._photo(photos).size[0] == preview.SIZE
    assert "skipped: '" in caplog.text
    for path in photos.rglob("*.*"):
        path.write_bytes(b"no image")
    with pytest.raises(UserError, match="none of the 7 photos in '.*' will do"):
        preview._photo(photos)


def test_a_preview_shows_a_photo_that_is_large_enough(tmp_path, caplog):
    from impasto import preview

    for name, size in (("a", (3000, 2)), ("b", (12, 8)), ("c", (24, 24))):
        noise_image(*size).save(tmp_path / f"{name}.png")
    assert preview._photo(tmp_path).size == (320, 213)  # the first, enlarged, as there is none
    assert "is too narrow: 3000×2 px" in caplog.text
    noise_image(400, 300).save(tmp_path / "d.png")
    assert preview._photo(tmp_path).size == (320, 240)


def test_a_second_run_does_not_overwrite_the_first(great_wave, monkeypatch):
    run_dir, _ = great_wave
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    words = ["style=great_wave", "schedule.images=64", f"hydra.run.dir={run_dir}"]
    assert_refused(monkeypatch, words, "holds a run: resume=true goes on with it")
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["config.yaml", "preview.jpg"])
def test_a_file_of_no_run_is_not_written_over(monkeypatch, tmp_path, name):
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / name).write_text("mine")
    line = f"{name}' is there, and of no run: name another folder with hydra.run.dir=DIR"
    assert_refused(monkeypatch, ["style=great_wave", "stroke=64", f"hydra.run.dir={tmp_path / 'project'}"], line)
    assert (tmp_path / "project" / name).read_text() == "mine"


@pytest.mark.parametrize("resume", ["false", "true"])
def test_a_network_whose_checkpoints_are_gone_is_not_written_over(monkeypatch, tmp_path, resume):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "great_wave.safetensors").write_bytes(b"of days")
    words = ["style=great_wave", "schedule.images=64", f"hydra.run.dir={tmp_path / 'run'}", f"resume={resume}"]
    assert_refused(
        monkeypatch, words, "great_wave.safetensors' is there, and no checkpoint to go on from: name another"
    )
    assert [path.read_bytes() for path in (tmp_path / "run").iterdir() if path.name != ".lock"] == [b"of days"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["style=great_wave", "model.width=16"], "was trained with model.width=32, not 16"),
        (["style=starry_night", "style.name=great_wave"], "was trained with style artist=Katsushika Hokusai"),
    ],
)
def test_another_network_or_painting_cannot_go_on(great_wave, monkeypatch, tmp_path, words, line):
    monkeypatch.chdir(tmp_path)
    words = [*words, f"resume={great_wave[0]}/checkpoints/000000064.ckpt", "schedule.images=96"]
    assert_refused(monkeypatch, ["stroke=64", *words], line)  # a painting of 320 px takes a second
    assert not list(tmp_path.iterdir())
