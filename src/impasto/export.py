"""A trained network for use elsewhere: inference file, ONNX or machine code, compared with PyTorch."""

import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from impasto.checkpoint import build_network, load_network, load_training_checkpoint
from impasto.engines import EXPORTED, Engine
from impasto.engines.compiled import CompiledEngine, build_target, check_first, instructions
from impasto.engines.eager import EagerEngine
from impasto.engines.onnx import OnnxEngine
from impasto.errors import UserError
from impasto.files import whole_file
from impasto.hardware import compiler
from impasto.models.layers import InstanceNorm2d
from impasto.models.transformer_net import TransformerNet, with_norms
from impasto.peers import PEER_SUFFIXES, load_peer_network

log = logging.getLogger("impasto")

PARITY_SIZES = ((256, 256), (384, 512), (181, 283))  # height, width (px), one odd
TOLERANCE = 1e-3  # of the range [0, 1]: a quarter of an 8-bit level
BFLOAT16_TOLERANCE = 0.1  # where both round to bfloat16, in another order
LARGEST = 16384  # px, of an exported graph's sides


def load_any(ckpt: Path) -> tuple[TransformerNet, dict[str, Any]]:
    """Network and metadata of a training checkpoint (`.ckpt`), ours or a peer's inference file. Raises `UserError`."""
    if ckpt.suffix in PEER_SUFFIXES:
        return load_peer_network(ckpt)
    if ckpt.suffix in EXPORTED:
        raise UserError(f"{str(ckpt)!r} was exported: this takes the .safetensors or .ckpt that it was made of")
    if ckpt.suffix != ".ckpt":
        return load_network(ckpt)
    content = load_training_checkpoint(ckpt)
    net = build_network(content["architecture"], content["net"], repr(str(ckpt)))
    return net, {key: value for key, value in content.items() if key not in ("net", "step", "architecture")}


def export_onnx(net: TransformerNet, metadata: Mapping[str, Any], output: Path) -> None:
    """Write an ONNX graph: `content` → `stylized`, float32 RGB in [0, 1], (1, 3, height, width), any height and width.

    Logs the largest difference to PyTorch at three sizes. Raises `UserError` if a difference is beyond
    `TOLERANCE` (the file is then not kept), or if the packages of the extra `onnx` are missing.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401, which compares
        import onnxscript  # noqa: F401, which torch.onnx needs
    except ModuleNotFoundError as error:
        raise UserError(f"format=onnx needs the package {error.name}: pip install 'impasto[onnx]'") from None
    net = net.eval().cpu()
    with whole_file(output) as temporary:
        with _quiet():
            torch.onnx.export(
                _any_size(with_norms(net, _OnnxNorm.sharing)),
                (),
                temporary,
                dynamo=True,
                input_names=["content"],
                output_names=["stylized"],
                dynamic_shapes={"content": _any_sides()},
                external_data=False,
                verbose=False,
            )
        model = onnx.load(temporary)
        model.doc_string = "Style transfer: float32 RGB in [0, 1], (1, 3, height, width), in and out."
        record = {**metadata, "width": net.arguments["width"]}
        onnx.helper.set_model_props(model, {"impasto": json.dumps(record, ensure_ascii=False)})
        onnx.save(model, temporary)
        compare(EagerEngine(net, device="cpu", precision="float32"), OnnxEngine(temporary, "cpu"), TOLERANCE)


def export_compiled(
    net: TransformerNet, metadata: Mapping[str, Any], output: Path, device: str = "auto", precision: str = "auto"
) -> None:
    """Compile for this machine's processor or GPU with AOTInductor, for any height and width: half a minute.

    Logs the largest difference to the uncompiled network at three sizes. Raises `UserError` if a difference
    is beyond the precision's tolerance (the file is then not kept), or if there is no C++ compiler.
    """
    name, present = compiler()
    if not present:
        raise UserError(f"format=pt2 needs a C++ compiler, and there is no {name}: install one, or set CXX")
    eager = EagerEngine(net, device=device, precision=precision)
    check_first(eager.torch_device)
    record = {
        **metadata,
        "precision": eager.precision,
        "margin": net.margin,
        "width": net.arguments["width"],
        "target": build_target(eager.torch_device.type),
        "instructions": sorted(instructions()),
    }
    package = io.BytesIO()  # torch's own writer of files aborts the process on a full disk
    with whole_file(output) as temporary:
        try:
            with _quiet(), torch.no_grad():
                torch._inductor.aoti_compile_and_package(
                    _divisible(_InPrecision(eager.net, eager.torch_device.type, eager.bfloat16)),
                    package_path=package,
                    inductor_configs={
                        "freezing": eager.device == "cpu",  # kernels laid out for the processor once
                        "aot_inductor.metadata": {"impasto": json.dumps(record)},
                    },
                )
        except RuntimeError as error:  # the base of what Inductor raises, with all the compiler said
            lines = [line for line in str(error).splitlines() if "error:" in line] or str(error).splitlines()
            raise UserError(f"compiling with {name} failed: {lines[0]}") from None
        temporary.write_bytes(package.getbuffer())
        compare(eager, CompiledEngine(temporary), BFLOAT16_TOLERANCE if eager.bfloat16 else TOLERANCE)


class _OnnxNorm(InstanceNorm2d):
    """Becomes ONNX's own operator: with the means and products it consists of, a graph takes 1.3 times as long.

    Its sums are more exact, too: at 16 megapixels 1 level of 255 off at most, not 3.
    """

    def forward(
        self, features: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Normalise each image's channels on their own."""
        affine = self.affine(features.shape[2] * features.shape[3])
        return F.instance_norm(features, None, None, *affine, True, 0.0, self.eps)


