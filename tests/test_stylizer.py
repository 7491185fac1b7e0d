import importlib.metadata

import pytest
import torch
from torch.testing import assert_close

from impasto.errors import UserError
from impasto.hardware import choose_device
from impasto.image import read_image
from impasto.stylizer import Stylizer, default_output, stylize
from impasto.tensors import to_tensor

from .conftest import noise_image


@pytest.fixture
def stylizer(network_file):
    return Stylizer.load(str(network_file), device="cpu", precision="float32")


SIZES = [(1, 1), (2, 3), (17, 1), (16, 16), (61, 33), (321, 179)]


def test_a_folder_keeps_places_names_and_sizes(stylizer, tmp_path):
    for index, size in enumerate(SIZES):
        folder = tmp_path / "in" / ("deeper" if index % 2 else "")
        folder.mkdir(parents=True, exist_ok=True)
        noise_image(*size).save(folder / f"{index}.png")
    stylize(stylizer, tmp_path / "in", tmp_path / "out")
    written = {
        path.relative_to(tmp_path / "out").as_posix(): read_image(path).size for path in (tmp_path / "out").rglob("*.*")
    }
    assert written == {f"deeper/{i}.png" if i % 2 else f"{i}.png": size for i, size in enumerate(SIZES)}


def test_the_picture_is_the_networks(stylizer, small_net, tmp_path):
    noise_image(31, 22).save(tmp_path / "a.png")
    stylize(stylizer, tmp_path / "a.png", tmp_path / "b.png")
    content = to_tensor(read_image(tmp_path / "a.png"))
    with torch.no_grad():
        assert_close(to_tensor(read_image(tmp_path / "b.png")), small_net(content), rtol=0, atol=0.51 / 255)


def test_size_is_the_long_side(stylizer):
    assert stylizer(noise_image(60, 30), size=100).size == (100, 50)


def test_damaged_files_are_named_and_skipped_all_damaged_is_an_error(stylizer, tmp_path, caplog):
    caplog.set_level("INFO")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad one.jpg").write_text("no image")
    with pytest.raises(UserError, match="none of the 1 images"):
        stylize(stylizer, tmp_path / "in", tmp_path / "out")
    noise_image(20, 20).save(tmp_path / "in" / "good.gif")
    stylize(stylizer, tmp_path / "in", tmp_path / "out")
    assert "bad one.jpg" in caplog.text
    assert "Wrote 1 images" in caplog.text
    assert "skipped 1" in caplog.text
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.gif.png"]


def test_an_output_that_cannot_be_written_ends_a_folder(stylizer, photos, tmp_path, caplog):
    (tmp_path / "out" / "b.PNG").mkdir(parents=True)
    with pytest.raises(UserError, match=r"cannot write .*b.PNG"):
        stylize(stylizer, photos, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.jpg", "b.PNG"]
    assert "skipped" not in caplog.text


def test_default_names_lie_beside_the_input(tmp_path):
    assert default_output(tmp_path / "a b.heic", "night") == tmp_path / "a b_night.png"
    assert default_output(tmp_path / "a.JPG", "night") == tmp_path / "a_night.JPG"
    assert default_output(tmp_path, "night") == tmp_path.parent / f"{tmp_path.name}_night"


def test_a_slash_makes_the_output_a_folder(stylizer, photos, tmp_path):
    stylize(stylizer, photos / "a.jpg", f"{tmp_path}/new/")
    assert read_image(tmp_path / "new" / "a.jpg").size == (80, 72)


def test_the_input_is_never_written_over(stylizer, photos):
    before = (photos / "a.jpg").read_bytes()
    for source, output in ((photos / "a.jpg", photos / "a.jpg"), (photos / "a.jpg", photos), (photos, photos)):
        with pytest.raises(UserError, match="written over"):
            stylize(stylizer, source, output)
    assert (photos / "a.jpg").read_bytes() == before


def test_a_second_run_into_a_subfolder_does_not_stylize_its_own_output(stylizer, photos):
    stylize(stylizer, photos, photos / "painted")
    stylize(stylizer, photos, photos / "painted")
    assert not (photos / "painted" / "painted").exists()


def test_wrong_input_and_output_are_named(stylizer, photos, tmp_path):
    with pytest.raises(UserError, match="no image or folder"):
        stylize(stylizer, tmp_path / "nowhere.jpg", None)
    with pytest.raises(UserError, match="must be a folder"):
        stylize(stylizer, photos, photos / "a.jpg")
    with pytest.raises(UserError, match="cannot write"):
        stylize(stylizer, photos / "a.jpg", tmp_path / "photos" / "f.jpg" / "x.jpg")


def test_out_of_memory_names_a_size(stylizer, monkeypatch):
    def exhausted(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(stylizer.engine, "net", exhausted)
    with pytest.raises(UserError, match="try size=50"):
        stylizer(noise_image(100, 80))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_an_absent_device_is_named():
    assert choose_device("auto").type in ("cpu", "mps")
    with pytest.raises(UserError, match="device=cuda was asked for"):
        choose_device("cuda")
    with pytest.raises(UserError, match="not 'tpu'"):
        choose_device("tpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_gives_the_same_picture(network_file):
    image = noise_image(67, 45)
    cpu, gpu = (to_tensor(Stylizer.load(str(network_file), device, "float32")(image)) for device in ("cpu", "cuda"))
    assert_close(gpu, cpu, rtol=0, atol=2 / 255)


def test_inference_runs_without_training_packages(run, network_file, photos, tmp_path):
    """Not just unused: not even importable."""
    blocked = tmp_path / "blocked"
    for package in ("pytorch_lightning", "hydra", "torchvision", "tensorboard"):
        assert importlib.metadata.version(package.replace("hydra", "hydra-core"))
        (blocked / package).mkdir(parents=True)
        (blocked / package / "__init__.py").write_text(f"raise ImportError('{package} is not for inference')")
    output = tmp_path / "painted.png"
    result = run(
        "stylize.py", f"ckpt={network_file}", f"input={photos / 'a.jpg'}", f"output={output}", PYTHONPATH=str(blocked)
    )
    assert result.returncode == 0, result.stderr
    assert read_image(output).size == (80, 72)
