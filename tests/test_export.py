import sys

import pytest

from impasto import export
from impasto.commands.export import export as command
from impasto.engines.eager import EagerEngine
from impasto.errors import UserError


@pytest.mark.parametrize("error", [0.01, float("nan")])
def test_a_difference_beyond_tolerance_fails(small_net, error):
    with pytest.raises(UserError, match="differs from PyTorch"):
        eager = EagerEngine(small_net, device="cpu", precision="float32")
        export.compare(eager, lambda content: eager(content) + error, export.TOLERANCE)


def test_a_graph_that_differs_is_not_kept(tmp_path, monkeypatch, small_net):
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(UserError, match="not written"):
        export.export_onnx(small_net, {}, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_a_network_is_written_over_only_where_that_is_said(network_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command([f"ckpt={network_file}"])
    before = (tmp_path / "test.safetensors").read_bytes()
    with pytest.raises(
        UserError, match="'test.safetensors' is there: output=FILE says where else, or that it is to be"
    ):
        command([f"ckpt={network_file}"])
    assert (tmp_path / "test.safetensors").read_bytes() == before
    with pytest.raises(UserError, match="'test.safetensors' is the checkpoint itself: it would be written over"):
        command(["ckpt=test.safetensors"])
    command(["ckpt=great_wave", "output=test.safetensors"])
    assert (tmp_path / "test.safetensors").read_bytes() != before


@pytest.mark.parametrize("kind", ["onnx", "pt2", "safetensors"])
def test_a_place_that_cannot_be_written_is_told_before_the_work(network_file, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(export, "_any_size", None)
    monkeypatch.setattr(export, "_divisible", None)
    (tmp_path / f"net.{kind}").mkdir()
    with pytest.raises(UserError, match=rf"cannot write '.*net.{kind}': Is a directory"):
        command([f"ckpt={network_file}", f"format={kind}", f"output={tmp_path}/net.{kind}"])


def test_missing_packages_are_named(tmp_path, monkeypatch, small_net):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install 'impasto\[onnx\]'"):
        export.export_onnx(small_net, {}, tmp_path / "net.onnx")
