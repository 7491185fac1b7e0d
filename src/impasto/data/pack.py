"""Packed photos: decoded and resized once, into one memory-mapped file with a checksum for each."""

import glob
import json
import logging
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from rich.filesize import decimal
from torch import Tensor
from torch.utils.data import Dataset

from impasto.data.scan import Photo, Source, fingerprint, folder_key, lock_of, look
from impasto.data.threads import in_order
from impasto.errors import UserError
from impasto.files import write_text
from impasto.lock import held

log = logging.getLogger("impasto")

FORMAT = 2
IMAGES, PHOTOS, MANIFEST = "images.bin", "photos.jsonl", "manifest.json"


class PackedPhotos(Dataset[Tensor]):
    """The photos of a pack by number, uint8, shape (3, height, width); one that is damaged raises `UserError`.

    `paths` are the files they were, in order, `photos` what a look at each file found, the corrupt ones included;
    `short_side` is the photos' at most, px.

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
            self.short_side = int(manifest["short_side"])
            with (folder / PHOTOS).open("rb") as file:
                entries = [_entry(line) for line in file.readlines()[1:]]
            if len(entries) != manifest["photos"]:
                raise ValueError(f"{PHOTOS} names {len(entries)} of {manifest['photos']} photos")
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{str(folder)!r} is no whole pack ({error})") from None
        self.photos = [photo for photo, _ in entries]
        self.paths = [root / photo.name for photo, place in entries if place]
        self._places = np.array([place for _, place in entries if place], dtype=np.int64).reshape(-1, 4)
        _ = self._mapped  # now, so that it lives on where the folder is removed, or made anew, before it is read

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        """One photo, its CRC-32 checked."""
        offset, height, width, checksum = map(int, self._places[index])
        pixels = np.array(self._mapped[offset : offset + height * width * 3])
        if zlib.crc32(pixels.data) != checksum:
            photo, folder = str(self.paths[index]), str(self.folder)
            raise UserError(f"{photo!r} is damaged in the pack {folder!r}: remove the folder to have it made anew")
        return torch.from_numpy(pixels.reshape(height, width, 3)).permute(2, 0, 1)

    @cached_property
    def _mapped(self) -> np.ndarray:
        try:
            return np.memmap(self.folder / IMAGES, np.uint8, "r")
        except (OSError, ValueError) as error:  # of an empty file
            raise UserError(f"{str(self.folder)!r} is no whole pack ({error})") from None

    def __getstate__(self) -> dict[str, Any]:
        """A spawned worker maps the file itself: pickled, the mapping would be all of its content."""
        return {name: value for name, value in self.__dict__.items() if name != "_mapped"}


def is_pack(folder: Path) -> bool:
    """Whether a folder is a pack, whole or not; other programs have files of the manifest's name, too."""
    return (folder / MANIFEST).is_file() and ((folder / IMAGES).exists() or (folder / PHOTOS).exists())


def pack_folder(packs: str | os.PathLike[str], name: str, photos: Sequence[Path], root: Path, short_side: int) -> Path:
    """Where a pack of these photos belongs: another place once any of them is added, removed or changed."""
    return Path(packs) / f"{name}_{folder_key(root)}_{short_side}px_{fingerprint(photos, root)[:8]}"


def pack(photos: Sequence[Path], root: Path, short_side: int, folder: Path) -> PackedPhotos:
    """The pack in `folder`, made of the photos under `root` if it is not there, whole; larger photos are scaled down.

    One that lacks photos which could not be read, and can be now, is made anew. Of several processes one makes it, the
    others wait. What a killed one had packed is not packed again.
    Raises `UserError` if there is too little space, the folder cannot be written or no photo is readable.
    """
    try:
        return _current(folder, root)
    except UserError:
        try:
            busy = f"Waiting for another process that looks at, or packs, {str(root)!r}"
            with held(folder.parent, busy, None, lock_of(root)):
                name = glob.escape(folder.name.rpartition("_")[0])
                for half in folder.parent.glob(f".{name}_*.packing"):  # of these photos before they changed
                    if half != packing(folder):
                        shutil.rmtree(half)
                _make({path.relative_to(root).as_posix(): path for path in photos}, root, short_side, folder)
        except OSError as error:
            raise UserError(f"cannot pack into {str(folder)!r}: {error.strerror or error}") from None
    return PackedPhotos(folder, root)


def packing(folder: Path) -> Path:
    """Where the pack that `folder` will be is written."""
    return folder.with_name(f".{folder.name}.packing")


def _current(folder: Path, root: Path) -> PackedPhotos:
    """The pack in `folder`, whole and with all photos that can be read. Raises `UserError`."""
    packed = PackedPhotos(folder, root)
    for photo in packed.photos:
        if photo.problem and not look(photo.name, root / photo.name, packed.short_side)[0].problem:
            raise UserError(f"{str(root / photo.name)!r} could not be read for {str(folder)!r}, and can be now")
    return packed


