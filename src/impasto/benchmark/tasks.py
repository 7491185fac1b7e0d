"""The benchmark's tables: each task runs its contestants, prints what it found and returns it as plain data."""

import logging
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from impasto.assets import PHOTOS
from impasto.benchmark.contestants import (
    AUGMENTATION,
    best_device,
    command,
    learner,
    photos,
    stylize_pass,
    textbook_gflop,
    train_step,
)
from impasto.benchmark.measure import Contestant, alternate, peaks, rows, table
from impasto.checkpoint import save_network
from impasto.data.content import ContentDataModule
from impasto.data.photos import PositionBatches, TrainingPhotos
from impasto.errors import UserError
from impasto.export import export_compiled, export_onnx
from impasto.hardware import bfloat16_is_fast, compiler
from impasto.image import read_image, save_image
from impasto.models.transformer_net import TransformerNet

log = logging.getLogger("impasto")

AGREEMENT = {"float32": 1e-3, "bfloat16": 3e-2}  # largest relative difference of the first losses


@dataclass
class Options:
    """What a task may be told; sizes in px."""

    output: str = "benchmark"
    repeats: int = 5
    image_size: int | None = None
    batch_size: int = 4
    width: int = 32
    images: int = 4000
    compiled: bool = True
    stylize: str = "stylize.py"


def train(options: Options) -> dict[str, Any]:
    """A training step of each, on the same crops from the same weights."""
    size, batch = options.image_size or 256, options.batch_size
    shape: dict[str, Any] = {"image_size": size, "batch_size": batch, "width": options.width}
    with ExitStack() as stack:
        contestants = [
            _contestant(stack, "reference", train_step, reference=True, keep=False, **shape),
            _contestant(stack, "impasto", train_step, reference=False, **shape),
            _contestant(stack, "impasto, float32", train_step, reference=False, precision="float32", **shape),
            _contestant(stack, "impasto, memory not kept", train_step, reference=False, keep=False, **shape),
            _contestant(stack, "reference, memory kept", train_step, reference=True, **shape),
        ]
        if options.compiled:
            compiled = _contestant(stack, "impasto, compiled", train_step, reference=False, compiled=True, **shape)
            contestants.append(compiled)
        losses = alternate(contestants, options.repeats)
    for name, loss in losses.items():
        exact = "float32" in name or "reference" in name or not bfloat16_is_fast(best_device())
        _check_agreement(name, loss / losses["reference"] - 1, AGREEMENT["float32" if exact else "bfloat16"])
    gflop = batch * textbook_gflop(size, options.width)
    lines = rows(contestants, dict.fromkeys(losses, gflop))
    _say(f"A training step of {batch} images of {size}², {gflop:.0f} GFLOP in the textbook's form:", lines)
    return {"what": {**shape, "gflop": gflop}, "rows": lines, "losses": losses, "peaks": _peaks()}


def stylize(options: Options) -> dict[str, Any]:
    """An image of each size, through the network alone."""
    result: dict[str, Any] = {"peaks": _peaks()}
    with tempfile.TemporaryDirectory() as folder:
        files = _exports(Path(folder), options)
        for size in [options.image_size] if options.image_size else [512, 1024]:
            with ExitStack() as stack:
                contestants = [
                    _contestant(stack, "reference", stylize_pass, kind="reference", keep=False, size=size),
                    _contestant(stack, "impasto", stylize_pass, kind="auto", size=size),
                    _contestant(stack, "impasto, float32", stylize_pass, kind="float32", size=size),
                    _contestant(stack, "reference, memory kept", stylize_pass, kind="reference", size=size),
                    *(
                        _contestant(stack, f"impasto, {name}", stylize_pass, kind="file", file=str(file), size=size)
                        for name, file in files.items()
                    ),
                    _contestant(stack, "impasto, slim", stylize_pass, kind="auto", width=16, size=size),
                ]
                pictures = alternate(contestants, options.repeats)
            for name, picture in pictures.items():
                if "slim" not in name:  # another network
                    difference = float(np.abs(picture - pictures["reference"]).mean())
                    _check_agreement(name, difference, 1e-4 if "32" in name or "onnx" in name else 0.01)
            gflop = {name: textbook_gflop(size, 16 if "slim" in name else 32, training=False) for name in pictures}
            lines = rows(contestants, gflop)
            _say(f"An image of {size}², {gflop['reference']:.0f} GFLOP in the textbook's form:", lines)
            result[f"{size}"] = lines
    return result


