import json
import struct
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from impasto.checkpoint import load_network, load_training_checkpoint, same_photos, save_network
from impasto.errors import UserError
from impasto.models.transformer_net import TransformerNet

from .conftest import grown


def test_what_is_saved_is_loaded(tmp_path, small_net):
    metadata = {"style": {"name": "café"}, "images_seen": 7}
    save_network(tmp_path / "a.safetensors", small_net, metadata)
    net, loaded = load_network(tmp_path / "a.safetensors")
    assert loaded == {"format": 1, "architecture": {"name": "TransformerNet", "width": 4, "depth": 1}, **metadata}
    content = torch.rand(1, 3, 19, 23)
    assert_close(net(content), small_net(content), rtol=0, atol=0)
    assert not net.training
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_weights_without_a_record_are_taken_with_a_warning(tmp_path, small_net, caplog):
    save_file(small_net.state_dict(), tmp_path / "plain.safetensors")
    net, record = load_network(tmp_path / "plain.safetensors")
    assert caplog.messages == [
        f"{str(tmp_path / 'plain.safetensors')!r} has no record: taken for a network of width 4 and depth 1"
    ]
    assert record["style"] == {"name": "plain"}
    assert net.arguments == {**small_net.arguments, "margin": 8}
    assert_close(dict(net.state_dict()), dict(small_net.state_dict()), rtol=0, atol=0)
    sized = grown(TransformerNet(4, 1, sized=True, waves=True))
    save_file(sized.state_dict(), tmp_path / "sized.safetensors")
    net, _ = load_network(tmp_path / "sized.safetensors")
    assert net.arguments == {**sized.arguments, "margin": 8}
    assert_close(dict(net.state_dict()), dict(sized.state_dict()), rtol=0, atol=0)


def test_the_default_network_takes_seven_megabytes(tmp_path):
    save_network(tmp_path / "a.safetensors", TransformerNet(), {})
    assert (tmp_path / "a.safetensors").stat().st_size < 6.8e6


def header(**impasto) -> dict[str, str]:
    return {"impasto": json.dumps({"format": 1, **impasto})}


WIDTHS = (0, -1, 2.5, "4", None, [4], 2**63, 10**30, float("nan"))


RECORDS = [
    {"style": [1]},
    {"images_seen": "many"},
    {"images_seen": -1},
    {"init": [1]},
    {"init": {"images": "many"}},
    {"init": {"learned": {}}},
    {"init": {"learned": [1]}},
    {"init": {"learned": [{"seed": "1"}]}},
    {"content": 5},
    {"content": {"validation": -1}},
    {"content": {"held_out": 5}},
    {"content": {"held_out": [{"a": 1}]}},
    {"schedule": {"images": []}},
]


