"""The one inference file format: safetensors with the architecture and the provenance as JSON.

Header entry `impasto`: {"format": 1, "architecture": {"name": …, arguments}, "style": …, …}.
Nothing in a file is ever executed: tensors and JSON only.
"""

import json
import logging
import os
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from impasto.archive import check_sums, check_weights, load_archive
from impasto.errors import UserError, one_line
from impasto.files import whole_file
from impasto.models.layers import GROWTH
from impasto.models.transformer_net import TransformerNet

log = logging.getLogger("impasto")

FORMAT = 1
MARGIN = 8  # px, of configs/model/johnson.yaml (a test holds them equal): of weights that have no record
FIRST = "encoder.0.conv.weight"  # (width, 3, 9, 9)
PARTS = ("style", "schedule", "content", "init")  # of a record, each a mapping where it is there


def save_network(path: str | os.PathLike[str], net: TransformerNet, metadata: Mapping[str, Any]) -> None:
    """Write the inference file of a network, whole or not at all; `metadata` is plain JSON data."""
    header = {"format": FORMAT, "architecture": {"name": type(net).__name__, **net.arguments}, **metadata}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    content = save(tensors, metadata={"impasto": json.dumps(header, ensure_ascii=False)})
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def load_network(path: str | os.PathLike[str]) -> tuple[TransformerNet, dict[str, Any]]:
    """Read an inference file: the network in evaluation mode, on the CPU, and the metadata.

    Weights that were saved without a record are taken for what their names and shapes say, with a warning.
    Raises `UserError` for a missing or damaged file, another kind of file or architecture, weights that are not finite.
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
    except Exception as error:  # of safetensors, torch, JSON: no common base
        raise UserError(f"{shown} is no Impasto checkpoint, or a damaged one: {one_line(error)}") from None
    if header is None and FIRST in tensors:
        header = _least_record(tensors, Path(path))
    if not isinstance(header, dict) or header.get("format") != FORMAT or not _is_record(header):
        raise UserError(f"{shown} is a safetensors file, but not one that Impasto (format {FORMAT}) wrote")
    check_weights(tensors, path)
    return build_network(header.get("architecture"), tensors, shown), _without_empty(header)


def _least_record(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """The least that a record says, of weights that have none."""
    width = (*tensors[FIRST].shape, 0)[0]
    depth = len({name.split(".")[1] for name in tensors if name.startswith("residual.")})
    log.warning("%r has no record: taken for a network of width %d and depth %d", str(path), width, depth)
    sized = any(name.endswith(GROWTH) for name in tensors)
    architecture = {
        "name": TransformerNet.__name__,
        "width": width,
        "depth": depth,
        "margin": MARGIN,
        "sized": sized,
        "waves": "waves.weight" in tensors,
    }
    return {"format": FORMAT, "architecture": architecture, "style": {"name": path.stem}}


def _is_record(record: Mapping[str, Any]) -> bool:
    """Whether the parts of a record that any reader relies on are of their kinds, where they are there."""
    if not all(isinstance(record.get(key) or {}, dict) for key in PARTS):
        return False
    init = record.get("init") or {}
    learned = init.get("learned", [])
    if not isinstance(learned, list) or not all(isinstance(data, dict) for data in learned):
        return False
    counts = [record.get("images_seen", 0), init.get("images", 0), (record.get("schedule") or {}).get("images", 0)]
    for data in learned_in_all(record):
        held_out = data.get("held_out", [])
        if not isinstance(held_out, list) or not all(isinstance(key, str) for key in held_out):
            return False
        counts += [data.get("photos", 0), data.get("validation", 0), data.get("seed") or 0]
    return all(isinstance(count, int) and count >= 0 for count in counts)


def _without_empty(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without its parts that are null."""
    return {key: value for key, value in record.items() if value is not None or key not in PARTS}


def images_in_all(metadata: Mapping[str, Any]) -> int:
    """Images that the weights have learned from: those of their own run, and those that made what it started from."""
    return int(metadata.get("images_seen", 0)) + int((metadata.get("init") or {}).get("images", 0))


def learned_in_all(metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The data that the weights have learned from, run after run: `content` of the records, each with its `seed`."""
    learned = (metadata.get("init") or {}).get("learned", [])
    own = metadata.get("content")
    return [*learned, {**own, "seed": metadata.get("seed")}] if own else learned


def same_photos(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the runs of two records have learned from the same photos, as far as both say."""
    last, now = ((learned_in_all(record) or [{}])[-1] for record in (one, other))
    return all(last[key] == now[key] for key in last.keys() & now.keys())


def load_training_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a training checkpoint holds of ours: `step`, `net` (weights), `images_seen`, `architecture`, the record.

    Read with `weights_only=True`: nothing in it is executed. Raises `UserError` for any other file.
    """
    shown, checkpoint = repr(os.fspath(path)), load_archive(path)
    content = checkpoint if isinstance(checkpoint, dict) else {}
    record, state, step = (content.get(key) for key in ("impasto", "state_dict", "global_step"))
    if (
        not (isinstance(record, dict) and isinstance(state, dict) and isinstance(step, int))
        or not record.keys() >= {"images_seen", "architecture"}
        or not isinstance(record["architecture"], dict)
        or not all(isinstance(name, str) for name in (*record, *state))
        or not _is_record(record)
    ):
        raise UserError(f"{shown} is a checkpoint, but not one that Impasto's training wrote")
    check_weights(state, path)
    check_sums(Path(path))
    return {
        **_without_empty(record),
        "step": step,
        "net": {name.removeprefix("net."): tensor for name, tensor in state.items()},
    }


def build_network(architecture: Any, tensors: Mapping[str, Tensor], shown: str) -> TransformerNet:
    """The network that an architecture record describes, with copies of the weights given.

    Raises `UserError` for another architecture, weights that do not fit, and weights that are not finite.
    """
    arguments = dict(architecture) if isinstance(architecture, dict) else {}
    told = reprlib.repr(architecture)  # which is of moderate length, whatever a hostile one is
    if arguments.pop("name", None) != TransformerNet.__name__:
        raise UserError(f"{shown} holds another architecture, {told}, not {TransformerNet.__name__}")
    depth = arguments.get("depth", 0)
    try:
        if isinstance(depth, int) and depth > len(tensors):  # blocks by the million would be built for ever
            raise ValueError(f"{depth} blocks of {len(tensors)} tensors")
        with torch.device("meta"):  # a hostile record costs no memory: shapes are compared before any is used
            net = TransformerNet(**arguments)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise UserError(f"the weights in {shown} do not fit its architecture {told}: {one_line(error)}") from None
    shapes = {name: tensor.shape for name, tensor in net.state_dict().items()}
    given = {name: tensor.shape for name, tensor in tensors.items()}
    if wrong := sorted(name for name in {**shapes, **given} if shapes.get(name) != given.get(name)):
        raise UserError(f"the weights in {shown} do not fit its architecture {told}: see {wrong[0][:80]!r}")
    # copies, as the file is mapped to memory and may change
    net.load_state_dict({name: tensor.to(torch.float32, copy=True) for name, tensor in tensors.items()}, assign=True)
    if broken := [name for name, tensor in net.state_dict().items() if not tensor.isfinite().all()]:
        raise UserError(f"the weights in {shown} are not finite: {broken[0]}")
    return net.eval().requires_grad_(False)