def startup(options: Options) -> dict[str, Any]:
    """Whole processes: python stylize.py, from its start to the picture on the disk, and where the time goes."""
    if not Path(options.stylize).is_file():
        raise UserError(f"there is no {options.stylize!r}: run this in the repository, or stylize=PATH")
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        network, slim = folder / "net.safetensors", folder / "slim.onnx"
        save_network(network, TransformerNet(), {})
        export_onnx(TransformerNet(16), {}, slim)
        export_onnx(TransformerNet(), {}, folder / "net.onnx")
        for size in (512, 1024):
            image = read_image(PHOTOS / "picos_de_europa.jpg").resize((size, size))
            save_image(image, folder / f"{size}.png")

        def started(label: str, file: Path, size: int) -> Contestant:
            target = folder / f"{label}.png"
            words = [options.stylize, f"ckpt={file}", f"input={folder}/{size}.png", f"output={target}"]
            return _contestant(stack, label, command, words=words, file=str(target))

        processes = [
            started("safetensors, 512²", network, 512),
            started("safetensors, 1024²", network, 1024),
            started("onnx, 512²", folder / "net.onnx", 512),
            started("onnx, 1024²", folder / "net.onnx", 1024),
            started("slim onnx, 1024²", slim, 1024),
        ]
        alternate(processes, options.repeats, warm_up=1)
        parts = [
            _parts(stack, "safetensors, 512²", network, folder / "512.png", options.repeats),
            _parts(stack, "slim onnx, 1024²", slim, folder / "1024.png", options.repeats),
        ]
    lines = [
        {
            "process": process.name,
            "median s": round(median(process.seconds), 2),
            "min–max s": f"{min(process.seconds):.2f}–{max(process.seconds):.2f}",
        }
        for process in processes
    ]
    _say("python stylize.py, from the process's start to the PNG on the disk:", lines)
    _say("Where the time goes, s:", parts)
    return {"rows": lines, "parts": parts}


PARTS = """
import time; marks = [time.time()]
import sys; from pathlib import Path
from impasto.memory import keep_freed_memory; keep_freed_memory()
import impasto.stylizer, impasto.image; marks.append(time.time())
if sys.argv[1].endswith(".safetensors"): import impasto.engines.eager
else: import onnxruntime
marks.append(time.time())
engine = impasto.engines.load_engine(Path(sys.argv[1])); marks.append(time.time())
array = impasto.image.to_array(impasto.image.read_image(sys.argv[2])); marks.append(time.time())
stylized = engine(array); marks.append(time.time())
impasto.image.save_image(impasto.image.to_image(stylized), sys.argv[3]); marks.append(time.time())
Path(sys.argv[4]).write_text(" ".join(map(str, marks)))
"""


def _parts(stack: ExitStack, label: str, file: Path, image: Path, repeats: int) -> dict[str, Any]:
    """Median seconds of each part of a process that does what stylize.py does."""
    marks, target = file.parent / "marks.txt", file.parent / "parts.png"
    process = _contestant(
        stack, label, command, words=["-c", PARTS, *map(str, (file, image, target, marks))], file=str(marks)
    )
    names = ("imports", "torch or ONNX Runtime", "load", "read", "network", "write")
    spans = []
    for _ in range(repeats + 1):
        process.run()
        times = [float(mark) for mark in marks.read_text().split()]
        inner = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
        spans.append([*inner, process.seconds[-1] - sum(inner)])
    medians = np.median(np.array(spans[1:]), axis=0)
    return {"": label, **{name: round(float(s), 2) for name, s in zip((*names, "start and end"), medians, strict=True)}}


