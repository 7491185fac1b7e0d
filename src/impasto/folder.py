"""Every image under a folder: reading, painting and writing overlap, and what is done is not done again."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from impasto.animation import Animation
from impasto.errors import PictureError, UserError
from impasto.image import find_images
from impasto.job import Job, Look, default_output, json_line, read_content, result_suffix, write_result
from impasto.picture import Picture, check_file
from impasto.video import is_video

log = logging.getLogger("impasto")

REPORT = "report.jsonl"
NAME_BYTES = 255  # of a file, on all common file systems


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Images a second."""
        return Text("" if task.speed is None else f"{task.speed:.2f} images/s")


def stylize_folder(job: Job, look: Look, folder: Path, output: str | None, as_json: bool) -> None:
    """Every image under a folder, into the same places under the output; reading, painting and writing overlap."""
    place = default_output(folder, look.name) if output is None else Path(output)
    if place.is_file():
        raise UserError(f"the input is a folder, so output={str(place)!r} must be a folder, not a file")
    if place.resolve() == folder.resolve():
        raise UserError(f"output={str(place)!r} is the input folder: its images would be written over")
    sources = find_images(folder)
    if films := [path.name for path in sorted(folder.rglob("*")) if is_video(path)]:
        log.info("left out: %d videos (%s): input= takes them one by one", len(films), ", ".join(films[:3]))
    # an earlier output inside the input folder is no input
    sources = [path for path in sources if not path.resolve().is_relative_to(place.resolve())] or sources
    targets = _targets(sources, folder, place, job.suffix)
    before = _done_before(place / REPORT, look.key)
    place.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn(look.name), BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn())
    counts = {"done": 0, "failed": 0, "skipped": 0}
    with (
        (place / REPORT).open("a", encoding="utf-8") as report,
        Progress(*columns, transient=True, disable=as_json) as progress,
    ):
        bar = progress.add_task("", total=len(sources))
        for record in _painted(job, look, sources, targets, before):
            counts[record["status"]] += 1
            line = json_line({**record, "key": look.key})
            if record["status"] != "skipped":
                report.write(line + "\n")
                report.flush()
            if record["status"] == "failed":
                log.warning("skipped: %s", record["error"])
            if as_json:
                print(line, flush=True)
            progress.advance(bar)
    left = f", {counts['skipped']} were there already" if counts["skipped"] else ""
    log.info("Wrote %d images to %s%s", counts["done"], place, left)
    if counts["failed"]:
        raise UserError(f"{counts['failed']} of {len(sources)} images failed; {str(place / REPORT)!r} says why")


def _painted(
    job: Job, look: Look, sources: Sequence[Path], targets: Sequence[Path], before: dict[str, str]
) -> Iterator[dict[str, Any]]:
    """A record for each image, in order; while one is painted, the next is read and the last one written."""

    def read(source: Path, target: Path) -> tuple[str, Picture | Animation | UserError | None]:
        try:
            check_file(source)
            if len(os.fsencode(target.name)) > NAME_BYTES:
                return "", UserError(f"{str(source)!r} has too long a name for its result's")
            with source.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if target.is_file() and before.get(str(target)) == digest:
                return digest, None
            return digest, read_content(job, source, target.suffix.lower())
        except UserError as error:
            return "", error
        except OSError as error:
            return "", UserError(f"{str(source)!r} cannot be read: {error.strerror or error}")

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        pairs = list(zip(sources, targets, strict=True))
        ahead: Future[Any] = reader.submit(read, *pairs[0])
        behind: tuple[Future[None], dict[str, Any]] | None = None
        try:
            for index, (source, target) in enumerate(pairs):
                digest, picture = ahead.result()
                begun = time.perf_counter()
                if index + 1 < len(pairs):
                    ahead = reader.submit(read, *pairs[index + 1])
                record = {"input": str(source), "output": str(target), "sha256": digest, "status": "done"}
                painted: Picture | Animation | None = None
                if picture is None:
                    record["status"] = "skipped"
                elif isinstance(picture, UserError):
                    record |= {"status": "failed", "error": str(picture)}
                else:
                    try:
                        painted = picture.painted(look.paint) if isinstance(picture, Animation) else look.paint(picture)
                    except UserError as error:
                        record |= {"status": "failed", "error": str(error)}
                if behind is not None:
                    yield _written(*behind)
                    behind = None
                if painted is None:
                    yield record
                else:
                    record["seconds"] = round(time.perf_counter() - begun, 3)
                    behind = writer.submit(write_result, job, painted, target, target.suffix.lower()), record
            if behind is not None:
                yield _written(*behind)
        finally:
            ahead.cancel()


def _written(writing: Future[None], record: dict[str, Any]) -> dict[str, Any]:
    """The record of an image, once it is written; a full disk ends it all: the next image would fare no better."""
    try:
        writing.result()
    except PictureError as error:
        return record | {"status": "failed", "error": f"{record['input']!r}: {error}"}
    return record


def _targets(sources: Sequence[Path], folder: Path, place: Path, suffix: str | None) -> list[Path]:
    """The same place and name for each, with the suffix that can be written.

    Where two would meet, as photo.jpg and photo.png do with format=, both keep their own suffix before it.
    """
    changed = [place / source.relative_to(folder).with_suffix(result_suffix(source, suffix)) for source in sources]
    return [
        target
        if target.name == source.name or changed.count(target) == 1 and suffix is not None
        else place / source.relative_to(folder).with_name(source.name + result_suffix(source, suffix))
        for source, target in zip(sources, changed, strict=True)
    ]


def _done_before(report: Path, key: str) -> dict[str, str]:
    """Output → SHA-256 of its input, of what an earlier run with the same key did; half a line is no line."""
    done: dict[str, str] = {}
    if report.is_file():
        for line in report.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = json.loads(line)
                if record["key"] == key and record["status"] == "done":
                    done[record["output"]] = record["sha256"]
                else:
                    done.pop(record["output"], None)
            except (ValueError, KeyError, TypeError):
                continue
    return done
