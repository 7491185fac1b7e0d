"""A trained network for use elsewhere: inference file or ONNX, the latter compared with PyTorch before it is kept."""

import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from impasto.checkpoint import build_network, load_network, load_training_checkpoint
from impasto.errors import UserError
from impasto.files import whole_file
from impasto.models.transformer_net import TransformerNet

log = logging.getLogger("impasto")

PARITY_SIZES = ((256, 256), (384, 512), (181, 283))  # height, width (px), one odd
TOLERANCE = 1e-3  # of the range [0, 1]: a quarter of an 8-bit level
LARGEST = 16384  # px, of an exported graph's sides


def load_any(ckpt: Path) -> tuple[TransformerNet, dict[str, Any]]:
    """Network and metadata of a training checkpoint (`.ckpt`) or an inference file. Raises `UserError`."""
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
        import onnxruntime
        import onnxscript  # noqa: F401, which torch.onnx needs
    except ModuleNotFoundError as error:
        raise UserError(f"format=onnx needs the package {error.name}: pip install 'impasto[onnx]'") from None
    net = net.eval().cpu()
    # the exporter's range starts at 4, where the padding's slices are never empty; the graph holds from 1 px on
    dynamic = {2: torch.export.Dim("height", min=4, max=LARGEST), 3: torch.export.Dim("width", min=4, max=LARGEST)}
    with whole_file(output) as temporary:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's exporter, about itself
            program = torch.export.export(
                net,
                (torch.rand(1, 3, 61, 70),),  # sizes that are unlike each other and everything else
                dynamic_shapes={"content": dynamic},
                # the solver of torch 2.11 cannot see that the padded size is never below the size
                prefer_deferred_runtime_asserts_over_guards=True,
            )
            torch.onnx.export(
                program,
                (),
                temporary,
                dynamo=True,
                input_names=["content"],
                output_names=["stylized"],
                dynamic_shapes={"content": dynamic},
                external_data=False,
                verbose=False,
            )
        model = onnx.load(temporary)
        model.doc_string = "Style transfer: float32 RGB in [0, 1], (1, 3, height, width), in and out."
        onnx.helper.set_model_props(model, {"impasto": json.dumps(metadata, ensure_ascii=False)})
        onnx.save(model, temporary)
        session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])
        compare(net, lambda content: torch.from_numpy(session.run(None, {"content": content.numpy()})[0]))


def compare(net: TransformerNet, exported: Any) -> None:
    """Log the largest difference between network and export at each size. Raises `UserError` beyond `TOLERANCE`."""
    generator = torch.Generator().manual_seed(0)
    for height, width in PARITY_SIZES:
        content = torch.rand(1, 3, height, width, generator=generator)
        with torch.inference_mode():
            expected = net(content)
        difference = (exported(content) - expected).abs().max().item()
        log.info("Largest difference to PyTorch at %d×%d px: %.1e", width, height, difference)
        if not difference <= TOLERANCE:  # NaN is beyond it, too
            raise UserError(
                f"the export differs from PyTorch by {difference:.1e}, more than {TOLERANCE:.0e}: not written"
            )
