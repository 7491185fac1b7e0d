"""A look at every photo before hours are spent on them: which are corrupt, tiny, grey or there twice."""

import hashlib
import io
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image

from impasto.data.threads import MANY, in_order
from impasto.errors import UserError
from impasto.files import write_text
from impasto.image import read_image
from impasto.lock import held

log = logging.getLogger("impasto")

FORMAT = 1
RECORD = ".scan.jsonl"  # in a folder that was looked through as it was made
KINDS = ("corrupt", "tiny", "grey", "duplicate")
GLANCE = 32  # px of short side at which a photo is looked at
GREY = 8  # levels of 255, by which compression lets the channels of a grey photo differ

Source: TypeAlias = Path | Callable[[], bytes]  # a file, or what reads one


@dataclass(frozen=True)
class Photo:
    """What a look at one photo found; of a corrupt one, only its `name` and `problem`.

    `name` is its path under the folder, `width` and `height` are in px, as stored; `grey` photos have three equal
    channels; `sha256` is the file's.
    """

    name: str
    width: int = 0
    height: int = 0
    grey: bool = False
    sha256: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Reject:
    """A photo that is left out: its name, one of `KINDS`, and the reason in words."""

    photo: str
    kind: str
    reason: str


def look(name: str, source: Source, short_side: int) -> tuple[Photo, np.ndarray | None]:
    """Look at one photo and decode it, uint8, (height, width, 3), as `read_image` does; None for a corrupt one."""
    opened = source if isinstance(source, Path) else io.BytesIO(source())
    try:
        pixels = np.array(read_image(opened, short_side))
        # grey or not does not depend on the size that is asked for
        small = pixels if short_side == GLANCE else np.array(read_image(opened, GLANCE))
        with opened.open("rb") if isinstance(opened, Path) else opened as file:
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            width, height = Image.open(file).size
    except (UserError, OSError) as error:
        return Photo(name, problem=str(error).replace("the stream", repr(name))), None
    return Photo(name, width, height, _is_grey(small), sha256), pixels


def _is_grey(pixels: np.ndarray) -> bool:
    def equal(some: np.ndarray) -> bool:
        red, green, blue = np.moveaxis(some.astype(np.int16), 2, 0)
        return bool(max(abs(red - green).max(), abs(green - blue).max()) <= GREY)

    return equal(pixels[::8, ::8]) and equal(pixels)  # most photos need no second look


def scan(paths: Sequence[Path], root: Path, records: Path) -> list[Photo]:
    """Look at all photos under a folder, once: what was found among many is remembered in the folder `records`.

    Every file is decoded (JPEGs at an eighth of their size). Of several processes one looks, the others wait.
    Those that could not be read are looked at again each time: a package or a right may have come, a disk be back.
    """
    key = fingerprint(paths, root)
    if (known := _recall(root / RECORD, key)) is not None:
        return _with_mended(known, root)
    if len(paths) < MANY:  # a matter of seconds
        return _look_through(paths, root)
    record = records / f"{key[:8]}{RECORD}"
    if (known := _recall(record, key)) is not None:  # also while another packs, which may take hours
        return _with_mended(known, root)
    try:
        with held(records, f"Waiting for another process that looks at, or packs, {str(root)!r}", None, lock_of(root)):
            known = _recall(record, key)
            if known is not None:
                return _with_mended(known, root)
            known = _look_through(paths, root)
            remember(record, key, known)
    except (OSError, UserError) as error:
        log.warning("what the photos are like will not be remembered: %s", error)
    return _look_through(paths, root) if known is None else known


def _look_through(paths: Sequence[Path], root: Path) -> list[Photo]:
    def one(path: Path) -> Photo:
        return look(path.relative_to(root).as_posix(), path, GLANCE)[0]

    return list(in_order(one, paths, "Looking through the photos"))


def _with_mended(photos: Sequence[Photo], root: Path) -> list[Photo]:
    broken = [root / photo.name for photo in photos if photo.problem]
    anew = {photo.name: photo for photo in _look_through(broken, root)} if broken else {}
    return [anew.get(photo.name, photo) for photo in photos]


def fingerprint(paths: Sequence[Path], root: str | os.PathLike[str], times: bool = True) -> str:
    """Another one once any of the photos is added, removed, renamed or changed: by its size and, with `times`, time."""
    digest = hashlib.sha256()
    for path in paths:
        size, changed = 0, 0
        with suppress(OSError):  # a link to nowhere, which is a reject; or it has gone meanwhile
            status = path.stat()
            size, changed = status.st_size, status.st_mtime_ns
        told = [path.relative_to(root).as_posix(), str(size), *([str(changed)] if times else [])]
        digest.update(os.fsencode("\0".join(told) + "\n"))
    return digest.hexdigest()


