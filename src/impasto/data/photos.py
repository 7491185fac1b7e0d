"""Content photos as datasets: every sample is a pure function of the seed and its position in the run."""

import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from impasto.errors import UserError
from impasto.image import find_images, read_image

log = logging.getLogger("impasto")


def scan(folder: str | os.PathLike[str]) -> list[Path]:
    """The readable images under a folder; damaged ones are named, counted and left out.

    Every file is decoded once (JPEGs at an eighth of their size), before hours are spent.
    Raises `UserError` if there is none to read.
    """
    paths = find_images(folder)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        problems = list(
            track(
                pool.map(_problem, paths),
                description="Looking through the photos",
                total=len(paths),
                transient=True,
                disable=len(paths) < 500,
            )
        )
    damaged = [(path, problem) for path, problem in zip(paths, problems, strict=True) if problem]
    if len(damaged) == len(paths):
        raise UserError(f"none of the {len(paths)} images in {os.fspath(folder)!r} can be read: {damaged[0][1]}")
    for _, problem in damaged:
        log.warning("skipped: %s", problem)
    if damaged:
        log.warning("skipped %d of %d images in %s", len(damaged), len(paths), os.fspath(folder))
    return [path for path, problem in zip(paths, problems, strict=True) if not problem]


def _problem(path: Path) -> str | None:
    try:
        read_image(path, short_side=32)
    except UserError as error:
        return str(error)
    return None


def split(photos: Sequence[Path], validation: int, seed: int) -> tuple[list[Path], list[Path]]:
    """Training and validation photos: `validation` of them held out, at most a third, the same for the same seed."""
    order = np.random.default_rng(seed).permutation(len(photos))
    held_out = min(validation, len(photos) // 3)
    return [photos[i] for i in sorted(order[held_out:])], [photos[i] for i in sorted(order[:held_out])]


class PhotoReader:
    """Decodes photos no larger than a crop needs, keeps the last few, and survives one that has gone bad since."""

    def __init__(self, photos: Sequence[Path], short_side: int) -> None:
        self.photos, self.short_side = photos, short_side
        self._read = lru_cache(maxsize=32)(self._decode)

    def __call__(self, index: int) -> Image.Image:
        """Photo `index`, or the next one that can be read."""
        for step in range(len(self.photos)):
            try:
                return self._read((index + step) % len(self.photos))
            except UserError as error:
                log.warning("skipped: %s", error)
        raise UserError(f"none of the {len(self.photos)} photos can be read any more")

    def _decode(self, index: int) -> Image.Image:
        return read_image(self.photos[index], self.short_side)


class TrainingPhotos(Dataset[Tensor]):
    """Augmented crops, uint8, shape (3, image_size, image_size), by position in the run.

    Position p shows photo p mod n of epoch p div n, each photo once per epoch. Crop, flip, colour and
    patches draw from a generator seeded by (seed, p): the same whatever the workers, ranks or interruptions.

    `min_scale` is the smallest crop's share of a photo's area; `colour` the jitter's amplitude;
    `patches` the share of crops with a flat or gradient patch, which large even skies and walls resemble.
    """

    def __init__(
        self, photos: Sequence[Path], image_size: int, seed: int, *, min_scale: float, colour: float, patches: float
    ) -> None:
        self.photos, self.image_size, self.seed, self.patches = photos, image_size, seed, patches
        # a crop of `min_scale` then still has about the pixels that it is resized to
        self.read = PhotoReader(photos, round(image_size / min_scale**0.5))
        self.augment = v2.Compose(
            [
                v2.RandomResizedCrop(image_size, scale=(min_scale, 1), ratio=(4 / 5, 5 / 4), antialias=True),
                v2.RandomHorizontalFlip(),
                v2.ColorJitter(brightness=colour, contrast=colour, saturation=colour, hue=colour / 6),
                v2.PILToTensor(),
            ]
        )
        self._order = lru_cache(maxsize=2)(self._shuffle)

    def __getitem__(self, position: int) -> Tensor:
        """The crop at one position of the run."""
        epoch, place = divmod(position, len(self.photos))
        photo = self.read(int(self._order(epoch)[place]))
        with torch.random.fork_rng(devices=()):
            torch.default_generator.manual_seed(_mixed(self.seed, position))
            crop: Tensor = self.augment(photo)
            return with_patch(crop) if torch.rand(()) < self.patches else crop

    def _shuffle(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(len(self.photos))


class ValidationPhotos(Dataset[Tensor]):
    """Central square crops, uint8, shape (3, image_size, image_size)."""

    def __init__(self, photos: Sequence[Path], image_size: int) -> None:
        self.photos, self.image_size = photos, image_size
        self.read = PhotoReader(photos, image_size)
        self.crop = v2.Compose([v2.Resize(image_size, antialias=True), v2.CenterCrop(image_size), v2.PILToTensor()])

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> Tensor:
        """The crop of one photo."""
        crop: Tensor = self.crop(self.read(index))
        return crop


class PositionBatches:
    """Batches of positions `start` … `stop` - 1 of a run, `batch_size` for each of `world_size` ranks.

    N ranks with b each see what one rank with N·b sees. The last batch runs past `stop` to be whole.
    The length counts the `taken` batches of an earlier part of the run, too: Lightning, resuming, counts on from them.
    """

    def __init__(
        self, start: int, stop: int, batch_size: int, *, rank: int = 0, world_size: int = 1, taken: int = 0
    ) -> None:
        self.firsts = range(start, stop, batch_size * world_size)
        self.offset, self.batch_size, self.taken = rank * batch_size, batch_size, taken

    def __iter__(self) -> Iterator[list[int]]:
        for first in self.firsts:
            yield list(range(first + self.offset, first + self.offset + self.batch_size))

    def __len__(self) -> int:
        return self.taken + len(self.firsts)


def with_patch(crop: Tensor) -> Tensor:
    """Cover a rectangle (0.4 to 0.9 of each side) of a uint8 crop with one colour or a linear gradient of two.

    Not all of it: an image without any variance has an infinite gradient through stacked instance norms.
    """
    side = crop.shape[-1]
    height, width = (int(side * (0.4 + 0.5 * torch.rand(()))) for _ in range(2))
    top, left = (int(torch.randint(side - extent + 1, ())) for extent in (height, width))
    first, second = torch.rand(2, 3, 1, 1) * 255
    if torch.rand(()) < 0.5:
        second = first
    angle = torch.rand(()) * 2 * torch.pi
    y, x = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)
    ramp = (x * angle.cos() + y * angle.sin()) / 2**1.5 + 0.5
    crop[:, top : top + height, left : left + width] = torch.lerp(first, second, ramp).to(torch.uint8)
    return crop


def _mixed(seed: int, position: int) -> int:
    """One well-mixed 32-bit seed, as torch's CPU generator uses no more bits."""
    return int(np.random.SeedSequence((seed, position)).generate_state(1)[0])
