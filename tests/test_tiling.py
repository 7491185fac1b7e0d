import errno
import resource
import subprocess
import sys
import threading
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from impasto import tiling
from impasto.assets import PHOTOS, STYLES
from impasto.engines.eager import EagerEngine
from impasto.errors import UserError
from impasto.image import read_image
from impasto.models.transformer_net import TransformerNet
from impasto.tiling import room, spool, stylize_tiled
from impasto.tiling.canvas import Canvas
from impasto.tiling.norm import PictureNorm, with_picture_norms

from .conftest import grown

CPU = torch.device("cpu")


def noise(height, width, dtype=np.uint16):
    """Noise in large and small: each part of it has statistics of its own."""
    large = F.interpolate(torch.rand(1, 3, 5, 5), (height, width), mode="bicubic").clamp(0, 1)
    mixed = (0.7 * large + 0.3 * torch.rand(1, 3, height, width))[0].permute(1, 2, 0)
    return (mixed.numpy() * np.iinfo(dtype).max).round().astype(dtype)


def to_content(pixels):
    return (pixels.astype(np.float32) / np.iinfo(pixels.dtype).max).transpose(2, 0, 1)[None]


def difference(stylized, expected):
    """The largest, in 1/255, between pixels and an engine's array."""
    return 255 * np.abs(to_content(stylized) - expected).max()


@pytest.mark.parametrize(
    ("width", "depth", "margin", "size", "tile"),
    [
        (32, 1, 0, (150, 260), 128),
        (16, 5, 8, (261, 270), 128),
        (8, 0, 0, (300, 301), 128),  # no residual block
        (8, 2, 13, (402, 290), 132),  # tiles of many sizes
        (4, 3, 8, (141, 129), 128),
        (4, 5, 0, (700, 9), 128),  # strips narrower than the network's reach
        (4, 5, 64, (700, 9), 128),  # and than the margin
        (4, 4, 64, (1, 515), 256),  # a margin of tiles of its own
        (4, 2, 0, (100, 90), 128),  # one tile
        (4, 1, 8, (1, 1), 128),
    ],
)
def test_tiles_are_the_network_on_the_whole(width, depth, margin, size, tile):
    engine = EagerEngine(TransformerNet(width, depth, margin=margin), None, "cpu", "float32")
    pixels = noise(*size)
    stylized = engine.stylize_tiled(pixels, tile)
    assert stylized.dtype == pixels.dtype
    assert stylized.shape == pixels.shape
    assert difference(stylized, engine(to_content(pixels))) < 0.1


@pytest.mark.parametrize("size", [(150, 260), (600, 700)])
def test_tiles_of_sized_networks_with_waves_know_the_whole_size_and_their_place(size):
    engine = EagerEngine(grown(TransformerNet(8, 1, margin=8, sized=True, waves=True)), None, "cpu", "float32")
    pixels = noise(*size)
    whole = engine(to_content(pixels))
    assert difference(engine.stylize_tiled(pixels, 128), whole) < 0.1


@pytest.mark.parametrize("style", sorted(path.stem for path in STYLES.glob("*.safetensors")))
def test_shipped_styles_have_no_seams(style):
    engine = EagerEngine.load(STYLES / f"{style}.safetensors", "cpu", "float32")
    photo = read_image(PHOTOS / "mountain_sunset.jpg", 300)
    pixels = np.asarray(photo.crop((0, 0, 420, 300)))
    stylized, whole = engine.stylize_tiled(pixels, 128), engine(to_content(pixels))
    assert stylized.dtype == np.uint8
    assert difference(stylized, whole) < 0.55  # half of it by rounding to 8 bits
    assert (stylized == (whole[0].transpose(1, 2, 0) * 255).round()).mean() > 0.99


def test_statistics_of_each_tile_would_show_seams():
    engine = EagerEngine.load(STYLES / "starry_night.safetensors", "cpu", "float32")
    pixels = np.asarray(read_image(PHOTOS / "mountain_sunset.jpg", 256))[:256, :256]
    naive = np.concatenate([engine(to_content(pixels[:, :128])), engine(to_content(pixels[:, 128:]))], axis=3)
    assert 255 * np.abs(naive - engine(to_content(pixels))).max() > 50


