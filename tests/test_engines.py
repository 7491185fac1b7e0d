import json
import shutil
import sys
import zipfile
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from impasto import Stylizer, export
from impasto.checkpoint import save_network
from impasto.engines import compiled, load_engine
from impasto.engines.compiled import CompiledEngine, read_record
from impasto.engines.eager import EagerEngine
from impasto.errors import UserError
from impasto.memory import Room
from impasto.models.transformer_net import TransformerNet

from .conftest import grown, noise_image

METADATA = {"style": {"name": "café"}}


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A network and its compiled package."""
    net = grown(TransformerNet(width=4, depth=0, margin=8, sized=True, waves=True)).eval()
    path = tmp_path_factory.mktemp("compiled") / "net.pt2"
    export.export_compiled(net, METADATA, path, "cpu", "float32")
    return net, path


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """A network and its ONNX graph."""
    net = grown(TransformerNet(width=4, depth=1, margin=8, sized=True, waves=True)).eval()
    path = tmp_path_factory.mktemp("graph") / "net.onnx"
    export.export_onnx(net, METADATA, path)
    return net, path


@pytest.mark.parametrize("margin", [0, 8])
def test_compiled_code_sees_what_it_takes_in_its_own_order_of_memory(margin):
    """It takes the bytes one after another, whatever the array's order is: photos come with their channels last."""
    engine = object.__new__(CompiledEngine)
    engine.device, engine.margin, engine.width, engine.precision = "cpu", margin, 4, "float32"
    engine.room = Room()

    def model(content):
        assert content.is_contiguous()
        return content

    engine.model = model
    content = np.random.default_rng(0).random((1, 32, 48, 3), dtype=np.float32).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(engine(content), content)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (7, 3), (16, 16), (61, 70), (133, 250), (400, 301)])
@pytest.mark.parametrize("kind", ["package", "graph"])
def test_all_engines_give_the_networks_picture(kind, size, request):
    net, path = request.getfixturevalue(kind)
    content = np.random.default_rng(0).random((1, 3, *size), dtype=np.float32)
    engine = load_engine(path, "cpu")
    expected = EagerEngine(net, device="cpu", precision="float32")(content)
    np.testing.assert_allclose(engine(content), expected, atol=1e-4)
    assert engine.metadata["style"] == METADATA["style"]
    assert engine.device == "cpu"


def test_bfloat16_is_close_to_float32(small_net):
    content = np.random.default_rng(0).random((1, 3, 64, 80), dtype=np.float32)
    exact, rounded = (EagerEngine(small_net, None, "cpu", name)(content) for name in ("float32", "bfloat16"))
    assert 0 < np.abs(exact - rounded).mean() < 2 / 255
    with pytest.raises(UserError, match="not 'float64'"):
        EagerEngine(small_net, precision="float64")


