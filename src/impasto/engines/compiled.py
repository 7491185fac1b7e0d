"""A network compiled ahead of time by AOTInductor (`.pt2`): machine code for one kind of machine, loaded at once."""

import json
import logging
import platform
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from impasto.engines.eager import memory_errors
from impasto.errors import UserError, one_line
from impasto.hardware import choose_device, heed_quota
from impasto.memory import Room
from impasto.models.transformer_net import TransformerNet
from impasto.tiling.room import memory_of_pass

RECORD_BYTES = 1 << 20  # at most, of an archive that could unpack to any number
EXTENSIONS = ("amx", "asimd", "avx", "bf16", "bmi", "f16c", "fma", "gfni", "i8mm", "sse", "sve", "vaes")


def build_target(device_type: str) -> dict[str, str]:
    """What machine code depends on: it runs only where all of this is equal."""
    processor = platform.machine()
    if device_type == "cuda":
        processor += " sm_{}{}".format(*torch.cuda.get_device_capability())
    return {
        "torch": ".".join(torch.__version__.split(".")[:2]),
        "system": platform.system(),
        "processor": processor,
        "device": device_type,
    }


def check_first(device: torch.device) -> None:
    """Raises `UserError` for a GPU that is not the first: compiled code takes no number of one."""
    if device.index:
        raise UserError(f"device={device}: a .pt2 runs on the first GPU; CUDA_VISIBLE_DEVICES says which that is")


def instructions() -> set[str]:
    """The processor's extensions, of which compilers use what they find; none known outside Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return {flag for flag in flags if flag.startswith(EXTENSIONS)}


class CompiledEngine:
    """Runs what `scripts/export.py format=pt2` wrote: code, so open only files that you trust.

    Raises `UserError` for a damaged file, or one compiled for another machine or version of torch.
    """

    batch_pixels = 0

    def __init__(self, path: Path, device: str = "auto") -> None:
        heed_quota()
        record = read_record(path)
        self.margin, self.width = int(record.pop("margin", 0)), int(record.pop("width", 32))
        target, chosen = record.pop("target"), choose_device(device)
        check_first(chosen)
        wanted = target["device"] if device == "auto" else chosen.type  # the file decides
        here = build_target(wanted if wanted != "cuda" or torch.cuda.is_available() else "cpu")
        if changed := [key for key in here if here[key] != target.get(key)]:
            there, now = one_line(target.get(changed[0])), here[changed[0]]
            raise UserError(
                f"{str(path)!r} was compiled for {changed[0]} {there}, not {now}: "
                "export it anew on this machine, or take the .safetensors"
            )
        if missing := sorted(record.pop("instructions") - instructions()):
            raise UserError(
                f"{str(path)!r} was compiled for a processor with {one_line(missing[0])}, which this one lacks: "
                "export it anew on this machine, or take the .safetensors"
            )
        self.device, self.precision, self.metadata = wanted, str(record.get("precision")), record
        self.room = Room()
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it remarks on the absence of a GPU
        try:
            self.model = torch._inductor.aoti_load_package(str(path))
        except Exception as error:  # of the loader, in C++
            raise UserError(f"{str(path)!r} cannot be loaded: {one_line(error)}") from None

    def __call__(self, content: Float32[np.ndarray, "1 3 height width"]) -> Float32[np.ndarray, "1 3 height width"]:
        """The stylized image."""
        height, width = content.shape[2:]
        multiple, least, margin = TransformerNet.multiple, TransformerNet.minimum, self.margin
        extents = [max(least, -(-(side + 2 * margin) // multiple) * multiple) for side in (height, width)]
        if extents != [height, width]:  # reflected here, as the network itself would
            ends = [(margin, extent - side - margin) for extent, side in zip(extents, (height, width), strict=True)]
            content = np.pad(content, [(0, 0), (0, 0), *ends], mode="reflect")
        precision = "bfloat16" if self.precision == "bfloat16" else "float32"
        if self.device == "cpu":
            self.room.take(memory_of_pass(height, width, self.width, precision))
        content = np.ascontiguousarray(content)  # compiled code takes any memory for such, and does not look
        with torch.inference_mode(), memory_errors():
            stylized = self.model(torch.from_numpy(content).to(self.device)).cpu().numpy()
        return stylized[..., margin : margin + height, margin : margin + width]


def read_record(path: Path) -> dict[str, Any]:
    """The record inside a package, read without loading its code. Raises `UserError`."""
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith("_metadata.json"):
                    with archive.open(name) as file:
                        content = json.loads(file.read(RECORD_BYTES))
                    if isinstance(content, dict) and "impasto" in content:
                        record = json.loads(content["impasto"])
                        if isinstance(record, dict) and "device" in record["target"]:
                            record["instructions"] = set(map(str, record.get("instructions", ())))
                            return record
    except Exception as error:  # of zipfile, zlib and JSON: no common base
        raise UserError(f"{str(path)!r} is no compiled package, or a damaged one: {one_line(error)}") from None
    raise UserError(f"{str(path)!r} is a package, but not one that Impasto compiled")
