"""What is to be painted, one entry after the other: from a folder, a bucket or a manifest.

Never all in memory, but for the paths of a local folder, which are sorted.
"""

import csv
import json
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple
from urllib.parse import urlsplit

import fsspec
import numpy as np

from impasto.errors import UserError, one_line
from impasto.files import NAME_BYTES
from impasto.folder import REPORTS, painted_below
from impasto.image import SUFFIXES, WRITABLE, find_images
from impasto.mass import storage

MANIFESTS = (".txt", ".csv", ".tsv", ".jsonl", ".parquet")


class Entry(NamedTuple):
    """A picture to be: where its photo is, its name below the output, and what is wrong with them, if anything is."""

    source: str
    name: str
    mistake: str = ""

    @property
    def identity(self) -> int:
        """64 bits that tell it from all others of a run: no two have one name."""
        return hash64(self.name or f"\0{self.source}")


@dataclass(frozen=True)
class Source:
    """A folder at any depth, a prefix of a bucket, or a manifest: a row for each photo.

    A manifest is text with a path or URL in each line, or CSV, TSV, JSONL or Parquet with a column `input` and, where
    names are chosen, `output`; all but Parquet may be .gz. Relative paths start at the manifest. `suffix`: of results.
    """

    place: str
    output: str
    suffix: str | None = None

    def __iter__(self) -> Iterator[Entry]:
        """Every entry, in the same order each time. Raises `UserError` for a damaged manifest."""
        if self.manifest is None:
            return self._folder()
        return self._manifest(self.manifest)

    @property
    def manifest(self) -> str | None:
        """What kind of manifest it is, None for a folder. Raises `UserError` where it is neither."""
        file_system, path = storage.locate(self.place)
        if file_system.isdir(path):
            return None
        kind = PurePosixPath(path.removesuffix(".gz")).suffix.lower()
        if not file_system.exists(path):
            raise UserError(f"there is no folder or manifest {self.place!r}")
        if kind not in MANIFESTS:
            raise UserError(f"{self.place!r} is neither a folder nor a manifest ({', '.join(MANIFESTS)})")
        return kind

    def _folder(self) -> Iterator[Entry]:
        place, output = self.place.rstrip("/"), self.output.rstrip("/")
        if storage.same(place, output):
            raise UserError(f"output={self.output!r} is the input folder: its images would be written over")
        if storage.is_local(place):
            names = _unpainted(Path(place))
        else:
            names = (name for name in storage.walk(place, without=REPORTS) if _is_image(name))
        earlier = f"{output}/" if output.startswith(f"{place}/") else None
        for name in names:
            if earlier is None or not f"{place}/{name}".startswith(earlier):  # an earlier output is no input
                yield self._entry(f"{place}/{name}", name, None)

    def _manifest(self, kind: str) -> Iterator[Entry]:
        base = self.place.rpartition("/")[0]
        for row in _rows(self.place, kind):
            source, chosen = row.get("input"), row.get("output")
            if not isinstance(source, str) or not source or not isinstance(chosen, str | None):
                yield Entry(str(source), "", f"a row of the manifest has input={source!r}, output={chosen!r}: no paths")
                continue
            if "://" in source:
                scheme, _, name = source.partition("://")
                if scheme in ("http", "https"):  # elsewhere ? and # are letters like any other
                    name = urlsplit(source).netloc + urlsplit(source).path
                yield self._entry(source, name, chosen)
            else:
                yield self._entry(source if source.startswith("/") else f"{base}/{source}", source, chosen)

    def _entry(self, source: str, name: str, chosen: str | None) -> Entry:
        """With a name that can be written and leads nowhere else."""
        name = chosen or name.lstrip("/")
        if not _can_be_called(source) or not _can_be_called(name):
            return Entry(source, "", f"no file can be called {source!r}, or its result {name!r}")
        path = PurePosixPath(name)
        if ".." in path.parts or path.is_absolute() or not path.name:
            return Entry(source, "", f"{name!r} leads out of the output: give {source!r} another name, as `output`")
        suffix = path.suffix.lower()
        if chosen and suffix and suffix not in WRITABLE:
            return Entry(source, "", f"{name!r} should end with one of {', '.join(sorted(WRITABLE))}")
        if not (suffix in WRITABLE and (chosen or self.suffix in (None, suffix))):
            path = path.with_name(path.name + (self.suffix or ".png"))
        if any(len(part.encode("utf-8", "surrogateescape")) > NAME_BYTES for part in path.parts):
            return Entry(source, "", f"{source!r} has too long a name for its result's")
        return Entry(source, str(path))