@pytest.mark.parametrize("missing", [1, 4])
def test_the_halo_is_as_narrow_as_can_be(missing, monkeypatch):
    engine, pixels = EagerEngine(TransformerNet(8, 1), None, "cpu", "float32"), noise(256, 256)
    reach = tiling._reach
    monkeypatch.setattr(tiling, "_reach", lambda layers: max(reach(layers) - missing, 0))
    assert difference(engine.stylize_tiled(pixels, 128), engine(to_content(pixels))) > 0.5


@pytest.mark.parametrize(("depth", "reach"), [(0, 16), (5, 56)])
def test_reach_is_half_of_the_receptive_field(depth, reach):
    net = TransformerNet(2, depth)
    assert reach - 4 < tiling._reach(net) <= reach
    with_norms = with_picture_norms(net)
    with torch.no_grad():
        with_norms(torch.rand(1, 3, 160, 160))  # sets the statistics: gradients pass by them
    content = torch.rand(1, 3, 160, 160, requires_grad=True)
    (gradient,) = torch.autograd.grad(with_norms(content)[..., 80:84, 80:84].sum(), content)
    rows = gradient.abs().sum((0, 1, 3)).nonzero()
    assert 80 - reach <= rows.min() < rows.max() < 84 + reach


def test_bfloat16_is_as_close_to_the_whole_as_rounding_lets_it():
    engine = EagerEngine.load(STYLES / "starry_night.safetensors", "cpu", "bfloat16")
    pixels = np.asarray(read_image(PHOTOS / "mountain_sunset.jpg", 200))
    float32 = EagerEngine(engine.net, None, "cpu", "float32")(to_content(pixels))
    whole = engine(to_content(pixels))
    tiled = to_content(engine.stylize_tiled(pixels, 128))
    assert np.abs(tiled - whole).mean() < np.abs(whole - float32).mean()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_fast_is_exact_where_the_thumbnail_is_the_picture(precision):
    net, pixels = grown(TransformerNet(8, 2, margin=8, waves=True)), noise(300, 333)
    engine = EagerEngine(net, None, "cpu", precision)
    exact, fast = (engine.stylize_tiled(pixels, 128, exact) for exact in (True, False))
    assert difference(fast, to_content(exact)) < (0.05 if precision == "float32" else 4)


def test_fast_is_seamless_with_a_thumbnails_statistics(monkeypatch):
    monkeypatch.setattr(tiling, "THUMBNAIL", 100)
    net, pixels = grown(TransformerNet(8, 2, margin=8, waves=True)), noise(300, 333)
    engine = EagerEngine(net, None, "cpu", "float32")
    in_tiles, at_once = (engine.stylize_tiled(pixels, tile, exact=False) for tile in (128, 512))
    assert difference(in_tiles, to_content(at_once)) < 0.05
    assert difference(in_tiles, engine(to_content(pixels))) > 1


def test_fast_knows_the_whole_size(monkeypatch):
    monkeypatch.setattr(tiling, "THUMBNAIL", 128)
    seen = []
    affine = PictureNorm.affine
    monkeypatch.setattr(PictureNorm, "affine", lambda norm, pixels: (seen.append(pixels * 4), affine(norm, pixels))[1])
    engine = EagerEngine(TransformerNet(2, 0, sized=True), None, "cpu", "float32")
    engine.stylize_tiled(noise(512, 256), 512, exact=False)
    # five norms: of the thumbnail, then of the picture, two of them at half and one at quarter resolution
    shares = 1, 4, 16, 4, 1
    assert seen == [4 * area // share for area in (128 * 64, 512 * 256) for share in shares]


def test_a_thumbnail_is_the_means_of_blocks():
    pixels = noise(24, 37, np.uint8)
    canvas = Canvas(TransformerNet(2, 0), pixels, 128, print)
    small = canvas.thumbnail(13)
    assert small.shape == (1, 3, 8, 13)
    assert_close(small[0, :, 2, 1], torch.tensor(pixels[6:9, 3:6].mean((0, 1)) / 255).float())
    assert_close(small[0, :, 7, 12], torch.tensor(pixels[21:, 36:].mean((0, 1)) / 255).float())  # a cut block
    assert_close(canvas.thumbnail(37).numpy(), to_content(pixels))


def test_the_size_of_tiles_bounds_what_layers_see():
    engine, pixels = EagerEngine(TransformerNet(4, 1), None, "cpu", "float32"), noise(300, 900, np.uint8)
    largest = []
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: largest.append(output.numel()) if isinstance(module, PictureNorm) else None
    )
    try:
        for exact in (True, False):
            largest.clear()
            engine.stylize_tiled(pixels, 128, exact)
            tiles = largest if exact else largest[len([*engine.net.modules()]) :]  # fast: after the thumbnail
            assert 0 < max(tiles) <= 4 * (128 + 2 * 40) ** 2
    finally:
        handle.remove()


