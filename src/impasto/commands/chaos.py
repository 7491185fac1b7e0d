"""`python scripts/chaos.py`: a run killed at random moments ends with the bits of one that was not."""

import atexit
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from impasto import cli
from impasto.errors import UserError

log = logging.getLogger("impasto")

MEASURED = ("train/images_per_second", "train/loader_wait", "machine/hours", "machine/disk_free_gb")

USAGE = """
Train a tiny network once without a break, then again while it is killed at random moments and goes on with
resume=true. Its curves and weights must be the same to the bit. For developers, on Linux.

  python scripts/chaos.py
  python scripts/chaos.py kills=4 faults=SIGKILL,SIGTERM images=100

  kills=50      a run that ends before is compared, and the next one begun
  faults=LIST   of SIGKILL, SIGTERM, SIGINT, SIGUSR1, SIGHUP, torn (killed, and its newest checkpoint damaged) and disk
                (no room for files for a second, then killed); default: all
  images=600    of a run
  seed=0
  output=DIR    runs, which are replaced; default: runs/chaos

The exit status is 0 if nothing differs.
"""

FAULTS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP", "torn", "disk")
TINY = "style=starry_night init=random data=bundled data.pack=false data.image_size=32 data.batch_size=2 schedule=quick"
TINY += " trainer=cpu trainer.precision=32-true trainer.log_every=1 model.width=4 model.depth=1 loss.relative=false"
TINY += " stroke=64 checkpoint.every=16 validation.every=24"
GRACE = 60.0  # s until a process that was asked to stop counts as hung


@dataclass
class ChaosOptions:
    """Options of the command line, as in `USAGE`."""

    kills: int = 50
    faults: str = ",".join(FAULTS)
    images: int = 600
    seed: int = 0
    output: str = "runs/chaos"


@dataclass
class Tally:
    """What one kind of fault has led to."""

    kills: int = 0
    images_lost: list[int] = field(default_factory=list)  # logged, but to be done again
    seconds: list[float] = field(default_factory=list)  # from the signal to the end


@dataclass(frozen=True)
class Run:
    """A run of train.py in `folder`."""

    root: Path
    folder: Path
    images: int

    def start(self) -> "subprocess.Popen[str]":
        """Start it, or go on with it, in a session of its own."""
        words = [*TINY.split(), f"schedule.images={self.images}", f"hydra.run.dir={self.folder}", "resume=true"]
        command = [sys.executable, str(self.root / "train.py"), *words]
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with Path(f"{self.folder}.log").open("a") as output:  # on the same disk
            process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
                env={**os.environ, "PYTHONFAULTHANDLER": "1"},
            )
        atexit.register(process.kill)  # where it is we who are interrupted
        return process

    def files(self) -> set[Path]:
        """TensorBoard's files: a new one says that a process has begun to train."""
        return set(self.folder.glob("events.out.tfevents.*"))

    def curves(self) -> dict[str, list[tuple[int, Any]]]:
        """Every curve and picture but what clock and disk say, as TensorBoard reads them: images seen and value."""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        if not self.folder.is_dir():  # killed before it was made
            return {}
        events = EventAccumulator(str(self.folder), size_guidance={"scalars": 0, "images": 0})
        events.Reload()
        tags = events.Tags()
        scalars = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags["scalars"]}
        images = {tag: [(e.step, e.encoded_image_string) for e in events.Images(tag)] for tag in tags["images"]}
        return {tag: points for tag, points in (scalars | images).items() if tag not in MEASURED}

    @property
    def network(self) -> Path:
        """The inference file, which says that the run is done."""
        return self.folder / "starry_night.safetensors"