def _can_be_called(name: str) -> bool:
    try:
        return b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:  # half of a character of JSON's
        return False


def _unpainted(place: Path) -> Iterator[str]:
    """Images at any depth, relative to the place, but for those that another run has painted in folders below."""
    painted = painted_below(place)
    for path in find_images(place):
        if (report := painted(path)) is None:
            yield path.relative_to(place).as_posix()
        else:
            storage.tell_of_passing(str(report.parent), report.name)


def _is_image(path: str) -> bool:
    name = PurePosixPath(path)
    return name.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in name.parts)


def hash64(*texts: str) -> int:
    """64 bits of texts: 1e8 images have one chance in 3,700 that any two agree."""
    content = "\0".join(texts).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "little")


def survey(source: Source) -> tuple[int, int]:
    """How many entries there are, and the sum of their identities modulo 2^64.

    Takes 8 bytes of memory for each, and as much again while they are sorted, or where the photos are in the output.
    Raises `UserError` where there are none, or two results of one name, which would meet, or where a result would be
    written over another's photo.
    """
    inside, below = array("Q"), storage.below(source.output)  # identities of the results that would be where photos are

    def identity(entry: Entry) -> int:
        if not entry.mistake and (name := below(entry.source)) is not None:
            inside.append(hash64(name))
        return entry.identity

    identities = np.fromiter(map(identity, source), np.uint64)
    if not len(identities):
        raise UserError(f"there are no images in {source.place!r}")
    ordered = np.sort(identities)
    over = set(np.intersect1d(identities, np.array(inside, np.uint64)).tolist()) if inside else ()
    if over:
        name = next(entry.name for entry in source if entry.identity in over)
        raise UserError(f"output={source.output!r}: {name!r} there is one of the inputs, and would be written over")
    if twice := set(ordered[1:][ordered[1:] == ordered[:-1]].tolist()):
        first: dict[str, str] = {}
        for entry in (entry for entry in source if entry.name and entry.identity in twice):
            if entry.name in first:
                both = f"{first[entry.name]!r} and {entry.source!r}"
                raise UserError(
                    f"{both} would both be written as {entry.name!r}: a manifest's column `output` names them apart"
                )
            first[entry.name] = entry.source
    return len(identities), int(identities.sum(dtype=np.uint64))


def _rows(place: str, kind: str) -> Iterator[dict[str, Any]]:
    """The rows of a manifest; of those with columns, `input` is one."""
    try:
        if kind == ".parquet":
            yield from _parquet_rows(place)
            return
        with fsspec.open(
            place, "rt", compression="infer", encoding="utf-8-sig", errors="surrogateescape", newline=""
        ) as file:
            yield from _text_rows(file, place, kind)
    except (csv.Error, EOFError, OSError) as error:  # EOFError: of a .gz that was cut
        raise UserError(f"the manifest {place!r} cannot be read: {one_line(error)}") from None


def _text_rows(file: IO[str], place: str, kind: str) -> Iterator[dict[str, Any]]:
    if kind in (".csv", ".tsv"):
        reader = csv.DictReader(file, delimiter="," if kind == ".csv" else "\t")
        _check_columns(place, list(reader.fieldnames or ()))
        yield from reader
        return
    for number, line in enumerate(file, 1):
        if not (line := line.strip("\r\n")):
            continue
        if kind == ".txt":
            yield {"input": line}
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise UserError(f"line {number} of the manifest {place!r} is no JSON object: {line[:80]!r}")
        _check_columns(place, list(row))
        yield row


def _parquet_rows(place: str) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet

    with fsspec.open(place, "rb") as file:
        try:
            table = pyarrow.parquet.ParquetFile(file)
            names = table.schema_arrow.names
            _check_columns(place, names)
            for batch in table.iter_batches(1024, columns=[name for name in ("input", "output") if name in names]):
                yield from batch.to_pylist()
        except pyarrow.ArrowException as error:
            raise UserError(f"the manifest {place!r} cannot be read: {one_line(error)}") from None


def _check_columns(place: str, names: list[str]) -> None:
    if "input" not in names:
        raise UserError(f"the manifest {place!r} has columns {names}: one should be called 'input'")


def absolute(place: str) -> str:
    """A path that means the same in another process; a URL as it is. Raises `UserError` for one that cannot be used."""
    if place.startswith("memory://"):
        raise UserError(f"{place!r} is in the memory of one process, and workers are others")
    if "::" in place and "://" in place:
        raise UserError(f"{place!r}: a folder within a file cannot be listed or written: unpack it first")
    return storage.locate(place)[1] if storage.is_local(place) else place
