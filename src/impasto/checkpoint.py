"""The one inference file format: safetensors with the architecture and the provenance as JSON.

Header entry `impasto`: {"format": 1, "architecture": {"name": …, arguments}, "style": …, …}.
Nothing in a file is ever executed: tensors and JSON only.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from impasto.errors import UserError
from impasto.files import whole_file
from impasto.models.transformer_net import TransformerNet

FORMAT = 1


def save_network(path: str | os.PathLike[str], net: TransformerNet, metadata: Mapping[str, Any]) -> None:
    """Write the inference file of a network, whole or not at all; `metadata` is plain JSON data."""
    header = {"format": FORMAT, "architecture": {"name": type(net).__name__, **net.arguments}, **metadata}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    content = save(tensors, metadata={"impasto": json.dumps(header, ensure_ascii=False)})
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def load_network(path: str | os.PathLike[str]) -> tuple[TransformerNet, dict[str, Any]]:
    """Read an inference file: the network in evaluation mode, on the CPU, and the metadata.

    Raises `UserError` for a missing or damaged file, another kind of file or another architecture.
    """
    shown = repr(os.fspath(path))
    if not Path(path).is_file():
        raise UserError(f"there is no checkpoint {shown}")
    if Path(path).suffix == ".ckpt":
        raise UserError(f"{shown} is a training checkpoint: python scripts/export.py ckpt={os.fspath(path)}")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("impasto", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
    except (SafetensorError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{shown} is no Impasto checkpoint, or a damaged one: {reason}") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise UserError(f"{shown} is a safetensors file, but not one that Impasto (format {FORMAT}) wrote")
    return build_network(header.get("architecture"), tensors, shown), header


def load_training_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a training checkpoint holds of ours: `step`, `net` (weights), `images_seen`, `architecture`, the record.

    Read with `weights_only=True`: nothing in it is executed. Raises `UserError` for any other file.
    """
    shown = repr(os.fspath(path))
    if not Path(path).is_file():
        raise UserError(f"there is no checkpoint {shown}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling and zip errors have no common base
        reason = str(error).splitlines()[0]
        raise UserError(f"{shown} is no training checkpoint, or a damaged one: {reason}") from None
    record = checkpoint.get("impasto") if isinstance(checkpoint, dict) else None
    if not isinstance(record, dict) or "images_seen" not in record:
        raise UserError(f"{shown} is a checkpoint, but not one that Impasto's training wrote")
    weights = {name.removeprefix("net."): tensor for name, tensor in checkpoint["state_dict"].items()}
    return {**record, "step": checkpoint["global_step"], "net": weights}


def build_network(architecture: Any, tensors: Mapping[str, Tensor], shown: str) -> TransformerNet:
    """The network that an architecture record describes, with the weights given."""
    arguments = dict(architecture) if isinstance(architecture, dict) else {}
    if arguments.pop("name", None) != TransformerNet.__name__:
        raise UserError(f"{shown} holds another architecture, {architecture!r}, not {TransformerNet.__name__}")
    try:
        with torch.device("meta"):  # a hostile record costs no memory: shapes are compared before any is used
            net = TransformerNet(**arguments)
        net.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the weights in {shown} do not fit its architecture {architecture!r}: {reason}") from None
    return net.eval().requires_grad_(False)
