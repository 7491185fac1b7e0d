"""Many runs of train.py: each in a process of its own, one per GPU, or as many as a CPU's cores permit."""

import logging
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

from impasto.files import check_place
from impasto.hardware import visible
from impasto.limits import cores
from impasto.machine import device_type
from impasto.ranks import TOGETHER
from impasto.stopping import SIGNALS

log = logging.getLogger("impasto")

CORES = 4  # for each run on a CPU: with fewer a run takes longer than it saves by not waiting, by estimate


def places(on_cpu: bool = False) -> list[dict[str, str]]:
    """The environments of runs that may go on at once: for each its part of the cores, and a GPU if there are any."""
    import torch

    gpus = 0 if on_cpu else torch.cuda.device_count()
    if not gpus and device_type({"accelerator": "cpu" if on_cpu else "auto"}) == "mps":
        return [{}]
    count = gpus or max(1, cores() // CORES)
    threads = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, cores() // count))}
    return [{"CUDA_VISIBLE_DEVICES": visible([gpu]), **threads} for gpu in range(gpus)] or [threads] * count


def places_for(trainer: Mapping[str, Any]) -> list[dict[str, str]]:
    """`places` for runs with this `trainer` configuration: the whole machine for those that take several devices."""
    if trainer["strategy"] == "ddp" or trainer["devices"] not in ("auto", 1):
        return [{}]
    return places(on_cpu=trainer["accelerator"] == "cpu")


def run_all(script: Path, runs: Mapping[Path, Sequence[str]], places: Sequence[dict[str, str]]) -> list[Path]:
    """Run `script` with the words that each run folder is mapped to, as many at once as there are places.

    What a run says goes to a file beside its folder; returns the files of those that failed. Raises `UserError` where
    these cannot be written.
    One that fails leaves the others alone. Signals to stop are passed on, so that they can save.
    """
    for folder in runs:
        check_place(_log(folder))
        folder.parent.mkdir(parents=True, exist_ok=True)
    together = {TOGETHER: str(min(len(runs), len(places)))}
    free: queue.Queue[dict[str, str]] = queue.Queue()
    for place in places:
        free.put(place)
    started: list[subprocess.Popen[bytes]] = []

    def train(folder: Path) -> bool:
        place, said = free.get(), _log(folder)
        command = [sys.executable, str(script), *runs[folder], f"hydra.run.dir={folder}"]
        try:
            with said.open("ab") as output:
                process = subprocess.Popen(
                    command, env={**os.environ, **together, **place}, stdout=output, stderr=output
                )
                started.append(process)
                status = process.wait()
        finally:
            free.put(place)
        log.info("%s: %s", folder, "done" if status == 0 else f"failed, see {said}")
        return status == 0

    def pass_on(signum: int, frame: FrameType | None) -> None:
        for process in started:
            process.send_signal(signum)  # does nothing to those that have ended
        sys.exit(128 + signum)

    # what is ignored stays so: SIGHUP under nohup, Ctrl-C in the background of a shell
    before = {wish: now for wish in SIGNALS if (now := signal.getsignal(wish)) is not signal.SIG_IGN}
    for wish in before:
        signal.signal(wish, pass_on)
    with ThreadPoolExecutor(len(places)) as pool:
        try:
            return [_log(folder) for folder, done in zip(runs, pool.map(train, runs), strict=True) if not done]
        except SystemExit:  # of `pass_on`: the runs save
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            for wish, handler in before.items():
                signal.signal(wish, handler)


def _log(folder: Path) -> Path:
    return Path(f"{folder}.log")
