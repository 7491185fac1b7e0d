"""COCO's photos: archives fetched and verified, then unpacked, or packed for training, in one pass each."""

import logging
import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.filesize import decimal

from impasto.archive import unpacked_size
from impasto.data.download import download
from impasto.data.pack import PackedPhotos, is_pack, packing, write_pack
from impasto.data.scan import RECORD, Photo, fingerprint, look, remember
from impasto.data.threads import in_order
from impasto.errors import UserError, one_line
from impasto.lock import held

log = logging.getLogger("impasto")

# by the bucket's path: the certificate of images.cocodataset.org does not fit its name
URL = "https://s3.amazonaws.com/images.cocodataset.org/zips"
BLOCK = 4096  # bytes, on disk, of which a file takes whole ones
COLUMNS = 4 / 3  # of a row of the average photo


@dataclass(frozen=True)
class Archive:
    """One of COCO's archives: the SHA-256 of the file, its bytes, and how many photos it holds."""

    sha256: str
    size: int
    photos: int


# SHA-256 and sizes as TensorFlow Datasets and torchvision have them
ARCHIVES = {
    "train2017": Archive("69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929", 19_336_861_798, 118_287),
    "val2017": Archive("4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05", 815_585_330, 5_000),
    "train2014": Archive("ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775", 13_510_573_713, 82_783),
    "val2014": Archive("fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0", 6_645_013_297, 40_504),
}


def fetch(
    root: Path,
    parts: Sequence[str],
    urls: Sequence[str] = (URL,),
    *,
    short_side: int | None = None,
    insecure: bool = False,
    archives: Mapping[str, Archive] = ARCHIVES,
) -> None:
    """Fetch parts of COCO into `root`: as photos, or with `short_side` (px) the training parts as packs of this size.

    Interrupted or killed at any point, the same call goes on; what is there already is kept, an archive in `root` is
    used, and a folder appears only when it is complete. Raises `UserError` if there is too little space for all of it,
    no server has a whole and right archive, a part is there in another form, or another process is at work in `root`.
    """
    parts = list(dict.fromkeys(parts))
    if unknown := [part for part in parts if part not in archives]:
        raise UserError(f"parts={unknown[0]} is unknown: there are {', '.join(archives)}")
    if short_side is not None and not any(part.startswith("train") for part in parts):
        raise UserError(f"pack={short_side} is of photos to learn from: parts={','.join(parts)} has none")
    pack_sizes = {part: short_side if part.startswith("train") else None for part in parts}  # photos to learn from
    with held(root, f"another process is fetching into {str(root)!r}"):
        missing = [part for part in parts if not (root / part).is_dir()]
        for part in parts:
            if part not in missing:
                _check_as_asked(root / part, pack_sizes[part], archives[part].photos)
        for part in missing:
            begun = (unpacking if pack_sizes[part] else packing)(root / part)
            if begun.exists():
                log.warning("%s was begun to be %s: it makes way", begun, "photos" if pack_sizes[part] else "a pack")
                shutil.rmtree(begun, ignore_errors=True)
        _check_space(root, {part: archives[part] for part in missing}, pack_sizes)
        for part in parts:
            folder, fetched = root / part, root / f".{part}.zip"
            if part in missing:
                given = root / f"{part}.zip"  # brought by the user, who keeps it
                zipped, archive = given if given.exists() else fetched, archives[part]
                download([f"{url}/{part}.zip" for url in urls], zipped, archive.sha256, archive.size, insecure=insecure)
                if size := pack_sizes[part]:
                    _pack(zipped, folder, size)
                else:
                    unpack(zipped, folder)
            for left in root.glob(f".{part}.zip*"):  # what was fetched of it before the user brought it, too
                left.unlink()
            log.info("Prepared %s" if part in missing else "%s is there already", folder)


def prepared_coco(root: str | os.PathLike[str] = "data/coco", training: str = "train2017") -> bool:
    """Whether COCO has been fetched, photos or pack, to where `data=coco` expects it."""
    return all((Path(root) / part).is_dir() for part in (training, "val2017"))