def test_the_network_is_left_alone(small_net):
    before = {name: tensor.clone() for name, tensor in small_net.state_dict().items()}
    pixels, results = noise(200, 140), []
    threads = [threading.Thread(target=lambda: results.append(stylize_tiled(small_net, pixels, 128))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(*results)
    assert_close(small_net.state_dict(), before)
    assert not any(isinstance(layer, PictureNorm) for layer in small_net.modules())


@pytest.mark.parametrize("exact", [True, False])
def test_progress_ends_at_one(small_net, exact):
    fractions = []
    stylize_tiled(small_net, noise(200, 140), 128, exact, progress=fractions.append)
    assert fractions == sorted(set(fractions))
    assert fractions[-1] == 1


def test_weights_that_give_no_picture_are_told_of(small_net):
    with torch.no_grad():
        small_net.decoder[2].bias.fill_(torch.nan)
    with pytest.raises(UserError, match="gives no picture"):
        stylize_tiled(small_net, noise(140, 150), 128)


@pytest.mark.parametrize("tile", [0, 64, 130])
def test_tiles_that_do_not_fit_are_refused(small_net, tile):
    with pytest.raises(UserError, match=f"tile={tile} should be a multiple of 4 px, from 128 on"):
        stylize_tiled(small_net, noise(9, 9), tile)


def test_a_small_disk_is_named_before_any_work(small_net, monkeypatch, tmp_path):
    monkeypatch.setattr(spool.tempfile, "tempdir", str(tmp_path))
    free = namedtuple("free", "free")
    monkeypatch.setattr(spool.shutil, "disk_usage", lambda folder: free(10_000 if folder == str(tmp_path) else 1 << 40))
    monkeypatch.setattr(Canvas, "read", pytest.fail)
    with pytest.raises(UserError, match=f"GB of temporary files.* room for 0.0 GB .*{tmp_path}.*; set TMPDIR to"):
        stylize_tiled(small_net, noise(200, 140), 128)


@pytest.mark.parametrize(
    ("usual", "large", "chosen", "taken"),
    [
        ("ext4", "ext4", "", "/tmp"),
        ("tmpfs", "ext4", "", "/var/tmp"),
        ("tmpfs", "ext4", "/tmp", "/tmp"),
        ("tmpfs", "tmpfs", "", "/tmp"),
    ],
)
def test_spools_are_not_in_memory_where_a_disk_is_known(monkeypatch, usual, large, chosen, taken):
    """As they were on Fedora, which has /tmp in memory; the room there is no more than what is free."""
    place = namedtuple("place", "mountpoint fstype")
    places = [place("/", "ext4"), place("/tmp", usual), place("/var/tmp", large)]
    monkeypatch.setattr(spool.psutil, "disk_partitions", lambda all: places)
    monkeypatch.setattr(spool.tempfile, "tempdir", "/tmp")
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.setenv(name, chosen)
    assert spool._folder() == taken
    monkeypatch.setattr(spool, "free_memory", lambda device: 1000)
    if taken == "/tmp" and usual == "tmpfs":
        with pytest.raises(UserError, match="room for 0.0 GB"), spool.open_spools(1, 8, 9, 16, torch.float32, CPU):
            pass


def test_a_disk_that_fills_up_is_one_line_and_leaves_no_file(small_net, monkeypatch, tmp_path):
    monkeypatch.setattr(spool.tempfile, "tempdir", str(tmp_path))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(UserError, match="cannot write temporary files: .*set TMPDIR to a folder with more room"):
            stylize_tiled(small_net, noise(200, 140), 128)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_other_errors_of_the_disk_are_named(small_net, monkeypatch):
    class Broken:
        def seek(self, position):
            raise OSError(errno.EIO, "Input/output error")

        def close(self):
            pass

    monkeypatch.setattr(spool.tempfile, "TemporaryFile", lambda **_: Broken())
    with pytest.raises(UserError, match="cannot write temporary files: Input/output error"):
        stylize_tiled(small_net, noise(20, 14), 128)


@pytest.mark.parametrize(
    ("free", "size", "tile"),
    [
        (64 << 30, (4000, 6000), None),
        (8 << 30, (600, 400), None),
        (16 << 30, (4000, 6000), 1024),
        (8 << 30, (4000, 6000), 1024),
        (2 << 30, (4000, 6000), 512),
        (1 << 20, (4000, 6000), 128),  # there is no smaller
    ],
)
def test_the_largest_tile_that_fits_is_chosen(monkeypatch, free, size, tile):
    monkeypatch.setattr(room, "free_memory", lambda device: free)
    assert room.choose_tile(*size, 32, "float32", CPU) == tile


def test_a_gpu_takes_no_tensor_that_cuda_cannot_address(monkeypatch):
    """32 channels of 100 megapixels: its padding counts in 32 bits, however much memory there is."""
    monkeypatch.setattr(room, "free_memory", lambda device: 1 << 40)
    gpu = torch.device("cuda")
    assert room.choose_tile(8000, 12000, 32, "bfloat16", gpu) == 1024
    assert room.choose_tile(8000, 8000, 32, "bfloat16", gpu) is None
    assert room.choose_tile(8000, 12000, 32, "bfloat16", CPU) is None


def test_a_line_of_pixels_takes_what_the_network_makes_of_it():
    """Measured: 2.2 GB for 1×200,000 px in float32, where 450×450 take 145 MB."""
    assert 2.0e9 < room.memory_of_pass(1, 200_000, 32, "float32") < 3e9
    assert room.memory_of_pass(100, 100, 32, "float32", count=3) < 3 * room.memory_of_pass(100, 100, 32, "float32")


@pytest.mark.parametrize("keeps", [True, False])
def test_a_picture_as_large_as_the_one_before_needs_no_tiles(monkeypatch, keeps):
    """Though the memory that a command keeps for it is no longer free; what others give back is to be had anew."""
    monkeypatch.setattr("impasto.memory._keeps", keeps)
    engine = EagerEngine(TransformerNet(4, 0), device="cpu", precision="float32")
    needed = room.memory_of_pass(300, 400, 4, "float32")
    left = iter([int(2.5 * needed), *3 * [int(1.5 * needed)]])
    monkeypatch.setattr(room, "free_memory", lambda device: next(left))
    again = None if keeps else 128
    for size, tile in (((300, 400), None), ((300, 400), again), ((200, 300), again), ((3000, 4000), 128)):
        assert engine.choose_tile(*size) == tile
        if tile is None:
            engine(np.zeros((1, 3, *size), np.float32))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="tells no peak")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_pass_takes_the_memory_that_is_said(precision):
    script = f"""
import re, numpy as np
from impasto.engines.eager import EagerEngine
from impasto.models.transformer_net import TransformerNet
engine = EagerEngine(TransformerNet(16, 0, waves=True), None, "cpu", "{precision}")
engine(np.zeros((1, 3, 16, 16), np.float32))
def peak(): return int(re.search("VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
before = peak()
engine(np.zeros((1, 3, 1024, 1536), np.float32))
print((peak() - before) * 1024)
"""
    taken = int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
    assert taken < room.memory_of_pass(1024, 1536, 16, precision) < 3.5 * taken