def _make(sources: Mapping[str, Source], root: Path, short_side: int, folder: Path) -> None:
    """Make the pack, unless another process has done so meanwhile; a damaged one makes way."""
    try:
        _current(folder, root)
        return
    except UserError as error:
        if folder.exists():
            log.warning("%s: packing it anew", error)
            shutil.rmtree(folder)
    _check_space(sources, short_side, folder)
    write_pack(sources, short_side, folder)


def write_pack(sources: Mapping[str, Source], short_side: int, folder: Path) -> None:
    """Decode the photos into a new pack, which appears in `folder` when it is whole.

    Killed or interrupted, it leaves what it has done to be gone on from; failing, as with a full disk, nothing.
    Raises `OSError`, and `UserError` if no photo is readable.
    """
    half = packing(folder)
    half.mkdir(exist_ok=True)
    try:
        manifest = _write_images(sources, short_side, half)
        write_text(half / MANIFEST, json.dumps(manifest))
        half.replace(folder)
    except Exception:  # not Ctrl-C
        shutil.rmtree(half, ignore_errors=True)
        raise


def _write_images(sources: Mapping[str, Source], short_side: int, folder: Path) -> dict[str, Any]:
    """Write the photos' pixels one after another, rows of RGB, and a line for each; returns the manifest."""
    with (folder / IMAGES).open("a+b") as images, (folder / PHOTOS).open("a+b") as lines:
        done, offset = _go_on(images, lines, list(sources), short_side)
        if done:
            log.info("Going on with %s: %d of %d photos are packed", folder, done, len(sources))
        rest = list(sources.items())[done:]
        packed = in_order(lambda item: look(*item, short_side), rest, "Packing the photos", done)
        for photo, pixels in packed:
            entry: dict[str, Any] = asdict(photo)
            if pixels is not None:
                images.write(pixels.data)
                entry["place"] = [offset, *pixels.shape[:2], zlib.crc32(pixels.data)]
                offset += pixels.nbytes
            lines.write(json.dumps(entry).encode() + b"\n")
        for file in (images, lines):
            file.flush()
            os.fsync(file.fileno())  # before the rename, or a power cut can leave holes
    if not offset:
        raise UserError(f"none of the {len(sources)} images can be read, {next(iter(sources))!r} the first of them")
    return {
        "format": FORMAT,
        "short_side": short_side,  # px, at most; smaller photos stay as they are
        "photos": len(sources),
        "bytes": offset,
    }


def _go_on(images: IO[bytes], lines: IO[bytes], names: Sequence[str], short_side: int) -> tuple[int, int]:
    """How many photos, in how many bytes, an interrupted process has packed whole; what follows them is cut off.

    Pixels are read and checked, as a power cut can leave holes.
    """
    header = json.dumps({"format": FORMAT, "short_side": short_side}).encode() + b"\n"
    images.seek(0)
    lines.seek(0)
    done, offset, length = 0, 0, 0
    if lines.readline() == header:
        length = len(header)
        for name, line in zip(names, lines, strict=False):
            try:
                photo, place = _entry(line)
            except (ValueError, TypeError):
                break
            pixels = images.read(place[1] * place[2] * 3) if place else b""
            expected = [offset, *place[1:3], zlib.crc32(pixels)] if place else []
            if photo.name != name or place != expected or not line.endswith(b"\n"):
                break
            done, offset, length = done + 1, offset + len(pixels), length + len(line)
    images.truncate(offset)
    lines.truncate(length)
    if not length:
        lines.write(header)
    return done, offset


def _entry(line: bytes) -> tuple[Photo, list[int]]:
    """A photo, and its place: offset, height, width, CRC-32, if it is not corrupt. Raises `ValueError`, `TypeError`."""
    entry = json.loads(line)
    place = entry.pop("place", [])
    return Photo(**entry), place


def _check_space(sources: Mapping[str, Source], short_side: int, folder: Path) -> None:
    """Compare the free space with what the pack will take, judged by a few dozen of the photos."""
    some = list(sources.items())[:: max(1, len(sources) // 32)]
    looks = in_order(lambda item: look(*item, short_side)[1], some, "Judging the size of the pack")
    taken = sum(pixels.nbytes for pixels in looks if pixels is not None)
    needed, free = taken * len(sources) // len(some), shutil.disk_usage(folder.parent).free
    there = 0
    with suppress(OSError):  # nothing to go on from
        there = (packing(folder) / IMAGES).stat().st_size
    if needed - there > free:
        raise UserError(
            f"{str(folder.parent)!r} has {decimal(free)} free, packing {len(sources)} photos takes about "
            f"{decimal(needed - there)}: data.packs=DIR puts them elsewhere, data.pack=false does without"
        )
    log.info("Packing %d photos into %s, once: about %s", len(sources), folder, decimal(needed))