class _InPrecision(torch.nn.Module):
    """The network with its memory format and precision inside."""

    def __init__(self, net: TransformerNet, device_type: str, low: bool) -> None:
        super().__init__()
        self.net, self.device_type, self.low = net, device_type, low

    def forward(self, content: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device_type, torch.bfloat16, enabled=self.low):
            return self.net.stylize_divisible(content.contiguous(memory_format=torch.channels_last))


def _any_size(net: TransformerNet) -> torch.export.ExportedProgram:
    """The network for sides from 4 px on; its graph holds from 1 px on."""
    return torch.export.export(
        net,
        (torch.rand(1, 3, 61, 70),),  # sizes that are unlike each other and everything else
        dynamic_shapes={"content": _any_sides()},
        # the solver of torch 2.11 cannot see that the padded size is never below the size
        prefer_deferred_runtime_asserts_over_guards=True,
    )


def _any_sides() -> dict[int, Any]:
    return {dim: torch.export.Dim(name, min=4, max=LARGEST) for dim, name in ((2, "height"), (3, "width"))}


def _divisible(net: _InPrecision) -> torch.export.ExportedProgram:
    """The network for sides that the strides divide: compiling any others takes five times as long."""
    multiple, least = TransformerNet.multiple, TransformerNet.minimum
    sides = {
        dim: multiple * torch.export.Dim(name, min=least // multiple, max=LARGEST // multiple)
        for dim, name in ((2, "height"), (3, "width"))
    }
    content = torch.rand(1, 3, 15 * multiple, 17 * multiple, device=net.device_type)
    return torch.export.export(net, (content,), dynamic_shapes={"content": sides})


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what torch's exporters and compilers say about themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        level = logging.getLogger("torch").level
        logging.getLogger("torch").setLevel(logging.ERROR)
        try:
            yield
        finally:
            logging.getLogger("torch").setLevel(level)


def compare(eager: Engine, exported: Engine, tolerance: float) -> None:
    """Log the largest difference between the network and its export at each size.

    Raises `UserError` beyond `tolerance`, of the range [0, 1].
    """
    generator = np.random.default_rng(0)
    for height, width in PARITY_SIZES:
        content = generator.random((1, 3, height, width), dtype=np.float32)
        difference = float(np.abs(exported(content) - eager(content)).max())
        log.info("Largest difference to PyTorch at %d×%d px: %.1e", width, height, difference)
        if not difference <= tolerance:  # NaN is beyond it, too
            raise UserError(
                f"the export differs from PyTorch by {difference:.1e}, more than {tolerance:.0e}: not written"
            )