def _check_as_asked(folder: Path, short_side: int | None, photos: int) -> None:
    """Raise `UserError` where a part is there, but packed otherwise than asked for, damaged, or not all of it."""
    there = None
    if is_pack(folder):
        try:
            there = PackedPhotos(folder, folder).short_side
        except UserError as error:
            raise UserError(f"{error}: remove the folder to have it fetched anew") from None
    if there != short_side:
        asked, found = ("photos" if size is None else f"a pack of {size} px" for size in (short_side, there))
        raise UserError(f"{str(folder)!r} is there as {found}, not {asked}: remove the folder to have it fetched anew")
    if short_side is None and (count := sum(1 for _ in folder.glob("*.jpg"))) < photos:  # unpacked by somebody else
        raise UserError(f"{str(folder)!r} has {count:,} of {photos:,} photos: remove it to have it fetched anew")


def unpacking(folder: Path) -> Path:
    """Where the photos that `folder` will hold are written."""
    return folder.with_name(f".{folder.name}.unpacking")


def unpack(zipped: Path, folder: Path) -> None:
    """Unpack an archive's photos, and look at each, into `folder`, which appears when it is complete.

    What an interrupted process has unpacked is compared with the archive and kept.
    Raises `UserError` for a damaged archive, and one that holds anything but photos.
    """
    half = unpacking(folder)
    half.mkdir(exist_ok=True)

    def one(name: str) -> Photo:
        content, target = read(name), half / name
        if not target.is_file() or target.read_bytes() != content:
            target.write_bytes(content)
        return look(name, lambda: content, short_side=32)[0]

    with _photos(zipped, folder.name) as (names, read):
        photos = list(in_order(one, names, f"Unpacking {zipped.name}"))
    remember(half / RECORD, fingerprint([half / name for name in names], half), photos)
    if hasattr(os, "sync"):
        os.sync()  # before the archive goes, or a power cut can leave empty photos
    half.replace(folder)


def _pack(zipped: Path, folder: Path, short_side: int) -> None:
    """Decode an archive's photos into a pack, without unpacking them."""
    with _photos(zipped, folder.name) as (names, read):
        log.info("Packing %d photos into %s", len(names), folder)
        write_pack({name: partial(read, name) for name in names}, short_side, folder)


@contextmanager
def _photos(zipped: Path, part: str) -> Iterator[tuple[list[str], Callable[[str], bytes]]]:
    """The names of an archive's photos, sorted, and what reads one by name, its CRC checked."""
    shown = repr(str(zipped))
    try:
        with zipfile.ZipFile(zipped) as archive:
            members = dict[str, zipfile.ZipInfo]()
            for member in archive.infolist():
                if member.is_dir():
                    continue
                # no path that leads elsewhere, no link, no second file of the same name
                match = re.fullmatch(rf"{part}/(\w+\.jpg)", member.filename, re.ASCII)
                linked, encrypted = stat.S_ISLNK(member.external_attr >> 16), member.flag_bits & 1
                if match is None or linked or encrypted or match[1] in members:
                    raise UserError(
                        f"{shown} holds {member.filename!r}, which is no photo of {part}: nothing is unpacked"
                    )
                members[match[1]] = member
            # JPEGs cannot be compressed: what unpacks to far more is none of them
            if unpacked_size(zipped) > 2 * zipped.stat().st_size:
                raise UserError(f"{shown} unpacks to more than twice its size: nothing is unpacked")

            def read(name: str) -> bytes:
                content = archive.read(members[name])
                if len(content) != members[name].file_size:
                    raise zipfile.BadZipFile(f"{name} has {len(content)} bytes of {members[name].file_size}")
                return content

            yield sorted(members), read
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise UserError(f"{shown} is damaged ({one_line(error)}): remove it, and try again") from None


def _check_space(root: Path, archives: Mapping[str, Archive], pack_sizes: Mapping[str, int | None]) -> None:
    """Compare the free space with the most that is taken at once, less what an interrupted process has done."""
    taken, most = 0, 0
    for part, archive in archives.items():
        if size := pack_sizes[part]:
            result, half = round(archive.photos * 3 * COLUMNS * size**2), packing(root / part)
        else:
            result, half = archive.size + archive.photos * BLOCK, unpacking(root / part)
        fetched = _size(root / f".{part}.zip") + _size(root / f".{part}.zip.part")
        taken += result - _size(half)
        given = (root / f"{part}.zip").exists()
        most = max(most, taken + (0 if given else archive.size - fetched))
        taken -= fetched  # the archive goes
    free = shutil.disk_usage(root).free
    if free < most:
        raise UserError(
            f"{str(root)!r} has {decimal(free)} free, and fetching {', '.join(archives)} takes {decimal(most)} at once"
        )


def _size(path: Path) -> int:
    """Bytes of a file, or of the files in a folder."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.iterdir())
    return path.stat().st_size if path.is_file() else 0
