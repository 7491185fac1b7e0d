import importlib.metadata
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from impasto import Stylizer
from impasto.controls import Controls
from impasto.engines.eager import EagerEngine
from impasto.errors import UserError
from impasto.hardware import choose_device
from impasto.image import read_image
from impasto.picture import Picture, from_pil
from impasto.tensors import to_tensor
from impasto.tiling import room

from .conftest import noise_image


@pytest.fixture
def stylizer(network_file):
    return Stylizer.load(str(network_file), device="cpu", precision="float32")


def test_the_picture_is_the_networks(stylizer, small_net):
    content = noise_image(31, 22)
    with torch.no_grad():
        assert_close(to_tensor(stylizer(content)), small_net(to_tensor(content)), rtol=0, atol=0.51 / 255)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [3, 4])
def test_arrays_come_back_as_they_are(stylizer, dtype, channels):
    levels = {"uint8": 255, "uint16": 65535, "float32": 1}[dtype]
    image = ((0.1 + 0.9 * np.random.default_rng(0).random((33, 21, channels))) * levels).astype(dtype)
    result = stylizer(image)
    assert (result.dtype, result.shape) == (image.dtype, image.shape)
    expected = stylizer.engine(np.ascontiguousarray((image[..., :3] / np.float32(levels)).transpose(2, 0, 1)[None]))
    np.testing.assert_allclose(result[..., :3] / levels, expected[0].transpose(1, 2, 0), atol=0.51 / min(levels, 1e5))
    if channels == 4:
        np.testing.assert_array_equal(result[..., 3], image[..., 3])


@pytest.mark.parametrize("controls", [{}, {"strength": 0}, {"stroke": 9}, {"upscale": True, "size": 9}])
def test_arrays_come_back_as_the_callers_own(stylizer, controls):
    for channels in (3, 4):
        array = np.full((12, 16, channels), 90, np.uint8)
        stylizer(array, **controls)[:] = 0
        assert (array == 90).all()


