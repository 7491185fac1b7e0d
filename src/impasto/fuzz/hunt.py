"""Workers that try inputs, and a watch over them: a crash or a hang is told of the input that caused it."""

import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from threading import Event

from impasto.fuzz.trial import FOUND, Limits, Outcome, prepare, work

PATIENCE = 120  # times the allowed processor time that may pass on the clock: the machine may be busy

# a worker is there at once, as all is imported here, and nothing done that a fork would break
CONTEXT = get_context("fork")


def hunt(first: int, count: int, seed: int, output: Path, workers: int, limits: Limits) -> Counter[tuple[str, str]]:
    """Try `count` inputs from number `first` on, or until Ctrl-C: how often there was each verdict, by suffix.

    Inputs that are findings are kept in `output`, each with a text that says how it came about.
    """
    stop, watched = Event(), [Counter[tuple[str, str]]() for _ in range(workers)]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(workers) as pool:
        sound = Path(folder, "sound")
        maker = CONTEXT.Process(target=prepare, args=(sound,))
        maker.start()
        maker.join()
        if maker.exitcode:
            raise RuntimeError("the sound files could not be made")
        output.mkdir(parents=True, exist_ok=True)

        def watch(number: int) -> None:
            place = Path(folder, str(number))
            for outcome in outcomes(range(first + number, first + count, workers), seed, place, sound, limits):
                watched[number][Path(outcome.name).suffix, outcome.verdict] += 1
                if not outcome.sound:
                    name = f"{seed}-{outcome.index}-{outcome.name}"
                    shutil.move(place / FOUND / str(outcome.index), output / name)  # perhaps to another disk
                    (output / f"{name}.txt").write_text(f"{outcome.verdict}\n{outcome.detail}\n")
                if stop.is_set():
                    return

        try:
            for _ in pool.map(watch, range(workers)):
                pass
        except KeyboardInterrupt:
            stop.set()
    return sum(watched, Counter())


def outcomes(indices: range, seed: int, place: Path, sound: Path, limits: Limits) -> Iterator[Outcome]:
    """What came of each input, by one worker and another after each that ends; a finding is in `FOUND`."""
    while indices:
        here, there = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=work, args=(there, indices, seed, place, sound, limits), daemon=True)
        process.start()
        begun: Outcome | None = None  # whose end has not been told of
        try:
            # the pipe's end tells nothing, as other workers may have inherited it
            while ready := wait([here, process.sentinel], limits.seconds * PATIENCE):
                if here not in ready:
                    break
                message: Outcome = here.recv()
                if message.verdict == "begun":
                    begun = message
                else:
                    begun, indices = None, indices[1:]
                    yield message
        finally:
            process.kill()
            process.join()
        if begun is not None:
            how = {-signal.SIGXCPU: "too slow", -signal.SIGKILL: "hangs"}.get(process.exitcode or 0, "crash")
            (place / "room" / "in" / begun.name).replace(place / FOUND / str(begun.index))
            indices = indices[1:]
            yield Outcome(begun.index, begun.name, how, f"exit status {process.exitcode}")
        elif indices:
            raise RuntimeError(f"a worker ended with status {process.exitcode} between two inputs")
