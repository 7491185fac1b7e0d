"""`trainer=ddp` on one machine: ranks started and watched by torchrun from within; one voice for their mistakes."""

import ctypes
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from impasto.errors import UserError, one_line
from impasto.hardware import visible
from impasto.limits import cores
from impasto.machine import check_devices, count_devices
from impasto.ranks import rank, started_by

GRACE = 3.0  # seconds in which the launcher ends the ranks that wait, once one has ended
PATIENCE = "120"  # seconds in which ranks that are asked to stop can end their steps and save; in torch 2.11 it is 30
SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1")  # that the launcher passes on to the ranks


def ranks_to_launch(options: dict[str, Any]) -> int:
    """How many ranks a `trainer` configuration takes that nobody has started yet; 0 where this process will do.

    Raises `UserError` as `check_devices` does.
    """
    check_devices(options)
    processes = 0 if started_by() else count_devices(options["devices"], options["accelerator"])
    return processes if processes > 1 else 0


def launch(command: Sequence[str], ranks: int, options: dict[str, Any]) -> None:
    """Run a Python script with its arguments as so many ranks on this machine.

    A rank that ends badly ends the others, signals to stop are passed on, and a rank's status becomes ours.
    Raises `UserError` for a rank that was killed.
    """
    logging.disable()  # torchrun's pages about a rank that failed: it has told why in one line
    try:
        _launch(command, ranks, options)
    finally:
        logging.disable(logging.NOTSET)


def _launch(command: Sequence[str], ranks: int, options: dict[str, Any]) -> None:
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // ranks)))
    if isinstance(options["devices"], list):
        os.environ["CUDA_VISIBLE_DEVICES"] = visible(options["devices"])
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", PATIENCE)
    # what is ignored stays so, for the ranks as well: nohup, and jobs in the background of a shell
    known = [name for name in SIGNALS if hasattr(signal, name)]
    heeded = [name for name in known if signal.getsignal(getattr(signal, name)) is not signal.SIG_IGN]
    with tempfile.TemporaryDirectory() as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=ranks,
            run_id=str(os.getpid()),
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",  # a free port, whatever other jobs there are
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
            signals_to_handle=",".join(heeded),
        )
        try:
            elastic_launch(config, sys.executable)(*command)
        except ChildFailedError as error:
            _tell(error.failures)
        except SignalException as stopped:
            sys.exit(128 + stopped.sigval)


def _tell(failures: dict[int, Any]) -> None:
    """End as a failed rank did, which has told why unless it was killed; those that SIGTERM has ended do not count."""
    for number, failure in failures.items():
        if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:
            raise UserError(
                f"rank {number} of the run died of {failure.signal_name()}, so all have ended; "
                "if it was for lack of memory, lower data.batch_size; resume=true goes on"
            )
    ended = 128 + signal.SIGTERM
    codes = [failure.exitcode for failure in failures.values() if failure.exitcode > 0]
    sys.exit(max((code for code in codes if code != ended), default=ended))


def end_with_launcher() -> None:
    """Have the system send this rank SIGTERM when its torchrun is killed, which could not do so itself; on Linux."""
    if started_by() == "torchrun" and sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


@contextmanager
def one_voice() -> Iterator[None]:
    """Have a mistake that all ranks meet told once, and a rank's death by whoever saw it.

    Rank 0 tells what it meets. The others wait for the launcher to end them, as it does once one has ended, and
    so do all that have lost the connection to another: the launcher knows more. If nobody ends them, they tell.
    """
    try:
        yield
    except (UserError, OSError):
        if rank() != 0:
            _wait_for_the_end()
        raise
    except RuntimeError as error:  # of gloo, plain; of NCCL and the rendezvous, subclasses
        if not (started_by() and any(word in str(error) for word in ("gloo", "NCCL", "store", "socket", "TCP"))):
            raise
        _wait_for_the_end()
        raise UserError(
            f"rank {rank()} cannot reach the others: {one_line(error)}; "
            "if one has died, its own words say why; resume=true goes on"
        ) from None


def _wait_for_the_end() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(GRACE)
