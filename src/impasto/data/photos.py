"""Content photos as datasets: every sample is a pure function of the seed and its position in the run."""

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from impasto.data.augment import shift_hue, with_patch
from impasto.errors import UserError
from impasto.image import read_image

log = logging.getLogger("impasto")


BAD = 8  # photos in a row, with which the whole folder is taken to be gone
RATIO = 5 / 4  # of a crop's sides, at most
STEP = 64  # px, between the sides that batches are reduced to: so few that compiling each pays
KEPT = 32  # decoded photos in memory, of each reading process


class Photos(Protocol):
    """Decoded photos by number, uint8, shape (3, height, width); one that cannot be read raises `UserError`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Tensor: ...


class PhotoFiles:
    """Photos decoded from their files as they are asked for; a larger one comes with `short_side` px."""

    def __init__(self, paths: Sequence[Path], short_side: int) -> None:
        self.paths, self.short_side = paths, short_side

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        """One photo."""
        read = _kept if len(self.paths) <= KEPT else _decoded  # of more, none would be there still when it is due
        return read(self.paths[index], self.short_side)


def _decoded(path: Path, short_side: int) -> Tensor:
    return torch.from_numpy(np.array(read_image(path, short_side))).permute(2, 0, 1)


_kept = lru_cache(maxsize=KEPT)(_decoded)


def read_or_next(photos: Photos, index: int) -> Tensor:
    """Photo `index`, or where it has gone bad the next one that can be read.

    Raises `UserError` where many in a row cannot be: their folder has gone, and the few in memory would be all that
    training sees.
    """
    for step in range(min(BAD, len(photos))):
        try:
            return photos[(index + step) % len(photos)]
        except UserError as error:
            log.warning("skipped: %s", error)
            last = error
    raise UserError(
        f"{step + 1} photos in a row cannot be read any more ({last}): bring them back, then resume=true goes on"
    )


def source_size(image_size: int, min_scale: float) -> int:
    """The short side (px) of a photo whose smallest crop still has the pixels that it is resized to."""
    return round(image_size / min_scale**0.5)


def split(photos: Sequence[Path], root: Path, validation: int, seed: int) -> tuple[list[Path], list[Path]]:
    """Training and validation photos: `validation` of them held out, at most a third, the same for the same seed."""
    held_out = chosen(photos, root, min(validation, len(photos) // 3), seed)
    apart = set(held_out)
    return [photo for photo in photos if photo not in apart], held_out


def chosen(photos: Sequence[Path], root: Path, count: int, seed: int) -> list[Path]:
    """`count` of the photos under a folder, or all if they are fewer, in their order; the same for the same seed.

    Each draws a lot by its name, so that those chosen stay so where others come or go: else a run that is gone on with
    would be validated with photos that it has learned from.
    """

    def lot(photo: Path) -> bytes:
        name = os.fsencode(photo.relative_to(root).as_posix())
        return hashlib.sha256(str(seed).encode() + b"\0" + name).digest()

    drawn = set(sorted(photos, key=lot)[:count])
    return [photo for photo in photos if photo in drawn]


class TrainingPhotos(Dataset[Tensor]):
    """Augmented crops, uint8, shape (3, image_size, image_size), by position in the run.

    Position p shows photo p mod n of epoch p div n, each photo once per epoch. Crop, flip, colour and
    patches draw from a generator seeded by (seed, p): the same whatever the workers, ranks or interruptions.

    `min_scale` is the smallest crop's area, of the largest's there is with sides of at most 5:4; `colour` the jitter's
    amplitude; `patches` the share of crops with a flat or gradient patch, which large even skies and walls resemble.
    """

    def __init__(
        self, photos: Photos, image_size: int, seed: int, *, min_scale: float, colour: float, patches: float
    ) -> None:
        self.photos, self.seed, self.patches = photos, seed, patches
        self.image_size, self.min_scale = image_size, min_scale
        self.augment = v2.Compose(
            [
                v2.RandomHorizontalFlip(),
                v2.ColorJitter(brightness=colour, contrast=colour, saturation=colour),
            ]
        )
        self.hue = colour / 6  # turned last, always

    def __getitem__(self, position: int) -> Tensor:
        """The crop at one position of the run."""
        photo = read_or_next(self.photos, photo_at(position, self.seed, len(self.photos)))
        with torch.random.fork_rng(devices=()):
            torch.default_generator.manual_seed(_mixed(self.seed, position))
            crop: Tensor = self.augment(self._cropped(photo))
            if self.hue:
                crop = shift_hue(crop, self.hue * float(2 * torch.rand(()) - 1))
            crop = crop.contiguous()  # never a view of the photo, which is read again
            return with_patch(crop) if torch.rand(()) < self.patches else crop

    def _cropped(self, photo: Tensor) -> Tensor:
        height, width = photo.shape[1:]
        # of a wide photo's area; crops are drawn until one fits, and of larger ones none does: always the middle's
        largest = min(1.0, RATIO * min(height, width) / max(height, width))
        scale, ratio = (self.min_scale * largest, largest), (1 / RATIO, RATIO)
        cropped: Tensor = v2.RandomResizedCrop(self.image_size, scale=scale, ratio=ratio, antialias=True)(photo)
        return cropped


def side_at(position: int, seed: int, smallest: int, largest: int) -> int:
    """The side, px, of the batch at a position of the run: log-uniform from `smallest` to `largest`, in `STEP`s."""
    draw = np.random.default_rng((seed, position)).uniform(np.log(smallest), np.log(largest + STEP))
    return min(int(np.exp(draw)) // STEP * STEP, largest)


def photo_at(position: int, seed: int, count: int) -> int:
    """The number of the photo, of `count`, that a position of the run shows."""
    epoch, place = divmod(position, count)
    return int(_shuffled(seed, epoch, count)[place])


@lru_cache(maxsize=4)
def _shuffled(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)


class ValidationPhotos(Dataset[Tensor]):
    """Central square crops, uint8, shape (3, image_size, image_size)."""

    def __init__(self, photos: Sequence[Path], image_size: int) -> None:
        self.photos = PhotoFiles(photos, image_size)
        self.crop = v2.Compose([v2.Resize(image_size, antialias=True), v2.CenterCrop(image_size)])

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> Tensor:
        """The crop of one photo."""
        crop: Tensor = self.crop(read_or_next(self.photos, index))
        return crop.contiguous()


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


def _mixed(seed: int, position: int) -> int:
    """One well-mixed 32-bit seed, as torch's CPU generator uses no more bits."""
    return int(np.random.SeedSequence((seed, position)).generate_state(1)[0])
