"""The processes that train one run together: who started this one, which it is, and what it has for itself."""

import logging
import os

import torch

from impasto.errors import UserError
from impasto.hardware import heed_quota
from impasto.limits import cores

log = logging.getLogger("impasto")

TOGETHER = "IMPASTO_RUNS_TOGETHER"  # environment: how many runs share this machine's processors and memory


def started_by() -> str | None:
    """`torchrun` or `srun`, where one of them started this process as one of several ranks."""
    if "TORCHELASTIC_RUN_ID" in os.environ:  # first, as torchrun may run under srun
        return "torchrun"
    return "srun" if _tasks() > 1 else None


def check_alone(what: str) -> None:
    """Raise `UserError` where this process is one of several ranks, each of which would start all of `what`'s runs."""
    if starter := started_by():
        mend = ", and ask Slurm for one task (--ntasks=1)" * (starter == "srun")
        raise UserError(f"{what} starts processes of its own: leave {starter} out{mend}")


def runs_together() -> int:
    """How many runs share this machine: more than one where `-m` or a gallery has started them."""
    return int(os.environ.get(TOGETHER, 1))


def _tasks() -> int:
    """Slurm's tasks of this step: an interactive shell is a step of one, whatever its job has."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS") or os.environ.get("SLURM_NTASKS") or 1)


def rank() -> int:
    """This process among all of the run's, also before Lightning has set them up."""
    variables = {"torchrun": "RANK", "srun": "SLURM_PROCID"}
    starter = started_by()
    return int(os.environ.get(variables[starter], 0)) if starter else 0


def tasks_per_node() -> tuple[int, int]:
    """Slurm's tasks on each node, and the nodes. Raises `UserError` where they are not spread evenly."""
    tasks, nodes = _tasks(), int(os.environ.get("SLURM_STEP_NUM_NODES") or os.environ.get("SLURM_NNODES") or 1)
    if tasks % nodes:
        raise UserError(f"srun has {tasks} tasks on {nodes} nodes: --ntasks-per-node spreads them evenly")
    if "SLURM_JOB_ID" in os.environ and "SLURM_STEP_ID" not in os.environ:
        log.warning("this seems to be a batch script, not one of its %d tasks: srun python train.py starts them", tasks)
    return tasks // nodes, nodes


def share_cores() -> None:
    """Leave each of srun's ranks on a node its part of the cores, unless OMP_NUM_THREADS says how many."""
    heed_quota()
    if started_by() == "srun" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(cores_of_rank(tasks_per_node()[0]))


def cores_of_rank(ranks: int) -> int:
    """The processor's cores that each of so many ranks on this node has for itself: one at least.

    Runs beside this one have their part of them.
    """
    if started_by() == "srun" and "SLURM_CPUS_PER_TASK" in os.environ:
        return int(os.environ["SLURM_CPUS_PER_TASK"])
    return max(1, cores() // (max(1, ranks) * runs_together()))