def loader(options: Options) -> dict[str, Any]:
    """Images per second of one loading process, from files and from a pack, against what training consumes."""
    lines = []
    with tempfile.TemporaryDirectory() as name:
        many = _many_photos(Path(name) / "photos", 200)
        for size in [options.image_size] if options.image_size else [128, 160, 256]:
            with ExitStack() as stack:
                learning = _contestant(
                    stack, "training", train_step, reference=False, image_size=size, batch_size=options.batch_size
                )
                alternate([learning], options.repeats)
            consumed = options.batch_size / median(learning.seconds)
            sources = {
                "photos that ship": lambda size=size: photos(size, options.batch_size, 4000, workers=1),
                "a folder's JPEGs": lambda size=size: _folder(many, size, options, pack=False),
                "its pack": lambda size=size: _folder(many, size, options, pack=True),
            }
            for source, batches in sources.items():
                rate = _images_per_second(batches)
                lines.append(
                    {
                        "size": f"{size}²",
                        "from": source,
                        "images/s, one process": round(rate),
                        "training takes": round(consumed, 1),
                        "times": round(rate / consumed, 1),
                    }
                )
    _say("Loading, augmentation included, with no training beside it:", lines)
    return {"rows": lines}


def _many_photos(folder: Path, count: int) -> Path:
    """JPEGs of 640×480, like COCO's: crops of the photos that ship."""
    folder.mkdir()
    sources = [read_image(path) for path in sorted(PHOTOS.glob("*.jpg"))]
    generator = np.random.default_rng(0)
    for number in range(count):
        image = sources[number % len(sources)]
        left, top = (
            int(generator.integers(0, max(1, side - need))) for side, need in zip(image.size, (640, 480), strict=True)
        )
        save_image(image.crop((left, top, left + 640, top + 480)), folder / f"{number}.jpg")
    return folder


def _folder(root: Path, size: int, options: Options, *, pack: bool) -> Any:
    data = ContentDataModule(
        "benchmark",
        root,
        validation=1,
        pack=pack,
        packs=root.parent / "packs",
        trusted=True,
        image_size=size,
        min_scale=0.25,
        colour=AUGMENTATION["colour"],
        patches=AUGMENTATION["patches"],
    )
    dataset = TrainingPhotos(data.photos(), size, 0, **data.augmentation)
    batches = PositionBatches(0, 4000, options.batch_size)
    return iter(DataLoader(dataset, batch_sampler=batches, num_workers=1))


def _images_per_second(batches: Callable[[], Any], seconds: float = 4.0) -> float:
    stream = batches()
    for _ in range(10):
        next(stream)
    start, images = perf_counter(), 0
    while perf_counter() - start < seconds and (batch := next(stream, None)) is not None:
        images += len(batch)
    return images / (perf_counter() - start)


REFERENCE = {"batch_size": 4, "schedule": {"learning_rate": 1e-3}}
OURS = {"batch_size": 2, "schedule": {"learning_rate": 1e-3, "warmup": 100, "final": 0.02}}
START = "great_wave.safetensors"  # of another painting, as init=auto takes it
SHARES = {"impasto": 0.33, "impasto, random start": 0.6}  # of the reference's images: the lengths of our schedules


