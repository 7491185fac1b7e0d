import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from impasto.checkpoint import build_network, load_network, save_network
from impasto.engines import load_engine
from impasto.errors import UserError
from impasto.export import export_onnx, load_any
from impasto.image import read_image, to_array
from impasto.peers import load_peer_network
from impasto.stylizer import Stylizer

from .conftest import noise_image

METADATA = {"style": {"name": "candy"}, "origin": "pytorch/examples fast_neural_style"}


class Padded(nn.Module):
    """A convolution under their name, `conv2d`."""

    def __init__(self, there: int, here: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.conv2d = nn.Conv2d(there, here, kernel_size, stride)

    def forward(self, features):
        border = self.conv2d.kernel_size[0] // 2
        return self.conv2d(F.pad(features, (border,) * 4, mode="reflect"))


def norm(channels: int) -> nn.Module:
    """Affine, with weights that a mistake in their order would show."""
    module = nn.InstanceNorm2d(channels, affine=True)
    nn.init.uniform_(module.weight, 0.5, 1.5)
    nn.init.normal_(module.bias, std=0.3)
    return module


class Peer(nn.Module):
    """Their network: RGB of 0 to 255 in, about that out, to be clamped."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.depth = depth
        for index, (there, here) in enumerate([(3, width), (width, 2 * width), (2 * width, 4 * width)], 1):
            self.add_module(f"conv{index}", Padded(there, here, *((9, 1) if index == 1 else (3, 2))))
            self.add_module(f"in{index}", norm(here))
        for index in range(1, depth + 1):
            block = nn.Module()
            for half in (1, 2):
                block.add_module(f"conv{half}", Padded(4 * width, 4 * width, 3))
                block.add_module(f"in{half}", norm(4 * width))
            self.add_module(f"res{index}", block)
        self.deconv1, self.in4 = Padded(4 * width, 2 * width, 3), norm(2 * width)
        self.deconv2, self.in5 = Padded(2 * width, width, 3), norm(width)
        self.deconv3 = Padded(width, 3, 9)
        with torch.no_grad():  # so that the outputs cover the range and a little more
            self.deconv3.conv2d.weight *= 150
            self.deconv3.conv2d.bias.fill_(128)

    def forward(self, content):
        features = content
        for index in (1, 2, 3):
            features = getattr(self, f"in{index}")(getattr(self, f"conv{index}")(features)).relu()
        for index in range(1, self.depth + 1):
            block = getattr(self, f"res{index}")
            features = features + block.in2(block.conv2(block.in1(block.conv1(features)).relu()))
        features = self.in4(self.deconv1(F.interpolate(features, scale_factor=2.0))).relu()
        features = self.in5(self.deconv2(F.interpolate(features, scale_factor=2.0))).relu()
        return self.deconv3(features)

    def stylized(self, image) -> np.ndarray:
        """The picture in levels, not yet rounded, (height, width, 3)."""
        with torch.no_grad():
            levels = self(torch.from_numpy(to_array(image)) * 255).clamp(0, 255)
        return levels[0].permute(1, 2, 0).numpy()


def saved(path, net, *, running=False, half=False, prefix="", wrapped=False, **how):
    """Save as someone might have done."""
    state = OrderedDict((prefix + name, value.half() if half else value) for name, value in net.state_dict().items())
    if running:
        for name in [name for name in state if ".in" in f".{name}" and name.endswith(".weight")]:
            stem = name.removesuffix("weight")
            state |= {f"{stem}running_mean": torch.zeros(1), f"{stem}num_batches_tracked": torch.tensor(7)}
            state[f"{stem}running_var"] = torch.full((1,), torch.nan)  # not even looked at
    torch.save({"state_dict": state, "epoch": 2} if wrapped else state, path, **how)
    return path


VARIANTS = {
    "candy.pth": (32, 5, {}),
    "candy.model": (16, 5, {"running": True, "_use_new_zipfile_serialization": False}),
    "candy.pt": (8, 3, {"running": True, "prefix": "module.", "wrapped": True}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_picture_is_theirs(tmp_path, name):
    width, depth, how = VARIANTS[name]
    peer = Peer(width, depth).eval()
    stylizer = Stylizer.load(str(saved(tmp_path / name, peer, **how)), "cpu", "float32")
    assert stylizer.name == "candy"
    assert stylizer.engine.net.arguments == {"width": width, "depth": depth, "output": "clamp"}
    for size in ((64, 48), (16, 20), (132, 84)):
        image = noise_image(*size)
        expected = peer.stylized(image)
        assert (expected.min(), expected.max()) == (0, 255)
        assert np.mean((expected > 0) & (expected < 255)) > 0.5
        assert np.abs(stylizer.engine(to_array(image))[0].transpose(1, 2, 0) * 255 - expected).max() < 0.1
        assert np.abs(np.asarray(stylizer(image)) - expected).max() < 0.6  # rounded


def test_half_precision_weights_are_read_as_they_are(tmp_path):
    peer = Peer(8, 1).eval()
    path = saved(tmp_path / "candy.pth", peer, half=True)
    image = noise_image(48, 40)
    expected = peer.half().float().stylized(image)
    stylized = Stylizer.load(str(path), "cpu", "float32")(image)
    assert np.abs(np.asarray(stylized) - expected).max() < 0.6


@pytest.fixture
def candy(tmp_path):
    """A small network of theirs and its file."""
    peer = Peer(8, 1).eval()
    return peer, saved(tmp_path / "candy.pth", peer)


def test_other_sizes_are_kept(candy):
    stylizer = Stylizer.load(str(candy[1]), "cpu", "float32")
    for size in ((1, 1), (17, 5), (63, 50)):
        assert stylizer(noise_image(*size)).size == size


def test_the_commands_take_it(candy, forked, tmp_path):
    peer, path = candy
    noise_image(36, 28).save(tmp_path / "photo.png")
    result = forked("scripts/export.py", f"ckpt={path}", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for ckpt in (path, tmp_path / "candy.safetensors"):
        result = forked(
            "stylize.py", f"ckpt={ckpt}", f"input={tmp_path}/photo.png", f"output={tmp_path}/painted.png", "device=cpu",
            "precision=float32",
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        assert "Warning" not in result.stderr
        expected = peer.stylized(read_image(tmp_path / "photo.png"))
        assert np.abs(np.asarray(read_image(tmp_path / "painted.png")) - expected).max() < 0.6


def test_exports_agree(candy, tmp_path):
    net, metadata = load_any(candy[1])
    assert metadata == METADATA
    save_network(tmp_path / "candy.safetensors", net, metadata)
    again, record = load_network(tmp_path / "candy.safetensors")
    assert record["architecture"] == {"name": "TransformerNet", "width": 8, "depth": 1, "output": "clamp"}
    assert {key: record[key] for key in METADATA} == METADATA
    for name in (candy[1], tmp_path / "candy.safetensors"):  # as theirs is, whatever this machine multiplies
        assert load_engine(name, "cpu").precision == "float32"
    export_onnx(net, metadata, tmp_path / "candy.onnx")
    graph = load_engine(tmp_path / "candy.onnx", "cpu")
    for size in ((64, 48), (31, 18)):
        content = to_array(noise_image(*size))
        stylized = net(torch.from_numpy(content)).numpy()
        np.testing.assert_allclose(again(torch.from_numpy(content)), stylized, atol=1e-4)  # in another memory format
        np.testing.assert_allclose(graph(content), stylized, atol=1e-3)


def test_records_of_other_outputs_are_refused(candy):
    tensors = load_peer_network(candy[1])[0].state_dict()
    architecture = {"name": "TransformerNet", "width": 8, "depth": 1}
    assert build_network(architecture, tensors, "it").output == "tanh"
    for output in ("os.system", ["clamp"], None, 255):
        with pytest.raises(UserError, match="do not fit its architecture") as error:
            build_network({**architecture, "output": output}, tensors, "it")
        assert "\n" not in str(error.value)


class Malicious:
    def __reduce__(self):
        return (print, ("executed",))


def repacked(source, target, compression, *more):
    """Write the same archive anew, with more entries: constants make it a TorchScript program."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        for name in more:
            new.writestr(f"{source.stem}/{name}", b"")


def wrong_files(folder, state):
    """Files to be refused, and why."""
    conv1, last = "conv1.conv2d.weight", "deconv3.conv2d.bias"
    rest = {name: tensor for name, tensor in state.items() if name != conv1}
    contents = {
        "evil.pth": ({**state, last: Malicious()}, "nothing in it is executed"),
        "whole.pth": (Peer(8, 1), "nothing in it is executed"),
        "list.pth": ([1, 2], "holds a list"),
        "empty.pth": ({}, "lacks 'conv1.conv2d.weight' and 21 more$"),
        "numbers.pth": ({1: 2, "x": 3}, "its '1' is no tensor of weights"),
        "ours.pt": (load_peer_network(folder / "candy.pth")[0].state_dict(), "has 'decoder.0.conv.bias' and"),
        "cut.model": (rest, "it lacks 'conv1.conv2d.weight'$"),
        "gap.pth": ({name.replace("res1", "res2"): tensor for name, tensor in state.items()}, "lacks 'res1.conv1"),
        "whole.pt": ({**state, last: torch.ones(3, dtype=torch.int32)}, "its 'deconv3.conv2d.bias' is no tensor"),
        "sparse.pth": ({**state, last: torch.ones(3).to_sparse()}, "no tensor of weights"),
        "meta.pth": ({**state, last: torch.ones(3, device="meta")}, "no tensor of weights"),
        "grey.pth": ({**state, conv1: torch.ones(8, 1, 9, 9)}, "its conv1.conv2d.weight is 8×1×9×9"),
        "flat.pth": ({**state, conv1: torch.tensor(1.0)}, "its conv1.conv2d.weight is one number"),
        "nothing.pth": ({**state, conv1: torch.ones(10**15, 3, 0, 9)}, "its conv1.conv2d.weight is 10{15}×3×0×9"),
        "none.pth": ({**state, conv1: torch.ones(0, 3, 9, 9)}, "its conv1.conv2d.weight is 0×3×9×9"),
        "wide.pth": ({**state, conv1: torch.ones(1).expand(10**12, 3, 9, 9)}, "claims more weights"),
        "odd.pth": ({**state, "in2.weight": torch.ones(17)}, "its in2.weight is 17, not 16"),
        "wider.pth": ({**state, conv1: torch.ones(9, 3, 9, 9)}, "its conv1.conv2d.bias is 8, not 9"),
        "nan.pth": ({**state, last: torch.full((3,), torch.nan)}, "not finite: deconv3.conv2d.bias"),
        "large.pth": ({**state, conv1: torch.full((8, 3, 9, 9), 1e37)}, "not finite: conv1.conv2d.weight"),
    }
    for name, (content, _) in contents.items():
        torch.save(content, folder / name)
    expected = {name: message for name, (_, message) in contents.items()}
    torch.save({**state, last: Malicious()}, folder / "old evil.pth", _use_new_zipfile_serialization=False)
    whole = (folder / "candy.pth").read_bytes()
    (folder / "half.pth").write_bytes(whole[: len(whole) // 2])
    torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)
    (folder / "old half.pth").write_bytes((folder / "old.pth").read_bytes()[:9000])
    (folder / "text.pth").write_text("hello")
    (folder / "blank.pth").write_bytes(b"")
    repacked(folder / "candy.pth", folder / "packed.pth", zipfile.ZIP_DEFLATED)
    repacked(folder / "candy.pth", folder / "script.pt", zipfile.ZIP_STORED, "constants.pkl")
    (folder / "folder.pth").mkdir()
    return expected | {
        "old evil.pth": "nothing in it is executed",
        "half.pth": "is damaged",
        "old half.pth": "damaged",
        "text.pth": "damaged",
        "blank.pth": "damaged",
        "script.pt": "nothing in it is executed",
        "packed.pth": "more weights than it holds",
        "folder.pth": "there is no checkpoint",
        "missing.pth": "there is no checkpoint",
    }


def test_other_files_are_refused_in_one_line_and_nothing_is_executed(candy, tmp_path, capsys):
    for name, message in wrong_files(tmp_path, candy[0].state_dict()).items():
        with pytest.raises(UserError, match=message) as error:
            load_any(tmp_path / name)
        assert name in str(error.value)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 400
        print(error.value)
    assert "executed\n" not in capsys.readouterr().out.replace("nothing in it is executed\n", "")
