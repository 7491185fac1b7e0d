"""Every image under a folder: reading, painting and writing overlap, and what is done is not done again."""

import hashlib
import io
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TextIO

from impasto import cli
from impasto.animation import Animation
from impasto.errors import PictureError, UserError
from impasto.files import check_place
from impasto.image import find_images
from impasto.job import Job, Look, default_output, json_line, read_content, result_suffix, write_result
from impasto.picture import Picture
from impasto.picture_files import check_file
from impasto.progress import progress_bar
from impasto.video import is_video

log = logging.getLogger("impasto")

REPORT = "report.jsonl"
REPORTS = "_report"  # a folder of stylize_many.py's


def stylize_folder(
    job: Job, look: Look, folder: Path, output: str | None, as_json: bool, outputs: Sequence[str]
) -> str | None:
    """Every image under a folder, into the same places under the output; reading, painting and writing overlap.

    Returns a line on images that failed, where any did.

    `outputs` are all styles' folders, and the one that they are in: inside the input folder, what is there is no input;
    nor is what was painted before, as `painted_below` knows.
    """
    place = default_output(folder, look.name) if output is None else Path(output)
    if place.is_file():
        raise UserError(f"output={place}: a folder's pictures go to a folder, not a file")
    if _identity(place) == _identity(folder):
        raise UserError(f"output={str(place)!r} is the input folder: its images would be written over")
    inside = sorted(folder.rglob("*"))
    if films := [path.name for path in inside if is_video(path)]:
        log.info("left out: %d videos (%s): input= takes them one by one", len(films), ", ".join(films[:3]))
    sources = find_images(folder)
    whole = folder.resolve()
    ours = [path for path in (Path(each).resolve() for each in outputs) if whole in path.parents]
    sources = [path for path in sources if not any(path.resolve().is_relative_to(each) for each in ours)]
    painted = painted_below(folder)
    photos = [path for path in sources if painted(path) is None]
    if len(photos) < len(sources):
        log.info("left out: %d pictures painted before", len(sources) - len(photos))
    sources = photos
    if not sources:
        raise UserError(f"there are no images in {str(folder)!r} but those of output={str(place)!r}")
    targets = _targets(sources, folder, place, job.suffix)
    inputs = {_file_identity(path) for path in (*sources, *([] if job.mask is None else [job.mask]))}
    if over := next((target for target in targets if _file_identity(target) in inputs), None):
        raise UserError(f"output={str(place)!r}: {str(over)!r} is one of the inputs, and would be written over")
    before = {str(place / name): digest for name, digest in _done_before(place / REPORT, look.key).items()}
    Path(os.path.realpath(place)).mkdir(parents=True, exist_ok=True)  # a link may lead to what is not there yet
    counts = {"done": 0, "failed": 0, "skipped": 0}
    with (
        _appended(place / REPORT) as report,
        progress_bar(look.name, "images", as_json) as progress,
    ):
        bar = progress.add_task("", total=len(sources))
        for record in _painted(job, look, sources, targets, before):
            counts[record["status"]] += 1
            name = Path(record["output"]).relative_to(place).as_posix()  # the same, however the folder is called
            line = json_line({**record, "name": name, "key": look.key})
            if record["status"] != "skipped":
                report.write(line + "\n")
                report.flush()
            if record["status"] == "failed":
                log.warning("skipped: %s", record["error"])
            if as_json:
                cli.say(line)
            progress.advance(bar)
    left = f", {counts['skipped']} were there already" if counts["skipped"] else ""
    log.info("Wrote %d images to %s%s", counts["done"], place, left)
    if not counts["failed"]:
        return None
    return f"{counts['failed']} of {len(sources)} images failed; {str(place / REPORT)!r} says why"


def _identity(folder: Path) -> object:
    """What is the same for a folder whatever it is called: in letters of either case, by a second mount."""
    try:
        status = folder.stat()
    except OSError:  # not there yet
        return folder.resolve()
    return (status.st_dev, status.st_ino) if status.st_ino else folder.resolve()


def _file_identity(path: Path) -> tuple[object, str]:
    """By its folder: files may have several names, of which writing replaces one."""
    real = path.resolve()
    return _identity(real.parent), real.name


def painted_below(folder: Path) -> Callable[[Path], Path | None]:
    """Of an image at any depth, what tells that it was painted: a report in a folder inside `folder`; None for a photo.

    stylize.py's report names what it has painted, stylize_many.py's is of the whole folder that it is in.
    """

    @cache
    def names(place: Path) -> frozenset[str]:
        report = place / REPORT
        return frozenset(_name(record) for record in _records(report) if record["status"] == "done")

    @cache
    def whole(place: Path) -> bool:
        return (place / REPORTS).is_dir()

    def painted(image: Path) -> Path | None:
        for place in image.parents:
            if place == folder:  # which may be one, as it is asked for
                return None
            if whole(place):
                return place / REPORTS
            if image.relative_to(place).as_posix() in names(place):
                return place / REPORT
        return None

    return painted


@dataclass(frozen=True)
class _Read:
    """An image of the folder: what it holds, an error where it cannot be read, None where it was painted before."""

    source: Path
    target: Path
    sha256: str
    content: Picture | Animation | UserError | None