def test_tensors_come_back_as_they_are(stylizer, small_net):
    batch = torch.rand(2, 3, 20, 30, dtype=torch.float64)
    with torch.no_grad():
        expected = small_net(batch.float()).double()
    assert_close(stylizer(batch), expected, rtol=0, atol=1e-5)
    assert_close(stylizer(batch[0]), expected[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_arrays_of_the_other_byte_order_are_those_of_ours(stylizer, dtype):
    array = (np.random.default_rng(0).random((16, 20, 3)) * (1 if dtype == "float32" else 65535)).astype(dtype)
    other = array.astype(array.dtype.newbyteorder("S"))
    assert np.array_equal(stylizer(other), stylizer(array))
    if dtype == "float32":
        with pytest.raises(UserError, match="numbers from 200 to 200 should be finite"):
            stylizer(np.full_like(other, 200))


def test_resized_arrays_stay_within_the_range(stylizer):
    edges = np.zeros((40, 60, 3), np.float32)
    edges[:, 30:] = 1
    for controls in ({"strength": 0, "size": 23}, {"size": 90, "upscale": True}):
        result = stylizer(edges, **controls)
        assert 0 <= result.min() <= result.max() <= 1


def test_a_result_too_large_for_the_memory_is_told(stylizer, monkeypatch):
    monkeypatch.setattr("impasto.picture.Picture.resized", lambda *_: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(UserError, match="200000×160000 px takes more memory than there is: try a smaller size="):
        stylizer(noise_image(50, 40), size=200_000)


def test_pictures_of_one_size_are_one_batch(stylizer, monkeypatch):
    """In their order, whatever lies between, and each as it is alone."""
    batches, engine = [], type(stylizer.engine).__call__

    def counted(self, content):
        batches.append(content.shape)
        return engine(self, content)

    sizes = [(30, 20), (30, 20), (21, 33), (30, 20), (30, 20), (30, 20)]
    pictures = [from_pil(noise_image(*size, seed)) for seed, size in enumerate(sizes)]
    alone = [stylizer.paint(picture).pixels for picture in pictures]
    monkeypatch.setattr(type(stylizer.engine), "__call__", counted)
    monkeypatch.setattr(stylizer.engine, "batch_pixels", 1200)
    together = [picture.pixels for picture in stylizer.paint_all(pictures)]
    assert batches == [(2, 3, 20, 30), (1, 3, 33, 21), (2, 3, 20, 30), (1, 3, 20, 30)]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.astype(int), other, atol=1)
    assert stylizer.at_once(pictures[0], Controls()) == 2
    assert stylizer.at_once(pictures[0], Controls(size=300)) == 1


def test_pillow_images_of_any_mode_become_rgb_or_keep_their_transparency(stylizer):
    assert stylizer(Image.new("L", (20, 10), 77)).mode == "RGB"
    image = noise_image(24, 18).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize((24, 18)))
    result = stylizer(image)
    assert result.mode == "RGBA"
    assert result.getchannel("A").tobytes() == image.getchannel("A").tobytes()


def test_strength_zero_is_the_photo(stylizer):
    image = noise_image(40, 30)
    assert stylizer(image, strength=0).tobytes() == image.tobytes()
    assert stylizer(image, strength=0.5).tobytes() not in (image.tobytes(), stylizer(image).tobytes())


def test_sizes_are_those_asked_for(stylizer):
    assert stylizer(noise_image(60, 30), size=100).size == (100, 50)
    assert stylizer(noise_image(60, 30), size=40, upscale=True).size == (60, 30)
    assert stylizer(noise_image(60, 30), stroke=20).size == (60, 30)


def test_strokes_are_as_large_relative_to_the_picture(stylizer):
    """With the same stroke=, a photo at two sizes gives the same picture at two sizes; without, another."""
    photo = noise_image(24, 18).resize((240, 180), Image.Resampling.BICUBIC)
    double = photo.resize((480, 360), Image.Resampling.BICUBIC)

    def difference(**controls):
        small, large = stylizer(photo, **controls), stylizer(double, **controls).resize((240, 180))
        return np.abs(np.asarray(small, dtype=float) - np.asarray(large)).mean()

    assert difference(stroke=120) < 1
    assert difference() > 3 * difference(stroke=120)


def test_a_mask_says_where(stylizer):
    image, mask = noise_image(60, 40), Image.new("L", (30, 20), 0)
    mask.paste(255, (0, 0, 15, 20))
    result, whole = stylizer(image, mask=mask, feather=2), stylizer(image)
    assert result.crop((0, 0, 24, 40)).tobytes() == whole.crop((0, 0, 24, 40)).tobytes()
    assert result.crop((36, 0, 60, 40)).tobytes() == image.crop((36, 0, 60, 40)).tobytes()


def test_a_mask_that_chooses_nothing_is_told(stylizer, caplog):
    """As one of 0 and 1, which programs that find things give."""
    stylizer(noise_image(20, 20), mask=Image.fromarray(np.eye(20, dtype=np.uint8)))
    assert caplog.messages == ["the mask is black or transparent all over"]


def test_tiles_that_there_are_not_have_no_statistics(network_file):
    with pytest.raises(UserError, match="exact=false is of tiles, of which tile=0 makes none"):
        Stylizer.load(str(network_file), "cpu", "float32", tile=0, exact=False)


def test_what_is_transparent_does_not_bleed(stylizer):
    """Whatever hides in transparent pixels, the picture is the same."""
    pixels = np.asarray(noise_image(40, 40))
    alpha = np.zeros((40, 40), np.uint8)
    alpha[8:32, 8:32] = 255
    pictures = []
    for hidden in (0, 255):
        hiding = np.where(alpha[..., None] > 0, pixels, hidden).astype(np.uint8)
        pictures.append(stylizer.paint(Picture(hiding, alpha), Controls()).pixels[alpha > 0])
    np.testing.assert_array_equal(*pictures)


def test_threads_share_one(stylizer):
    images = [noise_image(40 + index, 30, index) for index in range(8)]
    alone = [stylizer(image).tobytes() for image in images]
    with ThreadPoolExecutor(4) as threads:
        assert [result.tobytes() for result in threads.map(stylizer, images)] == alone


@pytest.mark.parametrize(
    ("array", "line"),
    [
        (np.zeros((4, 5), np.uint8), r"shape \(4, 5\) should be \(height, width, 3 or 4\)"),
        (np.zeros((4, 5, 2), np.uint8), "should be"),
        (np.zeros((0, 5, 3), np.uint8), "should be"),
        (np.zeros((4, 5, 3), np.int64), "an array of int64 should be of uint8, uint16, float32"),
        (np.full((4, 5, 3), np.nan, np.float32), "numbers from nan to nan should be finite, in"),
        (
            np.linspace(0, 255, 60, dtype=np.float32).reshape(4, 5, 3),
            r"numbers from 0 to 255 should be finite, in \[0, 1\]",
        ),
        (torch.linspace(-1, 1, 60).view(3, 4, 5), "numbers from -1 to 1 should be finite"),
        ("photo.jpg", "a Pillow image, a NumPy array or a tensor is stylized, not str"),
        ([np.zeros((4, 5, 3), np.uint8)], "not list"),
        (Image.new("RGB", (0, 5)), "an image of 0×5 px has no pixels"),
        (torch.zeros(3, 4, 5, dtype=torch.uint8), r"a tensor of torch.uint8, \(3, 4, 5\) should be float"),
        (torch.zeros(4, 4, 5), r"a tensor of torch.float32, \(4, 4, 5\) should be"),
        (torch.zeros(0, 3, 4, 5), r"a tensor of torch.float32, \(0, 3, 4, 5\) should be"),
        (torch.zeros(4, 5), r"a tensor of torch.float32, \(4, 5\) should be"),
    ],
)
def test_other_arrays_are_named(stylizer, array, line):
    with pytest.raises(UserError, match=line):
        stylizer(array)


def test_masks_are_images(stylizer):
    with pytest.raises(UserError, match="^the mask is empty$"):
        stylizer(noise_image(9, 9), mask=Image.new("L", (0, 0)))
    with pytest.raises(UserError, match="mask= is a Pillow image, not ndarray"):
        stylizer(noise_image(20, 16), mask=np.zeros((16, 20), np.uint8))


def test_what_resampling_overshoots_is_cut_off(stylizer):
    beyond = np.linspace(-0.2, 1.2, 20 * 24 * 3, dtype=np.float32).reshape(20, 24, 3)
    np.testing.assert_array_equal(stylizer(beyond, strength=0.5), stylizer(beyond.clip(0, 1), strength=0.5))


FORKED = """
import multiprocessing, sys
import numpy as np, torch
from impasto import Stylizer
torch.set_num_threads(2)
stylize = Stylizer.load(sys.argv[1], device="cpu", precision="float32")
photo = np.random.default_rng(0).random((200, 240, 3), dtype=np.float32)
def mean(_=None):
    return float(stylize(photo).mean())
if __name__ == "__main__":
    before = mean()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert np.allclose(pool.map_async(mean, range(2)).get(60), before, atol=1e-3)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_forked_processes_paint(network_file):
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORKED, str(network_file)], check=True, timeout=120)


def test_out_of_memory_names_the_mend(stylizer, monkeypatch):
    def exhausted(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(stylizer.engine.net, "forward", exhausted)
    monkeypatch.setattr("impasto.engines.eager.stylize_tiled", exhausted)
    with pytest.raises(UserError, match="100×80 px takes more memory than cpu has: try tile=512, or size=50"):
        stylizer(noise_image(100, 80))
    with pytest.raises(UserError, match="1×1 px takes more memory than cpu has: try tile=512, or size=1 and"):
        stylizer(noise_image(1, 1))
    monkeypatch.setattr(type(stylizer.engine), "choose_tile", lambda *_: 128)
    with pytest.raises(UserError, match="100×80 px takes more memory than cpu has: try size=50 and"):  # tiled already
        stylizer(noise_image(100, 80))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_tiles_make_no_difference(network_file, stylizer, dtype):
    image = np.random.default_rng(0).random((150, 300, 3), dtype=np.float32)
    image = image if dtype == "float32" else (image * np.iinfo(dtype).max).astype(dtype)
    levels = {"uint8": 255, "uint16": 65535, "float32": 1}[dtype]
    tiled = Stylizer.load(str(network_file), "cpu", "float32", tile=128)
    difference = np.abs(tiled(image).astype(float) - stylizer(image)).max() / levels
    assert difference <= 1.01 / 255
    rough = Stylizer.load(str(network_file), "cpu", "float32", tile=128, exact=False)
    assert rough(image).shape == image.shape


def test_what_is_no_larger_than_a_tile_is_painted_whole(network_file, stylizer, caplog):
    caplog.set_level("INFO")
    tiled = Stylizer.load(str(network_file), "cpu", "float32", tile=128, exact=False)
    assert np.array_equal(tiled(noise_image(128, 90)), stylizer(noise_image(128, 90)))
    assert "in tiles" not in caplog.text
    tiled(noise_image(129, 90))
    assert "129×90 px: in tiles of 128 px" in caplog.text


def test_a_tile_out_of_range_is_told_at_once(network_file):
    for tile in (-4, 64, 130):
        with pytest.raises(UserError, match=f"tile={tile} should be a multiple of 4 px, from 128 on"):
            Stylizer.load(str(network_file), tile=tile)


def test_tiles_are_chosen_where_memory_does_not_suffice(stylizer, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(room, "free_memory", lambda device: 900 << 20)
    small, large = noise_image(200, 200), noise_image(2400, 2400)
    stylizer(small)
    assert "in tiles" not in caplog.text
    assert stylizer(large).size == (2400, 2400)
    assert "2400×2400 px: in tiles of" in caplog.text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_an_absent_device_is_named():
    assert choose_device("auto").type in ("cpu", "mps")
    with pytest.raises(UserError, match="device=cuda was asked for"):
        choose_device("cuda")
    with pytest.raises(UserError, match="not 'tpu'"):
        choose_device("tpu")
    with pytest.raises(UserError, match="device=cpu:x is none that torch knows"):
        choose_device("cpu:x")


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


def test_weights_that_give_no_picture_are_told_of(small_net):
    with torch.no_grad():
        small_net.decoder[2].bias.fill_(torch.nan)
    with pytest.raises(UserError, match="gives no picture"):
        Stylizer(EagerEngine(small_net, device="cpu", precision="float32"))(noise_image(20, 16))
