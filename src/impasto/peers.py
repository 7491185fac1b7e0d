"""Networks that others trained: checkpoints of pytorch/examples' `fast_neural_style`, read as ours.

Theirs has our layers under other names, takes and gives RGB of 0 to 255, and clamps where ours has tanh. So the first
layer's weights times 255 and the last layer's divided by it make a `TransformerNet` with `output="clamp"`.

Differs: theirs returns sides that 4 does not divide larger than they were, ours keeps them; at multiples of 4, from
16 px on, the values are equal in float32. Theirs cuts fractions of a level off when it writes a picture, ours rounds.

Source: https://github.com/pytorch/examples/tree/main/fast_neural_style (names, shapes and ranges).
"""

import os
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from impasto.archive import check_weights, load_archive
from impasto.errors import UserError
from impasto.models.transformer_net import TransformerNet

PEER_SUFFIXES = (".pth", ".pt", ".model")
ORIGIN = "pytorch/examples fast_neural_style"

# statistics that instance norm once saved and never used
UNUSED = re.compile(r"in\d+\.(running_mean|running_var|num_batches_tracked)$")


def precision_for(net: TransformerNet, precision: str) -> str:
    """What `auto` means for a network: float32 for one of theirs, also where we have exported it.

    Without tanh bfloat16 is off by up to 15 levels, and their users expect their pictures.
    """
    return "float32" if precision == "auto" and net.arguments.get("output") == "clamp" else precision


def load_peer_network(path: str | os.PathLike[str]) -> tuple[TransformerNet, dict[str, Any]]:
    """Read a state dict of theirs, of any width and depth: the network in evaluation mode, on the CPU, and metadata.

    Nothing in a file is ever executed. Raises `UserError` for a missing or damaged file, anything but weights,
    another architecture, and weights that are not finite.
    """
    shown = repr(os.fspath(path))
    weights = _read_weights(Path(path), shown)
    depth = len({name.split(".")[0] for name in weights if re.match(r"res\d+\.", name)})
    names = _names(depth)
    _check_names(weights, names.values(), shown)
    first = weights["conv1.conv2d.weight"].shape
    # before a network of this width is thought of: with a side of 0, any width takes no bytes
    if first[1:] != (3, 9, 9) or first[0] == 0:
        raise UserError(f"{shown} holds another architecture: its conv1.conv2d.weight is {_sides(first)}, not …×3×9×9")
    with torch.device("meta"):
        net = TransformerNet(first[0], depth, output="clamp")
    for name, expected in net.state_dict().items():
        if weights[names[name]].shape != expected.shape:
            there, fits = _sides(weights[names[name]].shape), _sides(expected.shape)
            raise UserError(f"{shown} holds another architecture: its {names[name]} is {there}, not {fits}")
    # copies, as the file is mapped to memory and may change
    tensors = {name: weights[names[name]].detach().to(torch.float32, copy=True) for name in names}
    tensors["encoder.0.conv.weight"] *= 255
    for name in ("decoder.2.weight", "decoder.2.bias"):
        tensors[name] /= 255
    if broken := [names[name] for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise UserError(f"the weights in {shown} are not finite: {broken[0]}{_more(broken)}")
    net.load_state_dict(tensors, assign=True)
    return net.eval().requires_grad_(False), {"style": {"name": Path(path).stem}, "origin": ORIGIN}


def _read_weights(path: Path, shown: str) -> dict[str, Tensor]:
    """The tensors of a state dict, bare or wrapped, without the prefix of `DataParallel`."""
    content = load_archive(path)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise UserError(f"{shown} holds a {type(content).__name__}, not the state dict of a network")
    weights = {str(name).removeprefix("module."): value for name, value in content.items()}
    weights = {name: value for name, value in weights.items() if not UNUSED.search(name)}
    check_weights(weights, path)
    return weights


def _names(depth: int) -> dict[str, str]:
    """Our parameters' names → theirs."""
    blocks = {f"encoder.{index}": (f"conv{index + 1}", f"in{index + 1}") for index in range(3)}
    for index in range(depth):
        for half in ("1", "2"):
            blocks[f"residual.{index}.conv{half}"] = f"res{index + 1}.conv{half}", f"res{index + 1}.in{half}"
    blocks |= {f"decoder.{index}": (f"deconv{index + 1}", f"in{index + 4}") for index in range(2)}
    modules = dict[str, str]()
    for ours, (conv, norm) in blocks.items():
        modules |= {f"{ours}.conv": f"{conv}.conv2d", f"{ours}.norm": norm}
    modules["decoder.2"] = "deconv3.conv2d"
    return {f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in modules.items() for kind in ("weight", "bias")}


def _check_names(weights: Mapping[str, Tensor], expected: Collection[str], shown: str) -> None:
    lacking = [name for name in expected if name not in weights]
    strange = sorted(set(weights) - set(expected))
    findings = [
        f"{verb} {names[0][:80]!r}{_more(names)}" for verb, names in (("lacks", lacking), ("has", strange)) if names
    ]
    if findings:
        raise UserError(f"{shown} holds another architecture than {ORIGIN}: it {', and '.join(findings)}")


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _sides(shape: Iterable[int]) -> str:
    return "×".join(map(str, shape)) or "one number"