def _painted(
    job: Job, look: Look, sources: Sequence[Path], targets: Sequence[Path], before: dict[str, str]
) -> Iterator[dict[str, Any]]:
    """A record for each image, in order; while some are painted, the next are read and the last ones written."""
    groups = _groups(look, (_read(job, *pair, before) for pair in zip(sources, targets, strict=True)))
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        ahead: Future[list[_Read]] = reader.submit(next, groups, [])
        behind: list[tuple[dict[str, Any], Future[None] | None]] = []
        try:
            while group := ahead.result():
                ahead = reader.submit(next, groups, [])
                begun = time.perf_counter()
                results = _paint(look, group)
                seconds = round((time.perf_counter() - begun) / len(group), 3)
                for record, writing in behind:
                    yield _written(record, writing)
                behind = []
                for image, result in zip(group, results, strict=True):
                    record = {"input": str(image.source), "output": str(image.target), "sha256": image.sha256}
                    writing = None
                    if result is None:
                        record["status"] = "skipped"
                    elif isinstance(result, UserError):
                        record |= {"status": "failed", "error": str(result)}
                    else:
                        record |= {"status": "done", "seconds": seconds}
                        writing = writer.submit(write_result, job, result, image.target, image.target.suffix.lower())
                    behind.append((record, writing))
            for record, writing in behind:
                yield _written(record, writing)
        finally:
            ahead.cancel()


def _read(job: Job, source: Path, target: Path, before: dict[str, str]) -> _Read:
    try:
        check_file(source)
        check_place(target)
        with source.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        there = target.is_file() and before.get(str(target)) == digest
        return _Read(source, target, digest, None if there else read_content(job, source, target.suffix.lower()))
    except UserError as error:
        return _Read(source, target, "", error)
    except OSError as error:
        return _Read(source, target, "", UserError(f"{str(source)!r} cannot be read: {error.strerror or error}"))


def _groups(look: Look, images: Iterable[_Read]) -> Iterator[list[_Read]]:
    """Pictures of one size that follow one another, as many as are painted at once; anything else alone."""
    group: list[_Read] = []
    room, size = 1, (0, 0)
    for image in images:
        picture = image.content if isinstance(image.content, Picture) else None
        if group and (picture is None or picture.size != size):
            yield group
            group = []
        group.append(image)
        if len(group) == 1:
            room, size = (1, (0, 0)) if picture is None else (look.at_once(picture), picture.size)
        if len(group) == room:
            yield group
            group = []
    if group:
        yield group


def _paint(look: Look, group: Sequence[_Read]) -> list[Picture | Animation | UserError | None]:
    """What becomes of each; a picture that cannot be painted does not take the others with it."""
    try:
        if isinstance(animation := group[0].content, Animation):
            return [animation.painted(look.paint)]
        if pictures := [image.content for image in group if isinstance(image.content, Picture)]:
            return [*look.paint_all(pictures)]
        return [image.content for image in group]  # nothing to paint
    except UserError as error:
        if len(group) == 1:
            return [error]
        return [result for image in group for result in _paint(look, [image])]


def _written(record: dict[str, Any], writing: Future[None] | None) -> dict[str, Any]:
    """The record of an image, once it is written; a full disk ends it all: the next image would fare no better."""
    try:
        if writing is not None:
            writing.result()
    except PictureError as error:
        return record | {"status": "failed", "error": f"{record['input']!r}: {error}"}
    return record


def _targets(sources: Sequence[Path], folder: Path, place: Path, suffix: str | None) -> list[Path]:
    """The same place and name for each, with the suffix that can be written.

    Where two would meet, as photo.jpg and photo.png do with format=, those whose names change keep their own suffix
    before it.
    """
    changed = [place / source.relative_to(folder).with_suffix(result_suffix(source, suffix)) for source in sources]
    count = Counter(changed)
    targets = [
        target
        if target.name == source.name or count[target] == 1 and suffix is not None
        else place / source.relative_to(folder).with_name(source.name + result_suffix(source, suffix))
        for source, target in zip(sources, changed, strict=True)
    ]
    count = Counter(targets)
    if met := [str(source) for source, target in zip(sources, targets, strict=True) if count[target] > 1]:
        raise UserError(f"{met[0]!r} and {met[1]!r} would get the same name: rename one, or say another format=")
    folders = {above for target in targets for above in target.parents}
    if hidden := next((pair for pair in zip(sources, targets, strict=True) if pair[1] in folders), None):
        raise UserError(f"{str(hidden[0])!r} would get the name of a folder, {str(hidden[1])!r}: rename one")
    return targets


def _appended(report: Path) -> TextIO:
    """Opened for further lines; half a line, as a full disk leaves, is ended."""
    file = report.open("a+b")
    if file.tell() and not report.read_bytes().endswith(b"\n"):
        file.write(b"\n")
    return io.TextIOWrapper(file, encoding="utf-8")


def _done_before(report: Path, key: str) -> dict[str, str]:
    """Name below the output → SHA-256 of its input, of what an earlier run with the same key did."""
    done: dict[str, str] = {}
    for record in _records(report):
        name = _name(record)
        if record["key"] == key and record["status"] == "done":
            done[name] = record["sha256"]
        else:
            done.pop(name, None)
    return done


def _name(record: dict[str, str]) -> str:
    """Where a record's picture is below the report's folder."""
    return str(record.get("name", Path(record["output"]).name))


def _records(report: Path) -> Iterator[dict[str, str]]:
    """The lines of a report; half a line is no line, and other programs have files of its name, too."""
    if not report.is_file():
        return
    # names may hold what else ends a line
    for line in report.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            record = json.loads(line)
            if all(isinstance(record[key], str) for key in ("key", "status", "output", "sha256")):
                yield record
        except (ValueError, KeyError, TypeError):
            continue
