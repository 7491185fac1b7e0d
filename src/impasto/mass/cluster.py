"""Ray: started on this machine or joined where it runs, silent, and how its machines are shared out."""

import logging
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import psutil

from impasto.errors import UserError, one_line
from impasto.limits import cores as usable_cores

log = logging.getLogger("impasto")

QUIET = {
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # all that its machines say, as of workers that died, on standard output
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
FOLDER_CHARACTERS = 20  # of that for temporary files: Ray's sockets in it must have fewer than 104
EXIT_SECONDS = 10.0  # for Ray's processes, which as a rule are gone at once
PORT_SECONDS = 5.0  # to wait for a cluster's address


@dataclass(frozen=True)
class Workers:
    """How many processes (None: as many as there is room for), and on how many cores each; where: None is here."""

    number: int | None = None
    cores: int | None = None
    batch: int = 8
    address: str | None = None
    verbose: bool = False


@contextmanager
def running(workers: Workers, store_bytes: int) -> Iterator[None]:
    """Ray, started here or joined where it runs, silent, and gone at the end. Raises `UserError`.

    Started here, it also ends where this process is killed: two agents that are idle, a minute later.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if not workers.verbose:
        os.environ |= QUIET
    folder, before = None, _children()
    if workers.address is None:
        os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's own 15 starves workers on a machine with other work
        cpus = max(usable_cores(), (workers.number or 1) * (workers.cores or 1))  # more than there are may be asked for
        roomy = len(tempfile.gettempdir()) <= FOLDER_CHARACTERS or not os.path.isdir("/tmp")
        folder = tempfile.mkdtemp(prefix="ray", dir=None if roomy else "/tmp")
        os.environ["RAY_TMPDIR"] = folder
        place: dict[str, Any] = {"address": "local", "num_cpus": cpus, "object_store_memory": store_bytes}
        place["include_dashboard"] = False
    else:
        place = {"address": workers.address}

    import ray
    import ray.data  # which sets its loggers up

    if not workers.verbose:
        for name in ("ray", "ray.data"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    ends = signal.getsignal(signal.SIGTERM)
    try:
        level = logging.INFO if workers.verbose else logging.CRITICAL
        with nullcontext() if workers.verbose else _hushed():
            ray.init(**place, logging_level=level, log_to_driver=workers.verbose)
        signal.signal(signal.SIGTERM, ends)  # Ray's exits with 15
        yield
    except Exception as error:  # no common base: a node that is slow to start is a bare one
        if ray.is_initialized() or isinstance(error, UserError):
            raise
        where = "does not start" if workers.address is None else f"cannot be joined at address={workers.address}"
        said = str(error.__cause__ or error).strip()
        if "InvalidAuthToken" in said:
            raise UserError(
                f"Ray {where}: it asks for a token: RAY_AUTH_MODE=token, and the file ~/.ray/auth_token"
            ) from None
        # of a traceback, what it ends with
        raise UserError(f"Ray {where}: {one_line(said.splitlines()[-1] if said else error)}") from None
    finally:
        started = _children() - before
        ray.shutdown()
        if folder is not None:
            _end(started)
            shutil.rmtree(folder, ignore_errors=True)


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def _end(processes: Iterable[psutil.Process]) -> None:
    """Wait until they are gone, and kill what is left: now and then, a worker of Ray's hangs as it exits."""
    for process in psutil.wait_procs(list(processes), EXIT_SECONDS)[1]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


@contextmanager
def _hushed() -> Iterator[None]:
    """Without what Ray's C++ says on stderr of the log level that it was given."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def check_address(address: str | None) -> None:
    """Raise `UserError` at once for an address at which nobody answers: Ray would wait for a minute."""
    if address is None or address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), PORT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise UserError(
            f"there is no Ray cluster at address={address!r} ({one_line(error)}): it is HOST:PORT of its head, or auto"
        ) from None


def shares(workers: Workers, device: str) -> tuple[int, int, bool]:
    """Workers, cores for each, and whether each has a GPU. Raises `UserError` for more than there are."""
    import ray

    there = ray.cluster_resources()
    cpus, gpus = int(there.get("CPU", 0)), int(there.get("GPU", 0))
    on_gpu = device.startswith("cuda") or (device == "auto" and gpus > 0)
    if on_gpu and not gpus:
        raise UserError(f"device={device}: there is no GPU that Ray knows of; device=auto takes what there is")
    cores = workers.cores or (max(1, cpus // max(gpus, 1)) if on_gpu else 1)
    number = workers.number or (gpus if on_gpu else max(1, cpus // cores))
    if number * cores > cpus or (on_gpu and number > gpus):
        asked = f"workers={number} with cores={cores}" + " and a GPU each" * on_gpu
        raise UserError(f"{asked} are more than there is: {cpus} cores, {gpus} GPUs")
    log.info("Workers: %d, on %d %s each", number, cores, "core" if cores == 1 else "cores")
    return number, cores, on_gpu
