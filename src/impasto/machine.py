"""What this machine, or cluster, can do for a training run."""

import logging
import os
from typing import Any

import pooch
import torch

from impasto.errors import UserError
from impasto.hardware import bfloat16_is_fast, compiler
from impasto.ranks import started_by, tasks_per_node

log = logging.getLogger("impasto")

ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "32", "bf16", "16")  # the weights are float32 in all of them
COMPILE_FROM = 50_000  # images on a GPU: below, a cold compilation costs more than it saves, by estimate


def placement(options: dict[str, Any]) -> tuple[Any, int, Any]:
    """Devices per node, nodes and cluster plugin: as torchrun or srun started us, or else as configured.

    Raises `UserError` where srun's tasks are not spread evenly.
    """
    from pytorch_lightning.plugins.environments import LightningEnvironment, SLURMEnvironment  # takes seconds

    starter = started_by()
    if starter is None:
        # -1 is as many as there are, of which Lightning knows for GPUs alone
        devices = 1 if options["devices"] == -1 and device_type(options) != "cuda" else options["devices"]
        return devices, 1, LightningEnvironment()  # also where a batch job of Slurm has but one task
    if starter == "torchrun":
        devices, nodes, plugin = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["GROUP_WORLD_SIZE"]), None
    else:
        devices, nodes = tasks_per_node()
        os.environ["SLURM_NTASKS_PER_NODE"] = str(devices)  # may be the batch job's, not the step's
        os.environ.setdefault("MASTER_PORT", str(_port()))
        plugin = SLURMEnvironment(auto_requeue=False)
    if options["devices"] != "auto" and (asked := count_devices(options["devices"], options["accelerator"])) != devices:
        log.warning(
            "trainer.devices=%d has no say: %s started %d processes on each of %d nodes", asked, starter, devices, nodes
        )
    return devices, nodes, plugin


def _port() -> int:
    """One port for all ranks of a step, another one for the next job or step on the same node."""
    job, step = (int(os.environ.get(name, 0)) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    return 10_000 + (101 * job + step) % 22_000  # below those that systems hand out themselves


def check_accelerator(accelerator: str) -> None:
    """Raise `UserError` where a GPU is asked for and absent."""
    if accelerator not in ACCELERATORS:
        raise UserError(f"trainer.accelerator={accelerator} is none of {', '.join(ACCELERATORS)}")
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if not {"gpu": cuda or mps, "cuda": cuda, "mps": mps}.get(accelerator, True):
        raise UserError(
            f"trainer.accelerator={accelerator} was asked for, but torch sees none on this machine: trainer=auto takes "
            "what there is"
        )


def check_devices(options: dict[str, Any]) -> None:
    """Raise `UserError` where `devices` is no number, list of GPUs, `auto` or -1, or asks for what is not there."""
    check_accelerator(options["accelerator"])
    devices, kind = options["devices"], device_type(options)
    gpus = devices if isinstance(devices, list) else []
    several = bool(gpus) and all(type(gpu) is int and gpu >= 0 for gpu in gpus) and len({*gpus}) == len(gpus)
    number = type(devices) is int and (devices > 0 or devices == -1)
    if not (several or number or devices == "auto"):
        raise UserError(
            f"trainer.devices={devices} should be a number from 1 on, a list of GPUs as in [0,1], auto or -1"
        )
    if gpus and kind != "cuda":
        raise UserError(f"trainer.devices={devices} are numbers of CUDA's GPUs, and this run is on {kind}")
    there, asked = torch.cuda.device_count(), max(gpus) + 1 if gpus else devices
    if kind == "cuda" and isinstance(asked, int) and asked > there and started_by() is None:
        raise UserError(f"trainer.devices={devices} asks for {asked} GPUs, of which torch sees {there}")


def count_devices(devices: Any, accelerator: str) -> int:
    """Processes on this node that Lightning will make of `devices`, which `check_devices` has found to be some."""
    if isinstance(devices, list):
        return len(devices)
    if isinstance(devices, int) and devices > 0:
        return devices
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return torch.cuda.device_count() if on_gpu else 1


def check_precision(options: dict[str, Any]) -> None:
    """Raise `UserError` for a precision in which the weights are not float32."""
    if str(options["precision"]) not in ("auto", *PRECISIONS):
        raise UserError(f"trainer.precision={options['precision']} is none of auto, {', '.join(PRECISIONS)}")


def choose_precision(options: dict[str, Any]) -> Any:
    """bf16 where the hardware multiplies it, which halves the time; elsewhere its emulation would be slower.

    Raises `UserError` as `check_precision` does.
    """
    check_precision(options)
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

    On a CPU uncompiled is as fast (`impasto.benchmark`). Compiled code is kept for the next run.
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


def first_device(options: dict[str, Any]) -> str:
    """The device, or the first of those, that a run will take which is not yet placed on them."""
    kind, devices = device_type(options), options["devices"]
    return f"{kind}:{devices[0]}" if kind == "cuda" and isinstance(devices, list) and devices else kind


def device_type(options: dict[str, Any]) -> str:
    """Where training runs: cuda, mps (Apple's GPUs), or cpu."""
    if options["accelerator"] == "cpu":
        return "cpu"
    if options["accelerator"] != "mps" and torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
