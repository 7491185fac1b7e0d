"""What this machine can do: versions, devices, space, data, weights, and how long training would take."""

import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import psutil
import torch
from packaging.requirements import Requirement
from rich.filesize import decimal

from impasto.assets import PAINTINGS, PHOTOS, STYLES
from impasto.checkpoint import load_network
from impasto.data.coco import prepared_coco
from impasto.engines.eager import EagerEngine
from impasto.errors import UserError, one_line
from impasto.files import nearest_existing
from impasto.guards.disk import free_space
from impasto.hardware import bfloat16_is_fast, compiler, processor
from impasto.image import find_images, read_image
from impasto.limits import cores
from impasto.machine import device_type, trains_in_bfloat16
from impasto.memory import free_memory
from impasto.models.vgg import TORCHVISION_URL, VGG19Features
from impasto.rehearsal import Rehearsal

PACKAGES = ("impasto", "torch", "torchvision", "pytorch-lightning")
MODULES = {"onnxruntime": "onnxruntime", "opencv-python-headless": "cv2"}  # of which there are several packages
ALEXNET = "alexnet-owt-7be5be79.pth"  # torchvision's, which LPIPS stands on


@dataclass(frozen=True)
class Finding:
    """One line of the page: what was looked at, what it is, and whether that is as it should be.

    `needed` for training: where such a part is not well, no training can run. `values` are for machines.
    """

    part: str
    said: str
    well: bool = True
    needed: bool = False
    values: Mapping[str, Any] = field(default_factory=dict)


Answer = tuple[str, dict[str, Any]]  # in words, and for machines


def diagnose(configs: Mapping[str, Mapping[str, Any]], seconds: float) -> Iterator[Finding]:
    """All findings, one after another. A part that is broken is said to be so, and the next one looked at.

    `configs` are train.py's, resolved, by the name of their schedule; about `seconds` go into measuring each of them
    and stylizing, 0 leaves both out.
    """
    for package in PACKAGES:
        yield _finding(package, partial(_version, package), needed=True)
    yield _finding(
        "system", lambda: (f"{platform.system()} {platform.release()}, Python {platform.python_version()}", {})
    )
    yield _finding("processor", _processor)
    yield _finding("memory", _memory)
    yield _finding("GPU", _gpus)
    yield _finding("bfloat16", _bfloat16)
    yield _finding("C++ compiler", _compiler)
    for folder in ("runs", "data"):
        yield _finding(f"disk at {folder}/", partial(_disk, Path(folder)), needed=folder == "runs")
    yield _finding("photos", partial(_readable, PHOTOS), needed=True)
    yield _finding("paintings", partial(_readable, PAINTINGS), needed=True)
    yield _finding("COCO", _coco)
    yield _finding("VGG19, Oxford", _oxford, needed=True)
    yield _finding("VGG19, torchvision", lambda: _downloaded(Path(TORCHVISION_URL).name, "vgg=torchvision"))
    yield _finding("LPIPS", lambda: _downloaded(ALEXNET, "LPIPS in scripts/evaluate.py"))
    for path in sorted(STYLES.glob("*.safetensors")):
        yield _finding(f"style {path.stem}", partial(_style, path))
    yield from _extras()
    if seconds > 0:
        for name, config in configs.items():
            yield _finding(f"schedule={name}", partial(_training_time, config, seconds), needed=True)
        yield _finding("stylizing", partial(_stylizing_time, seconds))


def _finding(part: str, look: Callable[[], Answer], needed: bool = False) -> Finding:
    try:
        said, values = look()
        return Finding(part, _homeless(said), True, needed, values)
    except Exception as error:  # whatever is broken, the page goes on
        said = (
            f"not installed: pip install {part}"
            if isinstance(error, metadata.PackageNotFoundError)
            else one_line(error)
        )
        return Finding(part, _homeless(said), False, needed)


def _homeless(text: str) -> str:
    """Without the user's name in paths."""
    with suppress(RuntimeError):  # of one without a home
        home = str(Path.home())
        return text if home == os.sep else text.replace(home, "~")
    return text


def _version(package: str) -> Answer:
    return metadata.version(package), {}


def _processor() -> Answer:
    name = processor()
    instructions = torch.backends.cpu.get_cpu_capability()
    values = {"name": name, "cores": cores(), "instructions": instructions}
    return f"{name}, {cores()} cores, {instructions}", values


def _memory() -> Answer:
    free, total = free_memory(torch.device("cpu")), psutil.virtual_memory().total
    return f"{decimal(free)} free of {decimal(total)}", {"free": free, "total": total}


def _gpus() -> Answer:
    driver = ""
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20)
        driver = answer.stdout.strip().partition("\n")[0] if answer.returncode == 0 else ""
    if torch.cuda.is_available():
        cards = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        said = "; ".join(f"{card.name}, {decimal(card.total_memory)}" for card in cards)
        values = [{"name": card.name, "memory": card.total_memory} for card in cards]
        return f"{said}; driver {driver or 'unknown'}, CUDA {torch.version.cuda}", {"cards": values, "driver": driver}
    if driver:
        raise UserError(f"there is one (driver {driver}), but torch {torch.__version__} cannot use it: see pytorch.org")
    if torch.backends.mps.is_available():
        return "Apple's, by MPS", {"mps": True}
    return "none: training and stylizing run on the processor", {"cards": []}


