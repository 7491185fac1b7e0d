import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from impasto import export
from impasto.engines.eager import EagerEngine
from impasto.errors import UserError
from impasto.models.transformer_net import TransformerNet


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    net = TransformerNet(width=4, depth=1).eval()
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    export.export_onnx(net, {"style": {"name": "café"}}, path)
    return net, path


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (7, 3), (16, 16), (61, 70), (133, 250), (400, 301)])
def test_onnx_agrees_at_any_size(exported, size):
    net, path = exported
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    content = torch.rand(1, 3, *size)
    (stylized,) = session.run(None, {"content": content.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(stylized, net(content), atol=1e-4)


def test_onnx_carries_the_metadata(exported):
    model = onnx.load(exported[1])
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(properties["impasto"]) == {"style": {"name": "café"}}


@pytest.mark.parametrize("error", [0.01, float("nan")])
def test_a_difference_beyond_tolerance_fails(exported, error):
    net, _ = exported
    with pytest.raises(UserError, match="differs from PyTorch"):
        eager = EagerEngine(net, device="cpu", precision="float32")
        export.compare(eager, lambda content: eager(content) + error, export.TOLERANCE)


def test_a_graph_that_differs_is_not_kept(tmp_path, monkeypatch, small_net):
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(UserError, match="not written"):
        export.export_onnx(small_net, {}, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named(tmp_path, monkeypatch, small_net):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install 'impasto\[onnx\]'"):
        export.export_onnx(small_net, {}, tmp_path / "net.onnx")
