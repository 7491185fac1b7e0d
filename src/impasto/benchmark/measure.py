"""Timing side by side: each contestant in a process of its own, taking turns, so that noise hits all alike."""

import json
import logging
import multiprocessing
import platform
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Self

import torch

from impasto.engines.eager import memory_errors
from impasto.errors import UserError
from impasto.files import write_text
from impasto.hardware import choose_device, peak_memory, processor
from impasto.memory import keep_freed_memory

# each with its own allocator, caches and compiled code; forked, where that can be, from one that has only imported
FORKS = "forkserver" in multiprocessing.get_all_start_methods()
PROCESSES: Any = multiprocessing.get_context("forkserver" if FORKS else "spawn")
if FORKS:
    PROCESSES.set_forkserver_preload(["impasto.benchmark.contestants"])


class Contestant:
    """A process that builds something to run, `build(**arguments)`, and runs it when told.

    `keep` sets up its allocator as Impasto's commands do; the reference runs with the system's defaults. It has as
    many threads as this process.
    """

    def __init__(self, name: str, build: Callable[..., Callable[..., Any]], *, keep: bool = True, **arguments: Any):
        self.name, self.seconds, self.peak_mb = name, list[float](), 0
        self._connection, theirs = PROCESSES.Pipe()
        self._process = PROCESSES.Process(target=_serve, args=(theirs, build, keep, torch.get_num_threads(), arguments))
        self._process.start()
        theirs.close()

    def run(self, **arguments: Any) -> Any:
        """Run once and return the result; the time is added to `seconds`.

        Raises `UserError` where the run does, and where the process died.
        """
        try:
            self._connection.send(arguments)
            seconds, self.peak_mb, result = self._connection.recv()
        except (EOFError, ConnectionError):
            raise UserError(f"{self.name} ended before its time: too little memory?") from None
        if isinstance(result, UserError):
            raise result
        self.seconds.append(seconds)
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self._connection.close()  # upon which it returns
        self._process.join(timeout=20)
        self._process.kill()


def _serve(
    connection: Connection, build: Callable[..., Callable[..., Any]], keep: bool, threads: int, arguments: Any
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which then closes the connection
    logging.getLogger("torch").setLevel(logging.ERROR)  # compilers remark on the absence of a GPU
    torch.set_num_threads(threads)  # a fork has but one (`impasto.engines.eager`)
    if keep:
        keep_freed_memory()
    run, mistake = _told(build, arguments)
    device = choose_device("cpu" if mistake else arguments.get("on", "auto"))
    with suppress(EOFError, ConnectionError):  # the parent has closed the connection: the end
        while True:
            call = connection.recv()
            start = perf_counter()
            result = mistake
            if mistake is None:
                result, mistake = _told(run, call)
                result = mistake or result
            connection.send((perf_counter() - start, peak_memory(device) // 1_000_000, result))


def _told(function: Callable[..., Any], arguments: Mapping[str, Any]) -> tuple[Any, UserError | None]:
    """What a function returns, or the mistake that it raised."""
    try:
        with memory_errors():
            return function(**arguments), None
    except UserError as error:
        return None, error
    except MemoryError:
        return None, UserError("it takes more memory than there is")


def peak_memory_of_commands() -> int:
    """The most memory that one of the commands which this process ran has had, resident, in MB."""
    import resource  # which Windows lacks

    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) // 1_000_000


def alternate(contestants: Sequence[Contestant], repeats: int, warm_up: int = 2) -> dict[str, Any]:
    """Let all run in turns, the first rounds not counted; returns what each returned first."""
    firsts: dict[str, Any] = {}
    for _ in range(warm_up):
        for contestant in contestants:
            firsts.setdefault(contestant.name, contestant.run())
    for contestant in contestants:
        contestant.seconds.clear()
    for _ in range(repeats):
        for contestant in contestants:
            contestant.run()
    return firsts


def rows(contestants: Sequence[Contestant], gflop: Mapping[str, float]) -> list[dict[str, Any]]:
    """Median, spread and ratio to the first contestant; `gflop` is each one's work in its textbook form."""
    first = median(contestants[0].seconds)
    return [
        {
            "": contestant.name,
            "median s": round(median(contestant.seconds), 4),
            "min–max s": f"{min(contestant.seconds):.3f}–{max(contestant.seconds):.3f}",
            "times faster": round(first / median(contestant.seconds), 2),
            "peak MB": contestant.peak_mb,
            "GFLOP/s": round(gflop[contestant.name] / median(contestant.seconds)),
        }
        for contestant in contestants
    ]


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a Markdown table."""
    heads = list(dict.fromkeys(key for line in lines for key in line))
    body = [" | ".join(str(line.get(head, "")) for head in heads) for line in lines]
    return "\n".join(f"| {row} |" for row in [" | ".join(heads), " | ".join("---" for _ in heads), *body])


def machine(device: torch.device | None = None) -> dict[str, Any]:
    """What was measured on: with its GPU, but where it was another `device`."""
    on_gpu = torch.cuda.is_available() if device is None else device.type == "cuda"
    gpu = {"gpu": torch.cuda.get_device_name(device)} if on_gpu else {}
    return {
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        **gpu,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def peaks(device: str) -> dict[str, int]:
    """Measured GFLOP/s of a matrix product of 2048² and a 3×3 convolution of 256 channels, in both precisions."""
    found = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        matrix = torch.rand(2048, 2048).to(device, dtype)
        found[f"{name} matrix product"] = round(2 * 2048**3 / _best(torch.mm, matrix, matrix) / 1e9)
        image = torch.rand(4, 256, 64, 64).to(device, dtype).contiguous(memory_format=torch.channels_last)
        kernel = torch.rand(256, 256, 3, 3).to(device, dtype).contiguous(memory_format=torch.channels_last)
        seconds = _best(torch.conv2d, image, kernel, None, 1, 1)
        found[f"{name} convolution"] = round(2 * 9 * 256**2 * 64**2 * 4 / seconds / 1e9)
    return found


def _best(function: Callable[..., Any], *arguments: Any) -> float:
    seconds = []
    with torch.inference_mode():
        for _ in range(8):
            start = perf_counter()
            result = function(*arguments)
            if result.is_cuda:  # which is asked, and goes on
                torch.cuda.synchronize()
            seconds.append(perf_counter() - start)
    return min(seconds)


def save(folder: Path, name: str, result: Mapping[str, Any]) -> Path:
    """Write a result as JSON."""
    path = folder / f"{name}.json"
    write_text(path, json.dumps({"machine": machine(), **result}, indent=1, ensure_ascii=False) + "\n")
    return path
