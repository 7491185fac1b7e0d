"""What this machine, or cluster, can do for a training run."""

import logging
import os
from typing import Any

import pooch
import torch
from pytorch_lightning.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from impasto.errors import UserError
from impasto.hardware import bfloat16_is_fast, compiler

log = logging.getLogger("impasto")

COMPILE_FROM = 50_000  # images on a GPU: below, a cold compilation costs more than it saves, by estimate


def rank() -> int:
    """This process among all of the run's, also before Lightning has set them up."""
    return int(getattr(rank_zero_only, "rank", 0))


def placement(options: dict[str, Any]) -> tuple[Any, int, Any]:
    """Devices per node, nodes and cluster plugin: as configured, or as torchrun or srun started us."""
    if TorchElasticEnvironment.detect():
        return int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["GROUP_WORLD_SIZE"]), None
    if SLURMEnvironment.detect() and "SLURM_NTASKS_PER_NODE" in os.environ:
        plugin = SLURMEnvironment(auto_requeue=False)
        return int(os.environ["SLURM_NTASKS_PER_NODE"]), int(os.environ["SLURM_NNODES"]), plugin
    return options["devices"], options["num_nodes"], None


def check_accelerator(accelerator: str) -> None:
    """Raise `UserError` where a GPU is asked for and absent."""
    if accelerator in ("gpu", "cuda") and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        raise UserError("a GPU was asked for, but torch sees none on this machine: trainer=auto takes what there is")


def count_devices(devices: Any, accelerator: str) -> int:
    """Processes on this node that Lightning will make of `devices`: a number, a list of GPUs, `auto` or -1."""
    if isinstance(devices, list):
        return len(devices)
    if isinstance(devices, int) and devices > 0:
        return devices
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return torch.cuda.device_count() if on_gpu else 1


def choose_precision(options: dict[str, Any]) -> Any:
    """bf16 where the hardware multiplies it, which halves the time; elsewhere its emulation would be slower."""
    if options["precision"] != "auto":
        return options["precision"]
    if trains_in_bfloat16(options):
        log.info("Precision: bf16-mixed")
        return "bf16-mixed"
    log.warning("this machine does not multiply bfloat16: training in float32 takes about twice as long")
    return "32-true"


def trains_in_bfloat16(options: dict[str, Any]) -> bool:
    """Whether `choose_precision` has the products in bfloat16."""
    if options["precision"] == "auto":
        return bfloat16_is_fast(device_type(options))
    return str(options["precision"]).startswith("bf16")


def worth_compiling(options: dict[str, Any], images: int) -> bool:
    """Whether to compile network and loss: where asked, or on a GPU where the run is long.

    On a CPU uncompiled is as fast (README, Speed). Compiled code is kept for the next run.
    """
    choice = options["compile"]
    if choice not in ("auto", True, False):
        raise UserError(f"trainer.compile is auto, true or false, not {choice!r}")
    if not (choice is True or (choice == "auto" and device_type(options) == "cuda" and images >= COMPILE_FROM)):
        return False
    name, present = compiler()
    if not present:
        log.warning("there is no C++ compiler %s: training runs uncompiled, slower on a GPU", name)
        return False
    kept = os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(pooch.os_cache("impasto") / "compiled"))
    log.info("Compiling: a minute or two, less the next time: kept in %s", kept)
    return True


def device_type(options: dict[str, Any]) -> str:
    """Where training runs: cuda, or cpu."""
    return "cuda" if options["accelerator"] != "cpu" and torch.cuda.is_available() else "cpu"