def rewritten(path, destination, **changes):
    """A copy of a package with another record."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(destination, "w", zipfile.ZIP_STORED) as copy:
        for entry in source.infolist():
            content = source.read(entry)
            if entry.filename.endswith("_metadata.json") and b"impasto" in content:
                outer = json.loads(content)
                record = json.loads(outer["impasto"])
                content = json.dumps({**outer, "impasto": json.dumps({**record, **changes})}).encode()
            copy.writestr(entry, content)
    return destination


@pytest.mark.parametrize(
    ("key", "value"), [("torch", "2.0"), ("processor", "armv9"), ("device", "cuda"), ("system", "Plan 9")]
)
def test_a_package_for_another_machine_is_not_loaded(package, tmp_path, monkeypatch, key, value):
    monkeypatch.setattr(compiled.torch._inductor, "aoti_load_package", pytest.fail)
    target = {**read_record(package[1])["target"], key: value}
    with pytest.raises(UserError, match=f"was compiled for {key} {value}, not .*export it anew"):
        CompiledEngine(rewritten(package[1], tmp_path / "other.pt2", target=target))


def test_a_package_for_another_processor_is_not_loaded(package, tmp_path, monkeypatch):
    monkeypatch.setattr(compiled.torch._inductor, "aoti_load_package", pytest.fail)
    other = rewritten(package[1], tmp_path / "other.pt2", instructions=["avx9000"])
    with pytest.raises(UserError, match="a processor with avx9000, which this one lacks"):
        CompiledEngine(other)


def test_compiled_code_is_for_the_first_gpu_alone(package, monkeypatch):
    second = torch.device("cuda:1")
    monkeypatch.setattr(compiled, "choose_device", lambda device: second)
    monkeypatch.setattr(export, "EagerEngine", lambda *_, **__: SimpleNamespace(torch_device=second))
    for act in (CompiledEngine, partial(export.export_compiled, package[0], METADATA)):
        with pytest.raises(UserError, match="device=cuda:1: a .pt2 runs on the first GPU"):
            act(package[1], "cuda:1")


def test_damaged_and_foreign_files_are_named(package, graph, tmp_path):
    for path, name in ((package[1], "cut.pt2"), (graph[1], "cut.onnx")):
        (tmp_path / name).write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(UserError, match=f"{name}' is no .*, or a damaged one"):
            load_engine(tmp_path / name, "cpu")
    with zipfile.ZipFile(tmp_path / "other.pt2", "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(UserError, match="not one that Impasto compiled"):
        load_engine(tmp_path / "other.pt2")
    with pytest.raises(UserError, match="precision=float32: .*net.onnx' was exported in one"):
        load_engine(graph[1], precision="float32")
    with pytest.raises(UserError, match="runs on .*CPUExecutionProvider"):
        load_engine(graph[1], "mps")


def foreign_graph(path, operator="Relu", ends=("content", "stylized"), **attributes):
    """A graph of one operator, with our record."""
    onnx = pytest.importorskip("onnx", reason="comes with [onnx]")
    infos = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ends]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(operator, ends[:1], ends[1:], **attributes)], "graph", infos[:1], infos[1:]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    onnx.helper.set_model_props(model, {"impasto": "{}"})
    onnx.save(model, path)
    return path


def test_hostile_graphs_are_refused_in_one_line(tmp_path):
    image = noise_image(20, 16)
    with pytest.raises(UserError, match="not one that Impasto exported"):
        load_engine(foreign_graph(tmp_path / "names.onnx", ends=("a", "b")), "cpu")
    for operator, attributes, message in (
        ("ReduceSum", {}, "gives no picture"),
        ("Log", {}, "gives no picture"),  # -inf
        ("LpPool", {"kernel_shape": [999, 999]}, "the ONNX graph fails: |gives no picture"),
    ):
        stylizer = Stylizer.load(str(foreign_graph(tmp_path / f"{operator}.onnx", operator, **attributes)), "cpu")
        with pytest.raises(UserError, match=message) as error:
            stylizer(Image.new("RGB", image.size))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "record", [{"target": 3}, {"target": {}}, {"target": {"device": "cpu"}, "instructions": 3}, []]
)
def test_records_of_packages_are_checked(tmp_path, record):
    with zipfile.ZipFile(tmp_path / "a.pt2", "w") as archive:
        archive.writestr("a_metadata.json", json.dumps({"impasto": json.dumps(record)}))
    with pytest.raises(UserError, match="package, "):
        load_engine(tmp_path / "a.pt2")


def test_a_package_that_would_unpack_to_gigabytes_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt2", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a_metadata.json", b"[" * (64 << 20))
    with pytest.raises(UserError, match="no compiled package, or a damaged one"):
        load_engine(tmp_path / "a.pt2")


def test_without_a_compiler_pt2_is_refused_in_one_line(tmp_path, monkeypatch, small_net):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="needs a C.. compiler, and there is no no-such-compiler"):
        export.export_compiled(small_net, {}, tmp_path / "net.pt2")
    assert not list(tmp_path.iterdir())


def test_a_compiler_that_fails_is_one_line(tmp_path, monkeypatch, small_net):
    def failing(*_, **__):
        raise RuntimeError("C++ compile error\n\nOutput:\nx.cpp:1:2: fatal error: omp.h: No such file\n")

    monkeypatch.setattr(export.torch._inductor, "aoti_compile_and_package", failing)
    with pytest.raises(UserError, match=r"failed: x.cpp:1:2: fatal error: omp.h: No such file$"):
        export.export_compiled(small_net, {}, tmp_path / "net.pt2", "cpu")
    assert not list(tmp_path.iterdir())


def test_a_graph_without_its_package_is_named(graph, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install 'impasto\[onnx\]'"):
        load_engine(graph[1])


@pytest.fixture
def plain(tmp_path):
    """A network and its inference file."""
    net = TransformerNet(width=4, depth=1).eval()
    save_network(tmp_path / "net.safetensors", net, METADATA)
    return net, tmp_path / "net.safetensors"


@pytest.mark.parametrize("kind", ["graph", "package", "plain"])
def test_a_picture_that_memory_does_not_hold_is_refused_before_it_is_tried(kind, request, monkeypatch):
    """The system would end the process, and with it a whole folder's run."""
    _, path = request.getfixturevalue(kind)
    stylize = Stylizer.load(path, "cpu", tile=0)
    assert "width" not in stylize.engine.metadata
    free = 1 << 40
    monkeypatch.setattr("impasto.memory._free_main_memory", lambda: free)
    monkeypatch.setattr("impasto.memory._keeps", True)  # as in a command
    stylize(noise_image(48, 32))
    free = 0
    stylize(noise_image(48, 32))  # in what it has held on to
    with pytest.raises(UserError, match="64×32 px takes more memory than cpu has: try size=32 and no larger stroke="):
        stylize(noise_image(64, 32))


def test_tiles_of_an_exported_network_are_refused_at_once(graph):
    with pytest.raises(UserError, match=r"^tile=128 takes a \.safetensors: "):
        Stylizer.load(graph[1], "cpu", tile=128)


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_graph_runs_where_its_runtime_says_or_not_at_all(graph, monkeypatch):
    """ONNX Runtime falls back to the processor where a library of CUDA's is missing."""
    there = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: there)
    if "CUDAExecutionProvider" in __import__("onnxruntime").capi._pybind_state.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    assert load_engine(graph[1]).device == "cpu"
    with pytest.raises(UserError, match="device=cuda: this ONNX Runtime cannot load it"):
        load_engine(graph[1], "cuda")


def test_a_graph_runs_without_torch(run, graph, tmp_path):
    """Not just unused: not even importable."""
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "torch.py").write_text("raise ImportError('torch is blocked')")
    noise_image(33, 20).save(tmp_path / "a.png")
    result = run(
        "stylize.py", f"ckpt={graph[1]}", f"input={tmp_path}/a.png", f"output={tmp_path}/b.png",
        PYTHONPATH=str(tmp_path / "blocked"),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "b.png").is_file()


def test_a_networks_path_is_read_in_any_case_and_told_of_where_libraries_cannot_open_it(tmp_path, graph):
    shutil.copy(graph[1], tmp_path / "NET.ONNX")
    assert load_engine(tmp_path / "NET.ONNX").metadata["style"] == METADATA["style"]
    with pytest.raises(UserError, match=r"caf.udce9/net.onnx' cannot be read: its path is not UTF-8"):
        load_engine(tmp_path / "caf\udce9" / "net.onnx")
