"""Workers that try inputs, and a watch over them: a crash or a hang is told of the input that caused it."""

import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path

from impasto.fuzz.trial import Limits, Outcome, prepare, work

PATIENCE = 60  # times the allowed processor time that may pass on the clock: the machine may be busy


def hunt(first: int, count: int, seed: int, output: Path, workers: int, limits: Limits) -> Counter[tuple[str, str]]:
    """Try `count` inputs from number `first` on: how often there was each verdict, by suffix.

    Inputs that are findings are kept in `output`, each with a text that says how it came about.
    """
    # forked from a process that has imported everything and done nothing: a new worker costs no time
    context = get_context("forkserver")
    context.set_forkserver_preload(["impasto.fuzz.trial"])
    verdicts: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(workers) as pool:
        sound = Path(folder, "sound")
        maker = context.Process(target=prepare, args=(sound,))
        maker.start()
        maker.join()
        if maker.exitcode:
            raise RuntimeError("the sound files could not be made")
        output.mkdir(parents=True, exist_ok=True)

        def watch(number: int) -> None:
            place = Path(folder, str(number))
            for outcome in outcomes(context, range(first + number, first + count, workers), seed, place, sound, limits):
                verdicts[Path(outcome.name).suffix, outcome.verdict] += 1
                if not outcome.sound:
                    name = f"{seed}-{outcome.index}-{outcome.name}"
                    (place / "finding").replace(output / name)
                    (output / f"{name}.txt").write_text(f"{outcome.verdict}\n{outcome.detail}\n")

        for _ in pool.map(watch, range(workers)):
            pass
    return verdicts


def outcomes(
    context: ForkServerContext, indices: range, seed: int, place: Path, sound: Path, limits: Limits
) -> Iterator[Outcome]:
    """What came of each input, by one worker and another after each that ends; a finding's file is at `finding`."""
    while indices:
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(there, indices, seed, place, sound, limits))
        process.start()
        there.close()
        begun: Outcome | None = None  # what would be said if the process ended now
        try:
            while True:
                if not here.poll(limits.seconds * PATIENCE):
                    process.kill()
                message: Outcome = here.recv()
                if message.verdict == "begun":
                    begun = message
                else:
                    begun, indices = None, indices[1:]
                    yield message
        except EOFError:
            process.join()
        if begun is not None:
            code = -(process.exitcode or 0)
            how = {signal.SIGXCPU: "too slow", signal.SIGKILL: "hangs"}.get(code, "crash")
            (place / "room" / "in" / begun.name).replace(place / "finding")
            indices = indices[1:]
            yield Outcome(begun.index, begun.name, how, f"exit status {process.exitcode}")
        elif process.exitcode:
            raise RuntimeError(f"a worker ended with status {process.exitcode} between two inputs")
