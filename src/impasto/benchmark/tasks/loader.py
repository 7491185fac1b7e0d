"""Images per second of one loading process, from files and from a pack, against what training consumes."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from impasto.assets import PHOTOS
from impasto.benchmark.contestants import AUGMENTATION, photos, train_step
from impasto.benchmark.measure import Contestant, alternate
from impasto.benchmark.task import Options, say
from impasto.data.content import ContentDataModule
from impasto.data.photos import PositionBatches, TrainingPhotos
from impasto.image import read_image, save_image

WARM_UP = 10  # batches, not counted


def run(options: Options) -> dict[str, Any]:
    """The photos that ship, a folder and its pack, at each size."""
    lines = []
    with tempfile.TemporaryDirectory() as name:
        many = _many_photos(Path(name) / "photos", 200)
        for size in [options.image_size] if options.image_size else [128, 160, 256]:
            shape: dict[str, Any] = {"image_size": size, "batch_size": options.batch_size}
            with Contestant("training", train_step, reference=False, **shape) as learning:
                alternate([learning], options.repeats)
            consumed = options.batch_size / median(learning.seconds)
            sources = {
                "photos that ship": lambda size=size: photos(size, options.batch_size, _images(options), workers=1),
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
    say("Loading, augmentation included, with no training beside it:", lines)
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
    batches = PositionBatches(0, _images(options), options.batch_size)
    return iter(DataLoader(dataset, batch_sampler=batches, num_workers=1))


def _images(options: Options) -> int:
    return max(4000, 2 * WARM_UP * options.batch_size)


def _images_per_second(batches: Callable[[], Any], seconds: float = 4.0) -> float:
    stream = batches()
    for _ in range(WARM_UP):
        next(stream)
    start, images = perf_counter(), 0
    while perf_counter() - start < seconds and (batch := next(stream, None)) is not None:
        images += len(batch)
    return images / (perf_counter() - start)