def test_other_files_are_refused(tmp_path, small_net):
    tensors = small_net.state_dict()
    architecture = {"name": "TransformerNet", "width": 4, "depth": 1}
    (tmp_path / "text.safetensors").write_text("hello")
    # a header that claims to be larger than memory
    (tmp_path / "hostile.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    torch.save(tensors, tmp_path / "pickle.pth")
    torch.save(tensors, tmp_path / "last.ckpt")
    save_file({"conv1.weight": torch.zeros(4, 3, 9, 9)}, tmp_path / "foreign.safetensors")
    save_file({"encoder.0.conv.weight": torch.zeros(())}, tmp_path / "number.safetensors")
    save_file({**tensors, "more": torch.zeros(1)}, tmp_path / "larger.safetensors")
    save_file(tensors, tmp_path / "future.safetensors", {"impasto": json.dumps({"format": 99})})
    save_file(tensors, tmp_path / "other.safetensors", header(architecture={"name": "UNet"}))
    save_file(tensors, tmp_path / "wider.safetensors", header(architecture={**architecture, "width": 8}))
    save_file(tensors, tmp_path / "huge.safetensors", header(architecture={**architecture, "width": 10**6}))
    save_file(tensors, tmp_path / "odd.safetensors", header(architecture={**architecture, "target": "os.system"}))
    save_file({"x": torch.zeros(1)}, tmp_path / "empty.safetensors", header(architecture=architecture))
    save_file(tensors, tmp_path / "deep.safetensors", header(architecture={**architecture, "depth": 10**9}))
    save_file(tensors, tmp_path / "nested.safetensors", {"impasto": "[" * 10**5})
    save_file(tensors, tmp_path / "long.safetensors", header(architecture={**architecture, "x" * 10**6: 1}))
    for name, bias in {
        "whole": torch.ones(3, dtype=torch.int32),
        "complex": torch.ones(3, dtype=torch.complex64),
        "nan": torch.full((3,), torch.nan),
    }.items():
        changed = {**tensors, "decoder.2.bias": bias}
        save_file(changed, tmp_path / f"{name}.safetensors", header(architecture=architecture))
    for index, width in enumerate(WIDTHS):
        save_file(
            tensors, tmp_path / f"width{index}.safetensors", header(architecture={**architecture, "width": width})
        )
    for index, record in enumerate(RECORDS):
        save_file(tensors, tmp_path / f"record{index}.safetensors", header(architecture=architecture, **record))
    for name, message in {
        "text.safetensors": "no Impasto checkpoint",
        "hostile.safetensors": "no Impasto checkpoint",
        "pickle.pth": "no Impasto checkpoint",
        "last.ckpt": "training checkpoint: python scripts/export.py ckpt=",
        "foreign.safetensors": "not one that Impasto",
        "number.safetensors": "do not fit its architecture",
        "larger.safetensors": "do not fit its architecture.*: see 'more'",
        "future.safetensors": "not one that Impasto",
        "other.safetensors": "another architecture",
        "wider.safetensors": "do not fit its architecture",
        "huge.safetensors": "do not fit its architecture",
        "odd.safetensors": "do not fit its architecture",
        "empty.safetensors": "do not fit its architecture",
        "deep.safetensors": "do not fit its architecture",
        "nested.safetensors": "no Impasto checkpoint",
        "whole.safetensors": "its 'decoder.2.bias' is no tensor of weights",
        "complex.safetensors": "its 'decoder.2.bias' is no tensor of weights",
        "nan.safetensors": "not finite: decoder.2.bias",
        "long.safetensors": "do not fit its architecture",
        **{f"width{index}.safetensors": "do not fit its architecture" for index in range(len(WIDTHS))},
        **{f"record{index}.safetensors": "not one that Impasto" for index in range(len(RECORDS))},
        "missing.safetensors": "there is no checkpoint",
    }.items():
        with pytest.raises(UserError, match=message) as error:
            load_network(tmp_path / name)
        assert name in str(error.value)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 800


class Malicious:
    def __reduce__(self):
        return (print, ("executed",))


def test_training_checkpoints_are_read_without_executing_them(tmp_path, capsys):
    torch.save({"impasto": Malicious(), "state_dict": {}}, tmp_path / "evil.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "foreign.ckpt").read_bytes()[:100])
    state = {"net.a": torch.ones(1).expand(10**12)}  # one number, repeated for ever
    record = {"images_seen": 1, "architecture": {}}
    torch.save({"impasto": record, "state_dict": state, "global_step": 1}, tmp_path / "large.ckpt")
    torch.save({"impasto": record, "state_dict": {3: 4}, "global_step": 1}, tmp_path / "odd.ckpt")
    torch.save({"impasto": record, "global_step": 1}, tmp_path / "less.ckpt")
    torch.save({"impasto": record, "state_dict": {}, "global_step": {}}, tmp_path / "step.ckpt")
    with (
        zipfile.ZipFile(tmp_path / "foreign.ckpt") as sound,
        zipfile.ZipFile(tmp_path / "bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in sound.namelist():
            bomb.writestr(name, sound.read(name))
        bomb.writestr("foreign/data/0", bytes(10**8))
    names = ("evil", "foreign", "cut", "missing", "large", "odd", "less", "step", "bomb")
    for name in (f"{name}.ckpt" for name in names):
        with pytest.raises(UserError, match=name):
            load_training_checkpoint(tmp_path / name)
    assert "executed" not in capsys.readouterr().out


def test_photos_are_the_same_as_far_as_both_records_say():
    before = {"content": {"sha256": "1", "photos": 9}, "seed": 3}
    now = {"content": {"sha256": "1", "photos": 9, "folder": "2", "held_out": []}, "seed": 3}
    assert same_photos(before, now)
    assert same_photos({}, now)
    assert not same_photos(before, {**now, "seed": 4})
    assert not same_photos(before, {**now, "content": {**now["content"], "sha256": "0"}})