def short_key(photo: Path, root: str | os.PathLike[str]) -> str:
    """Ten letters for a photo by its place in a folder, which do not tell its name."""
    return hashlib.sha256(os.fsencode(photo.relative_to(root).as_posix())).hexdigest()[:10]


def folder_key(root: Path) -> str:
    """A short name for a folder by its place: many are called photos."""
    return hashlib.sha256(os.fsencode(root.absolute())).hexdigest()[:6]


def lock_of(root: Path) -> str:
    """The name of the file that a process locks while it writes what it finds in `root`."""
    return f".{folder_key(root)}.lock"


def remember(record: Path, key: str, photos: Iterable[Photo]) -> None:
    """Write what was found, as JSON lines. Raises `UserError` where it cannot be written."""
    write_text(record, _lines([{"format": FORMAT, "fingerprint": key}, *map(asdict, photos)]))


def _recall(record: Path, key: str) -> list[Photo] | None:
    """What a record holds, if it is of these very photos."""
    try:
        first, *lines = record.read_text(encoding="utf-8").splitlines()
        if json.loads(first) != {"format": FORMAT, "fingerprint": key}:
            return None
        return [Photo(**json.loads(line)) for line in lines]
    except (OSError, ValueError, TypeError):  # none there, or damaged
        return None


def unfit(photos: Sequence[Photo], image_size: int, keep: Sequence[str] = ()) -> list[Reject]:
    """The photos not to learn from: corrupt, with a short side below the crop's, without colour, or there before.

    The kinds in `keep` are learned from all the same. Of photos whose files are equal the first one stays.
    """
    rejects, seen = [], dict[str, str]()
    for photo in photos:
        side, first = min(photo.width, photo.height), seen.setdefault(photo.sha256, photo.name)
        found = {
            "corrupt": photo.problem,
            "tiny": f"{photo.width}×{photo.height} px, less than the crop's {image_size}" if side < image_size else "",
            "grey": "it has no colour" if photo.grey else "",
            "duplicate": f"the same file as {first!r}" if first != photo.name else "",
        }
        kind = next((kind for kind in KINDS if found[kind] and (kind == "corrupt" or kind not in keep)), "")
        if kind:
            rejects.append(Reject(photo.name, kind, found[kind]))
    return rejects


def report(rejects: Sequence[Reject], total: int, root: Path, most: float, named: int = 3) -> None:
    """Name the first few of each kind of rejects, and count them.

    Raises `UserError` if they are more than the share `most` of all, or all.
    """
    if not rejects:
        return
    kinds: Mapping[str, int] = Counter(reject.kind for reject in rejects)
    counts = ", ".join(f"{kinds[kind]} {kind}" for kind in KINDS if kind in kinds)
    for kind in kinds:
        for reject in [reject for reject in rejects if reject.kind == kind][:named]:
            log.warning("skipped: %s is %s: %s", reject.photo, kind, reject.reason)
    summary = f"{len(rejects)} of {total} images in {os.fspath(root)!r}"
    if len(rejects) == total:
        raise UserError(f"none of the {total} images in {os.fspath(root)!r} will do ({counts}): {_mend(kinds)}")
    if len(rejects) / total > most:
        raise UserError(
            f"{summary} will not do ({counts}), more than data.max_rejects={most:g} of them: {_mend(kinds)}, "
            f"or data.max_rejects={math.ceil(100 * len(rejects) / total) / 100:g} leaves them out"
        )
    log.warning("skipped %s: %s", summary, counts)


def _mend(kinds: Iterable[str]) -> str:
    keepable = ",".join(kind for kind in KINDS[1:] if kind in kinds)
    smaller = " or a smaller data.image_size=" if "tiny" in kinds else ""
    return "mend or remove them" + (f", or data.keep={keepable}{smaller} learns from them, too" if keepable else "")


def write_rejects(path: Path, rejects: Iterable[Reject]) -> None:
    """Write all rejects as JSON lines. Raises `UserError` where they cannot be written."""
    write_text(path, _lines(map(asdict, rejects)))


def _lines(entries: Iterable[Mapping[str, object]]) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in entries)