def quality(options: Options) -> dict[str, Any]:
    """Seconds of training until the validation loss that the reference ends with; validation is not counted."""
    size, checks = options.image_size or 128, max(1, min(20, options.images // 40))
    lengths = {"reference": options.images, **{name: round(share * options.images) for name, share in SHARES.items()}}
    plans: dict[str, dict[str, Any]] = {
        "reference": {"keep": False, "reference": True, **REFERENCE},
        "impasto": {"reference": False, "start": START, **OURS},
        "impasto, random start": {"reference": False, **OURS},
    }
    with ExitStack() as stack:
        learners = {
            name: _contestant(stack, name, learner, image_size=size, images=lengths[name], **plan)
            for name, plan in plans.items()
        }
        curves: dict[str, list[dict[str, float]]] = {name: [] for name in learners}
        for check in range(checks + 1):  # in turns, so that noise hits all alike
            for name, contestant in learners.items():
                if check:
                    contestant.run(count=-(-lengths[name] // checks))
                seconds = sum(contestant.seconds)
                point = {"seconds": seconds, **contestant.run(validate=True)}
                contestant.seconds.pop()  # validation's
                curves[name].append(point)
                log.info("%s: %d images, %.0f s, loss %.4g", name, point["images"], seconds, point["loss"])
    target, lines = curves["reference"][-1], []
    for name, curve in curves.items():
        last = curve[-1]
        reached = next((point for point in curve if point["loss"] <= target["loss"]), None)
        lines.append(
            {
                "": name,
                "images": reached["images"] if reached else "not reached",
                "seconds": round(reached["seconds"]) if reached else "",
                "times faster": round(target["seconds"] / reached["seconds"], 2) if reached else "",
                "at its end": f"{last['images']} images, {last['seconds']:.0f} s, loss {last['loss']:.4g}",
            }
        )
    _say(f"Training at {size}² until the validation loss of the reference after {options.images} images:", lines)
    return {"curves": curves, "rows": lines}


def scaling(options: Options) -> dict[str, Any]:
    """Time and memory against image size and batch size, with a plot: straight lines mean no surprises."""
    sweeps: dict[str, list[tuple[int, Any, dict[str, Any]]]] = {
        "training, image size": [
            (2 * size**2, train_step, {"reference": False, "image_size": size, "batch_size": 2})
            for size in (128, 192, 256, 320)
        ],
        "training, batch size": [
            (batch * 128**2, train_step, {"reference": False, "image_size": 128, "batch_size": batch})
            for batch in (1, 2, 4, 8)
        ],
        "stylizing, image size": [
            (size**2, stylize_pass, {"kind": "auto", "size": size}) for size in (256, 512, 1024, 1536, 2048)
        ],
    }
    points = []
    for what, settings in sweeps.items():
        for pixels, build, arguments in settings:
            with ExitStack() as stack:  # each in a fresh process, for its peak memory
                contestant = _contestant(stack, what, build, **arguments)
                alternate([contestant], options.repeats)
                seconds = round(median(contestant.seconds), 3)
            points.append(
                {"what": what, "megapixels": round(pixels / 1e6, 3), "seconds": seconds, "MB": contestant.peak_mb}
            )
    _say("Time and memory against pixels:", points)
    return {"rows": points, "growth": _growth(points)}


def _growth(points: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Exponent b of seconds = a * pixels^b, fitted: 1 is linear."""
    found = {}
    for what in dict.fromkeys(point["what"] for point in points):
        x, y = (np.log([point[key] for point in points if point["what"] == what]) for key in ("megapixels", "seconds"))
        found[what] = round(float(np.polyfit(x, y, 1)[0]), 2)
        log.info("%s: time grows with pixels to the power of %s", what, found[what])
    return found


TASKS: dict[str, Callable[[Options], dict[str, Any]]] = {
    "train": train,
    "stylize": stylize,
    "startup": startup,
    "loader": loader,
    "quality": quality,
    "scaling": scaling,
}


def _contestant(stack: ExitStack, name: str, build: Callable[..., Any], **arguments: Any) -> Contestant:
    contestant = Contestant(name, build, **arguments)
    stack.callback(contestant.close)
    return contestant


def _exports(folder: Path, options: Options) -> dict[str, Path]:
    """The reference's network, exported."""
    torch.manual_seed(0)
    net, files = TransformerNet().eval(), {"onnx": folder / "net.onnx"}
    export_onnx(net, {}, files["onnx"])
    if options.compiled and compiler()[1]:
        files["pt2"] = folder / "net.pt2"
        export_compiled(net, {}, files["pt2"])
    return files


def _check_agreement(name: str, difference: float, tolerance: float) -> None:
    if not abs(difference) <= tolerance:
        raise UserError(f"{name} does not compute what the reference does: it differs by {difference:.2g}")


def _peaks() -> dict[str, int]:
    found = peaks()
    log.info("This machine's peaks, GFLOP/s: %s", ", ".join(f"{name} {value}" for name, value in found.items()))
    return found


def _say(title: str, lines: Sequence[dict[str, Any]]) -> None:
    log.info("\n%s\n\n%s\n", title, table(lines))
