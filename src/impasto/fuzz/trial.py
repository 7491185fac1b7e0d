"""One input through the real code, in a process of its own, and what is to be said of it."""

import json
import logging
import os
import resource
import shutil
import signal
import struct
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

import torch

from impasto.batch import run
from impasto.checkpoint import save_network
from impasto.errors import UserError
from impasto.export import load_any
from impasto.folder import REPORT
from impasto.fuzz import bases
from impasto.fuzz.mutations import mutated, odd_record
from impasto.image import read_image
from impasto.job import Job
from impasto.models.transformer_net import TransformerNet
from impasto.picture_files import image_errors, open_image, read_picture

FOUND = "found"  # the folder, in a worker's own, of inputs that are findings, each named by its number
MEGAPIXELS = 0.25
LONGEST = 1500  # characters of a line that refuses: a name can be long
SPARE = 2 << 30  # bytes of address space: what asks for more gets a MemoryError
CHECKPOINTS = frozenset({".safetensors", ".ckpt", ".pth", ".onnx", ".pt2"})
SUFFIXES = (None, None, None, ".png", ".jpg", ".webp", ".tif", ".gif", ".bmp")


@dataclass(frozen=True)
class Limits:
    """What one input may take: processor time, s, and memory, MiB."""

    seconds: int = 20
    megabytes: int = 300


@dataclass(frozen=True)
class Outcome:
    """`verdict` is read, refused, or the kind of a finding; `detail` is the line, or how it came about."""

    index: int
    name: str
    verdict: str
    detail: str = ""

    @property
    def sound(self) -> bool:
        """Whether all is as it should be."""
        return self.verdict in ("read", "refused")


def prepare(folder: Path) -> None:
    """Write the sound images to a folder, for the workers."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in bases.images().items():
        (folder / name).write_bytes(content)


def generated(sound: dict[str, bytes], seed: int, index: int) -> tuple[str, bytes]:
    """Name and content of an input: always the same for a seed and an index, but for the addresses in old.pth."""
    random = Random(f"{seed}/{index}")
    names = sorted(sound)
    if random.random() < 0.8:
        name = random.choice(names)
        family = [other for other in names if Path(other).suffix == Path(name).suffix]
        return name, mutated(sound[name], sound[random.choice(family)], random)
    name, record, damaged = random.choice(bases.CHECKPOINTS), bases.record(), random.random() < 0.5
    content = bases.checkpoint(name, record if damaged else odd_record(record, random))
    if name.endswith(".safetensors") and random.random() < 0.3:
        content = _odd_tensors(content, random)
    return name, mutated(content, bases.checkpoint(name, record), random) if damaged else content


def _odd_tensors(content: bytes, random: Random) -> bytes:
    """Other types, shapes and places in a safetensors file's own header."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    return bases.with_header(content, json.dumps(odd_record(header, random)).encode())


def work(connection: Connection, indices: Sequence[int], seed: int, place: Path, sound: Path, limits: Limits) -> None:
    """Try inputs in a folder of one's own; before each, an `Outcome` says that it has begun, and then what came of it.

    A signal ends the process where an input takes too much processor time.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the watch ends its workers
    torch.set_num_threads(1)
    logging.getLogger("impasto").setLevel(logging.ERROR)
    files = {path.name: path.read_bytes() for path in sound.iterdir()}
    room = place / "room"
    shutil.rmtree(room, ignore_errors=True)  # of a worker that ended
    (place / FOUND).mkdir(parents=True, exist_ok=True)
    (room / "in").mkdir(parents=True)
    save_network(room / "net.safetensors", TransformerNet(bases.WIDTH, bases.DEPTH), {"style": {"name": "fuzz"}})
    (room / "photo.png").write_bytes(files["rgb.png"])
    noise = os.open(place / "noise", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    os.dup2(noise, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # where a folder's progress goes
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + SPARE, resource.RLIM_INFINITY))
    watch = os.getppid()
    for index in indices:
        if os.getppid() != watch:  # which was killed
            return
        name, content = generated(files, seed, index)
        path = room / "in" / name
        path.write_bytes(content)
        connection.send(Outcome(index, name, "begun"))
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        resource.setrlimit(resource.RLIMIT_CPU, (int(used) + limits.seconds + 1, resource.RLIM_INFINITY))
        outcome = judge(index, room, path, limits.megabytes)
        resource.setrlimit(resource.RLIMIT_CPU, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        if outcome.sound:
            path.unlink()
        else:
            for file in _strays(place, room) - {path}:
                file.unlink()
            path.replace(place / FOUND / str(index))
        shutil.rmtree(room / "out", ignore_errors=True)
        connection.send(outcome)


def judge(index: int, room: Path, path: Path, megabytes: int) -> Outcome:
    """Try the input at `path`, in a folder with a photo and a network, and look at everything that came of it."""
    said = partial(Outcome, index, path.name)
    peak, quiet = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, os.fstat(2).st_size
    random = Random(index)
    line, written = "", []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", append=True)
        try:
            attempt = _paint_with if path.suffix in CHECKPOINTS else _paint
            written = attempt(room, path, random)
        except UserError as error:
            line = str(error)
        except Exception as error:
            frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/impasto/" in frame.filename]
            return said(f"{type(error).__name__} in {frames[-1].name}", traceback.format_exc()[-4000:])
    if warned:
        return said(f"{warned[0].category.__name__} shown", str(warned[0]))
    if os.fstat(2).st_size > quiet:
        return said("text on stderr", os.pread(2, 4000, quiet).decode(errors="replace"))
    if len(line.splitlines()) > 1 or len(line) > LONGEST:
        return said("more than one line", line[:4000])
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) >> 10  # MiB, on Linux
    if grown > megabytes:
        return said("memory", f"{grown} MiB more")
    if strays := _strays(room.parent, room) - {path, *written}:
        return said("stray file", ", ".join(map(str, strays)))
    for file in written:
        file.unlink()
    return said("refused" if line else "read", line)


def _strays(place: Path, room: Path) -> set[Path]:
    """Files that were not there before an input."""
    known = {place / "noise", room / "net.safetensors", room / "photo.png", room / "out" / REPORT}
    return {file for file in place.rglob("*") if not file.is_dir() and file.parent != place / FOUND} - known


def _paint(room: Path, path: Path, random: Random) -> list[Path]:
    """Stylized alone or as a folder, and read as for training; what was written must be a picture."""
    job = Job(suffix=random.choice(SUFFIXES), megapixels=MEGAPIXELS, device="cpu", precision="float32")
    with suppress(UserError), image_errors(path):  # Pillow may refuse what libvips reads
        open_image(path, MEGAPIXELS).close()  # as the next cannot be told of a limit
        read_image(path, 16)
    source = str(path.parent if random.random() < 0.15 else path)
    run(job, [room / "net.safetensors"], source, f"{room / 'out'}/")
    (written,) = (file for file in (room / "out").iterdir() if file.name != REPORT)
    try:
        read_picture(written)
    except UserError as error:
        raise RuntimeError("what was written is no picture") from error
    return [written]


def _paint_with(room: Path, path: Path, _: Random) -> list[Path]:
    """Loaded, and a photo stylized with it, into the photo's folder."""
    if path.suffix == ".ckpt":
        load_any(path)
        return []
    run(Job(device="cpu"), [path], str(room / "photo.png"), None)
    return list(room.glob("photo_*.png"))
