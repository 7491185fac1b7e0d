"""`ContentDataModule`: the photos that a network learns to stylize."""

import hashlib
import logging
import os
from math import gcd
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset

from impasto.data.choices import check_choices
from impasto.data.pack import PackedPhotos, is_pack, pack_folder
from impasto.data.pack import pack as pack_photos
from impasto.data.photos import (
    KEPT,
    PhotoFiles,
    Photos,
    PositionBatches,
    TrainingPhotos,
    ValidationPhotos,
    chosen,
    photo_at,
    side_at,
    source_size,
    split,
)
from impasto.data.scan import GLANCE, Reject, fingerprint, look, report, scan, short_key, unfit
from impasto.errors import UserError
from impasto.image import find_images
from impasto.ranks import cores_of_rank
from impasto.stopping import ignore_stops

log = logging.getLogger("impasto")


class ContentDataModule(pl.LightningDataModule):
    """Batches of content photos, RGB in [0, 1], shape (batch_size, 3, image_size, image_size), channels last.

    `root` is any folder of images. Validation photos come from `validation_root`, whose files are not learned from
    where `root` has them, too, nor are copies of those chosen; or they are held out of `root`: `validation` of them
    (at most a third), chosen by `seed`; a single photo serves as both.
    Photos that are corrupt, tiny (a short side below `image_size`), grey or there twice are named and left out
    (`rejects`), those of the kinds in `keep` ("grey,tiny") are not; `trusted` folders are not looked through.
    `pack` (auto, true, false) has all photos of `root` decoded and resized once, into `packs`: the samples stay the
    same to the bit. `auto` does so where a run of `images` shows each photo and more than memory keeps. `root` may be
    a pack itself.
    With `smallest_size`, each batch is reduced to a side between it and `image_size`, drawn by the seed and the
    position in the run: equally often in each octave, in steps of `STEP` px.
    `batch_size` is per device; `workers` per device, `None` takes what the machine has. A worker that gives no batch
    for `timeout` seconds ends the run with a `RuntimeError`; 0 waits for ever.
    The remaining arguments are those of `TrainingPhotos`.

    Raises `UserError` as `check_choices` does, for a missing or empty folder, and where more than the share
    `max_rejects` is left out.
    """

    def __init__(
        self,
        name: str,
        root: str | os.PathLike[str],
        validation: int,
        *,
        validation_root: str | os.PathLike[str] | None = None,
        trusted: bool = False,
        keep: str = "",
        max_rejects: float = 0.05,
        pack: bool | str = "auto",
        packs: str | os.PathLike[str] = "data/packs",
        images: int = 0,
        image_size: int = 256,
        smallest_size: int | None = None,
        batch_size: int = 4,
        workers: int | None = None,
        timeout: float = 0,
        seed: int = 0,
        min_scale: float = 0.25,
        colour: float = 0.0,
        patches: float = 0.0,
    ) -> None:
        super().__init__()
        check_choices(
            validation=validation,
            batch_size=batch_size,
            image_size=image_size,
            smallest_size=smallest_size,
            workers=workers,
            timeout=timeout,
            min_scale=min_scale,
            colour=colour,
            patches=patches,
            max_rejects=max_rejects,
            pack=pack,
            keep=keep,
        )
        apart = [] if validation_root is None else find_images(validation_root)
        kept = keep.split(",") if keep else []
        self.name, self.image_size, self.batch_size, self.seed = name, image_size, batch_size, seed
        self.smallest_size = smallest_size
        self.augmentation = {"min_scale": min_scale, "colour": colour, "patches": patches}
        self.root, self.workers, self.timeout = Path(root), workers, timeout
        self.short_side = source_size(image_size, min_scale)
        self.packed: PackedPhotos | None = None
        self.folder = ""  # of photos in files, their fingerprint
        if is_pack(self.root):
            self.packed, how = _ready_pack(self.root, self.short_side, validation_root), f"packed in {root}"
            photos, looked = self.packed.paths, self.packed.photos
        else:
            photos = find_images(root)
            self.folder = fingerprint(photos, self.root, times=False)[:16]
            looked = [] if trusted else scan(photos, self.root, Path(packs))
        self.rejects: list[Reject] = [] if trusted else unfit(looked, image_size, kept)
        report(self.rejects, len(looked), self.root, max_rejects)
        if self.packed is None:  # hours, perhaps: for photos that will do
            folder = pack_folder(packs, name, photos, self.root, self.short_side)
            self.packed, how = self._open_pack(photos, self.root, folder, pack, images)
            if self.packed is not None:
                photos, known = self.packed.paths, {reject.photo for reject in self.rejects}
                # such as a network's disk that was away while it packed
                lost = [photo for photo in self.packed.photos if photo.problem and photo.name not in known]
                if lost:
                    self.rejects += [Reject(photo.name, "corrupt", photo.problem) for photo in lost]
                    report(self.rejects, len(self.packed.photos), self.root, max_rejects)
        left_out = {self.root / reject.photo for reject in self.rejects}
        photos = [path for path in photos if path not in left_out]
        if validation_root is not None:
            self.validation, hashes = _readable(chosen(apart, Path(validation_root), validation, seed))
            same = {self.root / photo.name for photo in looked if photo.sha256 in hashes}
            if self.root.resolve().is_relative_to(Path(validation_root).resolve()):  # of the same photos, a choice
                apart = self.validation
            self.training = _without(photos, apart, same)
        else:
            self.training, self.validation = split(photos, self.root, validation, seed)
            if not self.validation:
                log.warning("%s holds too few photos to hold one out: validation uses %s", root, photos[0].name)
                self.validation = photos[:1]
        log.info(
            "Content: %d photos for training, %d for validation, %s", len(self.training), len(self.validation), how
        )

    def held_out(self) -> list[str]:
        """Photos of `root` that are validated with, and not learned from, each by `short_key`."""
        names = {path.name for each in self.validation for path in (each, each.resolve())}
        learned = {path.resolve() for path in self.training if path.name in names}  # all would take seconds
        keys = []
        for path in (each for each in self.validation if each.resolve() not in learned):
            if path.is_relative_to(self.root):  # by its name there, which may be a link's
                keys.append(short_key(path, self.root))
            elif path.resolve().is_relative_to(self.root.resolve()):
                keys.append(short_key(path.resolve(), self.root.resolve()))
        return keys

    def setup(self, stage: str) -> None:
        """Compare the ranks, before a checkpoint is read. Raises `UserError` where they differ."""
        trainer: Any = self.trainer
        photos = [*self.training, *self.validation]
        _check_that_ranks_agree(trainer.lightning_module.images_seen, photos, trainer.world_size)

    def train_dataloader(self) -> DataLoader[Tensor]:
        """The rest of the run, from where the module stands."""
        trainer: Any = self.trainer  # set by fit
        module = trainer.lightning_module
        batches = PositionBatches(
            module.images_seen,
            module.images,
            self.batch_size,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            taken=trainer.global_step,
        )
        photos = TrainingPhotos(self.photos(), self.image_size, self.seed, **self.augmentation)
        return DataLoader(photos, batch_sampler=batches, **self._loading())

    def val_dataloader(self) -> DataLoader[Tensor]:
        """Always the same photos, shared among the ranks: equally many for each, and each photo equally often.

        So means over the ranks are the photos', and no rank waits for another that has fewer batches.
        """
        photos = ValidationPhotos(self.validation, self.image_size)
        trainer: Any = self.trainer
        shown = [*range(len(photos))] * (trainer.world_size // gcd(trainer.world_size, len(photos)))
        return DataLoader(photos, self.batch_size, sampler=shown[trainer.global_rank :: trainer.world_size])

    def on_after_batch_transfer(self, batch: Tensor, dataloader_idx: int) -> Tensor:
        """From uint8 to [0, 1] on the device: a quarter of the bytes travel."""
        content = batch.to(memory_format=torch.channels_last).float() / 255
        trainer: Any = self.trainer
        if self.smallest_size is None or not trainer.training:
            return content
        side = side_at(trainer.lightning_module.images_seen, self.seed, self.smallest_size, self.image_size)
        return F.interpolate(content, size=(side, side), mode="bilinear", antialias=True)

    def _open_pack(
        self, photos: list[Path], root: Path, folder: Path, choice: bool | str, images: int
    ) -> tuple[PackedPhotos | None, str]:
        """The folder's pack where it is asked for, there already or worth making, and how photos are read, in words."""
        if not choice:
            return None, "decoded as they are shown"
        if choice == "auto" and not folder.exists():
            if len(photos) <= KEPT:
                return None, "kept in memory"
            if images < len(photos):
                return None, f"decoded as they are shown: the run's {images} images leave some out"
        try:
            return pack_photos(photos, root, self.short_side, folder), f"packed in {folder}"
        except UserError as error:
            if choice != "auto":
                raise
            log.warning("not packed: %s", error)
            return None, "decoded as they are shown"

    def photos(self) -> Photos:
        """The training photos, to be decoded or in the pack."""
        if self.packed is None:
            return PhotoFiles(self.training, self.short_side)
        numbers = {path: number for number, path in enumerate(self.packed.paths)}
        return Subset(self.packed, [numbers[path] for path in self.training])

    def reading(self, position: int | None = None) -> str:
        """What is being read, at a position of the run, and how that could go faster; in words."""
        count, workers = len(self.training), "" if self.workers is None else f"={self.workers}"
        photo = "" if position is None else f"{str(self.training[photo_at(position, self.seed, count)])!r}, "
        if self.packed is not None:
            return f"{photo}from {str(self.packed.folder)!r} with data.workers{workers}: is that disk slow or away?"
        return f"{photo}decoded from {str(self.root)!r} with data.workers{workers}: more of them, or data.pack=true"

    def _loading(self) -> dict[str, Any]:
        """Workers where they pay: on a CPU one keeps decoding off the critical path, more would steal its cores."""
        trainer: Any = self.trainer
        workers = self.workers
        if workers is None:
            on_cpu = trainer.strategy.root_device.type == "cpu"
            workers = 1 if on_cpu else min(16, cores_of_rank(trainer.num_devices))
        return {
            "num_workers": workers,
            "timeout": self.timeout if workers else 0,  # which would be for workers
            "persistent_workers": workers > 0,
            "worker_init_fn": ignore_stops,
            "pin_memory": trainer.strategy.root_device.type == "cuda",
        }


def _check_that_ranks_agree(images_seen: int, photos: list[Path], world_size: int) -> None:
    """Raise `UserError` where a node has another run folder or other photos: positions would be lost or doubled."""
    if world_size == 1:
        return
    names = hashlib.sha256("\n".join(map(str, photos)).encode(errors="surrogateescape")).hexdigest()
    ranks: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(ranks, (images_seen, len(set(photos)), names))
    for rank, (seen, count, theirs) in enumerate(ranks):
        if seen != ranks[0][0]:
            raise UserError(
                f"rank {rank} stands at {seen} images, rank 0 at {ranks[0][0]}: all nodes need to see the run folder"
            )
        if theirs != ranks[0][2]:
            raise UserError(
                f"rank {rank} has {count} photos, rank 0 {ranks[0][1]}, not the same: data.root, and "
                "data.validation_root, should hold the same photos on every node"
            )


def _readable(photos: list[Path]) -> tuple[list[Path], set[str]]:
    """Validation photos that can be read, and their files' SHA-256. Raises `UserError` where none can."""
    looked = {path: look(str(path), path, GLANCE)[0] for path in photos}
    if broken := [photo for photo in looked.values() if photo.problem]:
        if len(broken) == len(photos):
            raise UserError(f"none of the validation photos can be read: {broken[0].problem}")
        log.warning("%d validation photos cannot be read, as %s", len(broken), broken[0].problem)
    sound = {path: photo.sha256 for path, photo in looked.items() if not photo.problem}
    return list(sound), set(sound.values())


def _without(photos: list[Path], validation: list[Path], same: set[Path]) -> list[Path]:
    """The photos to learn from: without those of a `validation` folder, and without files the `same` as its chosen.

    Raises `UserError` where none is left.
    """
    files = {path.resolve() for path in validation}
    names = {path.name for each in validation for path in (each, each.resolve())}  # to resolve all would take seconds

    def shown(path: Path) -> bool:
        return (path.name in names or path.is_symlink()) and path.resolve() in files

    left = [path for path in photos if path not in same and not shown(path)]
    if not left:
        raise UserError("all photos are validation photos, too: without data.validation_root= some are held out")
    if len(left) < len(photos):
        log.info("%d of the photos are validation photos, and not learned from", len(photos) - len(left))
    return left


def _ready_pack(root: Path, short_side: int, validation_root: object) -> PackedPhotos:
    """The pack in `root`, of photos large enough. Raises `UserError`."""
    try:
        packed = PackedPhotos(root, root)
    except UserError as error:
        raise UserError(f"{error}: remove the folder, and fetch or pack it anew") from None
    if validation_root is None:
        raise UserError(f"{str(root)!r} is a pack, to learn from: say data.validation_root=DIR, a folder of photos")
    if packed.short_side < short_side:
        raise UserError(
            f"the photos packed in {str(root)!r} have {packed.short_side} px: crops take {short_side}; a smaller "
            "data.image_size= or larger data.min_scale= does, or a larger pack"
        )
    return packed
