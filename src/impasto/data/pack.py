"""Packed photos: decoded and resized once, into one memory-mapped file with a checksum for each."""

import hashlib
import json
import logging
import os
import shutil
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from rich.filesize import decimal
from rich.progress import track
from torch import Tensor
from torch.utils.data import Dataset

from impasto.data.photos import warn_of_rejects
from impasto.errors import UserError
from impasto.files import write_text
from impasto.image import read_image

log = logging.getLogger("impasto")

FORMAT = 1
IMAGES, MANIFEST = "images.bin", "manifest.json"


class PackedPhotos(Dataset[Tensor]):
    """The photos of a pack by number, uint8, shape (3, height, width); one that is damaged raises `UserError`.

    `paths` are the files they were, in order; `rejects` the reasons of those that could not be read.

    Raises `UserError` for a folder that holds no whole pack of this format.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder = folder
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            if manifest["format"] != FORMAT:
                raise ValueError(f"its format is {manifest['format']!r}, not {FORMAT}")
            if (size := (folder / IMAGES).stat().st_size) != manifest["bytes"]:
                raise ValueError(f"{IMAGES} has {size} of {manifest['bytes']} bytes")
            self.paths = [root / name for name, *_ in manifest["photos"]]
            self.rejects = dict(manifest["rejects"])
            self._places = np.array([place for _, *place in manifest["photos"]], dtype=np.int64).reshape(-1, 4)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{str(folder)!r} is no whole pack ({error})") from None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        """One photo, its CRC-32 checked."""
        offset, height, width, checksum = map(int, self._places[index])
        pixels = np.array(self._mapped[offset : offset + height * width * 3])
        if zlib.crc32(pixels.data) != checksum:
            photo, images = str(self.paths[index]), str(self.folder / IMAGES)
            raise UserError(f"{photo!r} is damaged in {images!r}: remove that file to have it packed anew")
        return torch.from_numpy(pixels.reshape(height, width, 3)).permute(2, 0, 1)

    @cached_property
    def _mapped(self) -> np.ndarray:
        return np.memmap(self.folder / IMAGES, np.uint8, "r")

    def __getstate__(self) -> dict[str, Any]:
        """A spawned worker maps the file itself: pickled, the mapping would be all of its content."""
        return {name: value for name, value in self.__dict__.items() if name != "_mapped"}


def pack_folder(packs: str | os.PathLike[str], name: str, photos: Sequence[Path], root: Path, short_side: int) -> Path:
    """Where a pack of these photos belongs: another place once any of them is added, removed or changed."""
    digest = hashlib.sha256()
    for photo in photos:
        size, changed = 0, 0
        with suppress(OSError):  # a link to nowhere: packing will reject it
            status = photo.stat()
            size, changed = status.st_size, status.st_mtime_ns
        digest.update(os.fsencode(f"{photo.relative_to(root).as_posix()}\0{size}\0{changed}\n"))
    return Path(packs) / f"{name}_{short_side}px_{digest.hexdigest()[:8]}"


def pack(photos: Sequence[Path], root: Path, short_side: int, folder: Path) -> PackedPhotos:
    """The pack in `folder`, made of the photos under `root` if it is not there, whole; larger photos are scaled down.

    Of several processes one makes it, the others wait.
    Raises `UserError` if there is too little space, the folder cannot be written or no photo is readable.
    """
    try:
        packed = PackedPhotos(folder, root)
    except UserError:
        try:
            with _alone(folder.parent):
                _make(photos, root, short_side, folder)
        except OSError as error:
            raise UserError(f"cannot pack into {str(folder)!r}: {error.strerror or error}") from None
        packed = PackedPhotos(folder, root)
    warn_of_rejects(list(packed.rejects.values()), len(photos), root)
    return packed


@contextmanager
def _alone(packs: Path) -> Iterator[None]:
    """Hold the lock on a folder of packs; what killed processes left half done in it is removed."""
    packs.mkdir(parents=True, exist_ok=True)
    lock = FileLock(packs / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        log.info("Waiting for another process that packs photos in %s", packs)
        lock.acquire()
    try:
        for half in packs.glob(".*.packing"):
            shutil.rmtree(half)
        yield
    finally:
        lock.release()


def _make(photos: Sequence[Path], root: Path, short_side: int, folder: Path) -> None:
    """Make the pack, unless another process has done so meanwhile; a damaged one makes way."""
    try:
        PackedPhotos(folder, root)
        return
    except UserError as error:
        if folder.exists():
            log.warning("%s: packing it anew", error)
            shutil.rmtree(folder)
    _check_space(photos, short_side, folder)
    packing = folder.with_name(f".{folder.name}.packing")
    packing.mkdir()
    try:
        manifest = _write_images(photos, root, short_side, packing / IMAGES)
        write_text(packing / MANIFEST, json.dumps(manifest))
        packing.replace(folder)
    finally:
        shutil.rmtree(packing, ignore_errors=True)


def _write_images(photos: Sequence[Path], root: Path, short_side: int, path: Path) -> dict[str, Any]:
    """Write the photos' pixels one after another, rows of RGB; returns the manifest."""
    entries: list[tuple[str, int, int, int, int]] = []
    rejects: dict[str, str] = {}
    digest, offset = hashlib.sha256(), 0
    images = track(
        _decoded(photos, short_side),
        description="Packing the photos",
        total=len(photos),
        transient=True,
        disable=len(photos) < 500,
    )
    with path.open("wb") as file:
        for photo, image in zip(photos, images, strict=True):
            name = photo.relative_to(root).as_posix()
            if isinstance(image, str):
                rejects[name] = image
                continue
            file.write(image.data)
            digest.update(image.data)
            entries.append((name, offset, image.shape[0], image.shape[1], zlib.crc32(image.data)))
            offset += image.nbytes
        file.flush()
        os.fsync(file.fileno())  # before the rename, or a power cut can leave holes
    if not entries:
        warn_of_rejects(list(rejects.values()), len(photos), root)  # raises
    return {
        "format": FORMAT,
        "short_side": short_side,  # px, at most; smaller photos stay as they are
        "bytes": offset,
        "sha256": digest.hexdigest(),
        "rejects": rejects,
        "photos": entries,  # path, offset, height, width, CRC-32
    }


def _decoded(photos: Sequence[Path], short_side: int) -> Iterator[np.ndarray | str]:
    """The photos' pixels, or what is wrong with them, in order: decoded in threads, a few ahead of what is written."""
    threads = os.cpu_count() or 1
    ahead: deque[Future[np.ndarray | str]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for photo in photos:
            ahead.append(pool.submit(_decode, photo, short_side))
            if len(ahead) > 4 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _decode(photo: Path, short_side: int) -> np.ndarray | str:
    try:
        return np.array(read_image(photo, short_side))
    except UserError as error:
        return str(error)


def _check_space(photos: Sequence[Path], short_side: int, folder: Path) -> None:
    """Compare the free space with what the pack will take, judged by a few dozen of the photos."""
    some = photos[:: max(1, len(photos) // 32)]
    taken = sum(image.nbytes for image in _decoded(some, short_side) if not isinstance(image, str))
    needed, free = taken * len(photos) // len(some), shutil.disk_usage(folder.parent).free
    if needed > free:
        raise UserError(
            f"{str(folder.parent)!r} has {decimal(free)} free, packing {len(photos)} photos takes about "
            f"{decimal(needed)}: data.packs=DIR puts them elsewhere, data.pack=false does without"
        )
    log.info("Packing %d photos into %s, once: about %s", len(photos), folder, decimal(needed))