def _bfloat16() -> Answer:
    device = device_type({"accelerator": "auto"})
    fast = bfloat16_is_fast(device)
    said = "in hardware: training and stylizing use it" if fast else "not in hardware: float32, half as fast"
    return said, {"fast": fast, "device": device}


def _compiler() -> Answer:
    name, present = compiler()
    if not present:
        raise UserError(
            f"no {name}: training is not compiled, scripts/export.py format=pt2 does not work; CXX= names one"
        )
    return str(shutil.which(name)), {}


def _disk(folder: Path) -> Answer:
    free, place = free_space(folder), nearest_existing(folder.absolute())
    if not os.access(place, os.W_OK):
        raise UserError(f"{str(place)!r} cannot be written: run from another folder")
    return f"{decimal(free)} free", {"free": free}


def _readable(folder: Path) -> Answer:
    paths = find_images(folder)
    for path in paths:
        read_image(path, 32)  # raises for one that is damaged
    return f"{len(paths)} that ship", {"count": len(paths)}


def _coco() -> Answer:
    if not prepared_coco():
        return "not in data/coco: python scripts/fetch_coco.py fetches it, 20 GB", {"count": 0}
    count = sum(entry.name.endswith(".jpg") for entry in os.scandir("data/coco/train2017"))
    return f"{count or 'packed'} photos in data/coco/train2017", {"count": count}


def _oxford() -> Answer:
    VGG19Features(["relu5_1"])
    return "whole", {}


def _downloaded(name: str, purpose: str) -> Answer:
    there = (Path(torch.hub.get_dir()) / "checkpoints" / name).is_file()
    return ("downloaded" if there else f"not downloaded; {purpose} takes it"), {"there": there}


def _style(path: Path) -> Answer:
    _, record = load_network(path)
    start, images = record.get("init") or {}, record.get("images_seen", 0)
    before = f", from {start['style']} after {start['images']}" if start.get("images") else ""
    return f"trained on {images} images{before}", {"images": images, "before": start.get("images", 0)}


def _extras() -> Iterator[Finding]:
    """Optional packages, as the installed Impasto names them."""
    try:
        requirements = [Requirement(line) for line in metadata.requires("impasto") or []]
        extras = metadata.metadata("impasto").get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:  # said already
        return
    for extra in extras:
        wanted = _wanted(requirements, extra)
        missing = [name for name in wanted if not _installed(name)]
        said = f"without {', '.join(missing)}: pip install 'impasto[{extra}]'" if missing else "installed"
        yield Finding(f"[{extra}]", said, values={"missing": missing})


def _wanted(requirements: Sequence[Requirement], extra: str) -> list[str]:
    """Packages of an extra, and of those that it is made of."""
    wanted = list[str]()
    for requirement in requirements:
        if requirement.marker and requirement.marker.evaluate({"extra": extra}):
            others = [_wanted(requirements, other) for other in sorted(requirement.extras)]
            wanted += sum(others, []) if requirement.name == "impasto" else [requirement.name]
    return wanted


def _installed(name: str) -> bool:
    """Whether a package, or another that brings the same module, is there."""
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return name in MODULES and find_spec(MODULES[name]) is not None
    return True


def _training_time(config: Mapping[str, Any], seconds: float) -> Answer:
    device = device_type(config["trainer"])
    rehearsal = Rehearsal(config, torch.device(device), trains_in_bfloat16(dict(config["trainer"])))
    batch, size, images = config["data"]["batch_size"], config["data"]["image_size"], config["schedule"]["images"]
    each = _measured(lambda: rehearsal.step(batch, size), seconds) / batch
    total = timedelta(seconds=round(each * images))
    said = f"{images} images of {size}² in about {total}: {1 / each:.3g} images/s, {batch} at a time"
    return said, {"seconds": each * images, "images_per_second": 1 / each}


def _stylizing_time(seconds: float) -> Answer:
    styles = sorted(STYLES.glob("*.safetensors"))
    if not styles:
        raise UserError(f"no style ships in {STYLES}")
    engine = EagerEngine.load(styles[0])
    content = np.random.default_rng(0).random((1, 3, 1000, 1000), dtype=np.float32)
    each = _measured(lambda: engine(content), seconds)
    return f"{each:.2g} s for one megapixel, {engine.device}, {engine.precision}", {"seconds_per_megapixel": each}


def _measured(run: Callable[[], object], seconds: float) -> float:
    """Seconds that one run takes: the median of those that fit into `seconds`, and of two at least."""
    run()  # the first one allocates, compiles and caches
    times: list[float] = []
    while len(times) < 2 or sum(times) < seconds:
        start = perf_counter()
        run()
        times.append(perf_counter() - start)
    return float(np.median(times))
