"""What this machine's processors and compiler can do."""

import os
import platform
import re
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from impasto.errors import UserError
from impasto.limits import cores

PRECISIONS = ("auto", "float32", "bfloat16")


def bfloat16_is_fast(device_type: str) -> bool:
    """Whether the device multiplies bfloat16 in hardware; its emulation would be slower than float32."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def takes_bfloat16(precision: str, device_type: str) -> bool:
    """Whether `precision` (auto, float32 or bfloat16) means bfloat16 on the device. Raises `UserError`."""
    if precision not in PRECISIONS:
        raise UserError(f"precision is {', '.join(PRECISIONS)}, not {precision!r}")
    return precision == "bfloat16" or (precision == "auto" and bfloat16_is_fast(device_type))


def choose_device(device: str | torch.device) -> torch.device:
    """`auto` takes the best there is; a device that is asked for and absent raises `UserError`."""
    device = str(device)
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return torch.device(next(name for name, available in present.items() if available))
    if device.partition(":")[0] not in present:
        raise UserError(f"device is auto, {', '.join(sorted(present))}, not {device!r}")
    if not present[device.partition(":")[0]]:
        raise UserError(f"device={device} was asked for, but this machine has none; device=auto takes what there is")
    try:
        chosen = torch.device(device)
        if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
            raise UserError(f"device={device} was asked for, but the last GPU is cuda:{torch.cuda.device_count() - 1}")
        return chosen
    except RuntimeError:
        raise UserError(f"device={device} is none that torch knows: say device={device.partition(':')[0]}") from None


def processor() -> str:
    """The processor's name."""
    if Path("/proc/cpuinfo").is_file():  # Linux, where platform does not know it
        names = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if names:
            return str(names[0])
    return platform.processor() or platform.machine()


def compiler() -> tuple[str, bool]:
    """The C++ compiler that torch would call, and whether it is there."""
    name = os.environ.get("CXX", "g++")
    return name, shutil.which(name) is not None


def peak_memory(device: torch.device) -> int:
    """The most memory that this process has had, in bytes: on a CUDA GPU in torch's tensors, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.is_file():  # Linux, where getrusage counts what the parent had when it forked, too
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def restart_peak(device: torch.device) -> int:
    """Make `peak_memory` start from what the process holds now, where the system can do so; returns that, in bytes."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    with suppress(OSError):  # not on Linux
        Path("/proc/self/clear_refs").write_text("5")
    return int(psutil.Process().memory_info().rss)


def heed_quota() -> None:
    """Have torch take no more threads than a container leaves cores, of which it does not know.

    OMP_NUM_THREADS says otherwise.
    """
    if "OMP_NUM_THREADS" not in os.environ and cores() < torch.get_num_threads():
        torch.set_num_threads(cores())


def visible(gpus: Sequence[int]) -> str:
    """What CUDA_VISIBLE_DEVICES should say for a process that sees only these of the GPUs that we see.

    Raises `UserError` for one that we do not see.
    """
    ours = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = ours.split(",") if ours else [str(gpu) for gpu in range(max(gpus) + 1)]
    if beyond := [gpu for gpu in gpus if not 0 <= gpu < len(names)]:
        raise UserError(f"this process sees no GPU {beyond[0]}: of CUDA_VISIBLE_DEVICES={ours} the first is 0")
    return ",".join(names[gpu] for gpu in gpus)