def chaos(root: Path, words: list[str]) -> None:
    """Torment runs as the words say. Raises `UserError` where one ends otherwise than one left alone."""
    options = cli.parse(words, ChaosOptions)
    faults = options.faults.split(",")
    if unknown := [fault for fault in faults if fault not in FAULTS]:
        raise UserError(f"faults={unknown[0]} is unknown; known: {', '.join(FAULTS)}")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns of every kill
    dice = random.Random(options.seed)
    whole, startup = _uninterrupted(Run(root, Path(options.output, "whole"), options.images))
    tallies = {fault: Tally() for fault in faults}
    for number in count(1):
        run = Run(root, Path(options.output, f"killed_{number}"), options.images)
        shutil.rmtree(run.folder, ignore_errors=True)
        while sum(tally.kills for tally in tallies.values()) < options.kills:
            fault = min(faults, key=lambda fault: (tallies[fault].kills, dice.random()))
            if not _kill(run, fault, tallies[fault], startup, dice):
                break
        _finish(run.start())
        _compare(whole, run)
        kills = sum(tally.kills for tally in tallies.values())
        log.info("Run %d ended with the same weights and curves, after %d kills in all", number, kills)
        if kills >= options.kills:
            break
    log.info("%-8s %5s %28s %15s", "fault", "kills", "images lost, median and most", "seconds to stop")
    for fault, tally in tallies.items():
        lost = sorted(tally.images_lost)
        log.info(
            "%-8s %5d %19d %8d %15s",
            fault,
            tally.kills,
            lost[len(lost) // 2] if lost else 0,
            max(lost, default=0),
            f"{max(tally.seconds):.1f} at most" if tally.seconds else "",
        )


def _uninterrupted(run: Run) -> tuple[Run, float]:
    """A run left alone, and its seconds until it trains."""
    shutil.rmtree(run.folder, ignore_errors=True)
    begun, process = time.monotonic(), run.start()
    _wait_for_training(run, process, set())
    startup = time.monotonic() - begun
    _finish(process)
    return run, startup


def _kill(run: Run, fault: str, tally: Tally, startup: float, dice: random.Random) -> bool:
    """Start the run and end it by a fault, mostly while it trains; False where it was done before."""
    from impasto.resume import checkpoints

    before, process = run.files(), run.start()
    early = fault.startswith("SIG") and dice.random() < 0.2
    if early:
        time.sleep(dice.uniform(0, startup))
    else:
        _wait_for_training(run, process, before)
        time.sleep(dice.uniform(0, 1.5))
    if fault == "disk":
        _fill_disk(process, dice)
    if process.poll() is not None:
        _finish(process, of_full_disk=fault == "disk")
        return False
    asked = time.monotonic()
    number = signal.SIGKILL if fault in ("torn", "disk") else signal.Signals[fault]
    if number == signal.SIGTERM:
        process.terminate()  # as a scheduler does; a terminal's Ctrl-C and the kernel reach the workers, too
    else:
        os.killpg(process.pid, number)
    error = _end(process, fault)
    if run.network.exists():
        return False  # it had just ended
    if number != signal.SIGKILL:
        tally.seconds.append(time.monotonic() - asked)
        expected = {128 + number, *([-number] if early else [])}  # before Python has its handlers
        if process.returncode not in expected:
            raise UserError(f"{fault}: exit status {process.returncode}, not {128 + number}: {error[-500:]!r}")
        if not early and checkpoints(run.folder) and "go on with resume=" not in error:
            raise UserError(f"{fault}: nothing says how to go on, but {error[-500:]!r}")
    if "Traceback" in error and not early:
        raise UserError(f"{fault}: {error[-1000:]!r}")
    tally.kills += 1
    if fault == "torn":
        _damage(run, dice)
    _note_loss(run, tally)
    return True


def _fill_disk(process: "subprocess.Popen[str]", dice: random.Random) -> None:
    """Let no file of the process grow beyond 4 KiB for a second, as on a disk that is full for a while."""
    import resource  # not on Windows

    if process.poll() is not None:
        return
    _, most = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4096, most))
    time.sleep(1)
    if process.poll() is None:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, most))
        time.sleep(dice.uniform(0, 1))


def _damage(run: Run, dice: random.Random) -> None:
    """What a power cut leaves: half a checkpoint, or one with zeros in it, and half an event."""
    from impasto.resume import checkpoints

    for path in checkpoints(run.folder)[:1]:
        content = bytearray(path.read_bytes())
        place = dice.randrange(len(content))
        if dice.random() < 0.5:
            del content[place:]
        else:
            content[place : place + 4096] = bytes(len(content[place : place + 4096]))
        path.write_bytes(content)
    for path in sorted(run.files())[-1:]:
        path.write_bytes(path.read_bytes() + dice.randbytes(dice.randrange(1, 100)))


def _note_loss(run: Run, tally: Tally) -> None:
    from impasto.checkpoint import load_training_checkpoint
    from impasto.resume import checkpoints

    logged = max((step for step, _ in run.curves().get("train/total", [])), default=0)
    saved = 0
    for path in checkpoints(run.folder):
        with suppress(UserError):
            saved = max(saved, load_training_checkpoint(path)["images_seen"])
    tally.images_lost.append(logged - saved)


def _wait_for_training(run: Run, process: "subprocess.Popen[str]", before: set[Path]) -> None:
    while process.poll() is None and not run.files() - before:
        time.sleep(0.01)


def _finish(process: "subprocess.Popen[str]", of_full_disk: bool = False) -> None:
    """Wait for a run's own end. Raises `UserError` where that is another than it should be."""
    error = process.communicate()[1]
    if process.returncode and not (of_full_disk and process.returncode == 1 and "error: cannot write" in error):
        raise UserError(f"a run ended with status {process.returncode}: {error[-1000:]!r}")


def _end(process: "subprocess.Popen[str]", fault: str) -> str:
    """What a process that was asked to stop says on stderr. Raises `UserError` with its stacks where it hangs."""
    try:
        return process.communicate(timeout=GRACE)[1]
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # of which Python's fault handler tells
    try:
        stacks = process.communicate(timeout=GRACE)[1]
    except subprocess.TimeoutExpired:
        stacks = "it has ended, but not all that it started"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    raise UserError(f"{fault}: a run has not stopped for {GRACE:.0f} s:\n{stacks}")


def _compare(whole: Run, killed: Run) -> None:
    expected, found = whole.curves(), killed.curves()
    if differing := [tag for tag in sorted(expected | found) if expected.get(tag) != found.get(tag)]:
        raise UserError(f"{_first_difference(differing[0], expected, found)}; {len(differing)} curves in all")
    if whole.network.read_bytes() != killed.network.read_bytes():
        raise UserError(f"the weights in {killed.folder} are others than those in {whole.folder}")


def _first_difference(tag: str, expected: dict[str, Any], found: dict[str, Any]) -> str:
    steps: Sequence[Sequence[int]] = [[step for step, _ in of.get(tag, [])] for of in (expected, found)]
    if steps[0] == steps[1]:
        return f"{tag} has other values"
    return f"{tag} is at {steps[1]} images, not {steps[0]}"


def main(root: Path) -> None:
    """Run `chaos` on the command line, with train.py in `root`."""
    cli.run(lambda words: chaos(root, words), USAGE)
