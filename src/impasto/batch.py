"""Images, films, folders and streams through one or several styles: each whole or not at all."""

import io
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from impasto import cli
from impasto.animation import Animation
from impasto.errors import UserError
from impasto.exif import TIFF
from impasto.files import check_place
from impasto.image import WRITABLE, check_format, check_not_input, check_suffix
from impasto.job import (
    SMOOTH,
    Job,
    Look,
    default_output,
    json_line,
    looks,
    read_content,
    result_size,
    result_suffix,
    write_result,
)
from impasto.picture_files import JPEG
from impasto.video import WRITABLE as VIDEOS
from impasto.video import check_video_suffix, is_video

log = logging.getLogger("impasto")


def run(job: Job, networks: Sequence[Path], source: str, output: str | None, as_json: bool = False) -> None:
    """Stylize an image, a film, a folder or the standard input (`-`).

    Raises `UserError` for bad input, and at the end of a folder in which an image failed.
    """
    film = source != "-" and is_video(Path(source)) and not Path(source).is_dir()
    if job.suffix is not None:
        check_format(job.suffix, VIDEOS if film else WRITABLE)
    for name, stream, place in (("input", sys.stdin, source), ("output", sys.stdout, output)):
        if place == "-" and stream is None:
            raise UserError(f"{name}=-: the standard {name} is closed")
    if source != "-" and not Path(source).exists():
        raise UserError(f"there is no image, video or folder {source!r}")
    if film and (job.tile or not job.exact):
        word = f"tile={job.tile}" if job.tile else "exact=false"
        raise UserError(f"{word} is for images: a film's frames are painted whole; size= makes them smaller")
    if not film and job.smooth != SMOOTH:
        raise UserError(f"smooth={job.smooth:g} is of videos: of pictures there are none before")
    several = len(networks) > 1 and job.mask is None
    if output == "-" and (several or Path(source).is_dir()):
        raise UserError("output=- takes one image and one style")
    if output == "-" and film:
        raise UserError("output=- takes an image: a video goes to a file")
    if source == "-" and output is None:
        raise UserError("input=- takes output=-, or a file")
    if output is not None and output != "-" and source != "-" and not Path(source).is_dir():
        _target(source, output + "/" * several, "", job.suffix)  # mistakes before minutes are spent
    folder = source != "-" and Path(source).is_dir()
    a_file = output is not None and Path(output).suffix.lower() in WRITABLE | VIDEOS and not output.endswith("/")
    if (several or folder) and a_file and not Path(str(output)).is_dir():
        what = f"{len(networks)} styles" if several else "a folder's pictures"
        raise UserError(f"output={output}: {what} go to a folder, not a file")
    chosen = looks(job, networks, film)
    names = [look.name for look in chosen]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"ckpt= has two networks called {twice[0]!r}: their pictures would meet; paint one at a time")
    places = [f"{output.rstrip('/')}/{name}/" if output is not None and several else output for name in names]
    piped = sys.stdin.buffer.read() if source == "-" else b""  # which is there once, for all styles
    failures = list[str]()
    for look, place in zip(chosen, places, strict=True):
        if film:
            _film(job, look, Path(source), place, as_json)
        elif not folder:
            _one(job, look, source, io.BytesIO(piped) if source == "-" else Path(source), place, as_json)
        else:
            from impasto.folder import stylize_folder  # and with it rich: a single picture is there sooner

            outputs = [*filter(None, (output, *places))]
            if failed := stylize_folder(job, look, Path(source), place, as_json, outputs):
                failures.append(failed)
    if failures:  # once every style had its turn
        raise UserError("; ".join(failures))


def _target(place: str, output: str | None, style: str, suffix: str | None) -> Path:
    """Where the one image at a place goes; an `output` that ends with a slash, or is there as one, is a folder."""
    source = Path("stdin.png" if place == "-" else place)
    check = check_video_suffix if is_video(source) else check_suffix
    if output is None:
        target = default_output(source, style)
        target = target if suffix is None else target.with_suffix(suffix)
    else:
        target = Path(output)
        if not target.suffix and suffix is not None and not output.endswith("/") and not target.is_dir():
            target = target.with_suffix(suffix)
        if target.is_dir() or output.endswith("/"):  # which Path() drops
            target = target / source.with_suffix(result_suffix(source, suffix)).name
    check(target)
    if suffix is not None and not _same_format(target.suffix.lower(), suffix):
        raise UserError(f"output={output} with format={suffix[1:]}: say one of them, or the same with both")
    check_place(target)
    if place != "-":  # the default name, too, may be a link to it
        check_not_input(target, [source])
    return target


def _same_format(suffix: str, other: str) -> bool:
    return suffix == other or any({suffix, other} <= {*names} for names in (JPEG, TIFF))


def _one(job: Job, look: Look, source: str, content: Path | io.BytesIO, output: str | None, as_json: bool) -> None:
    begun = time.perf_counter()
    target: Path | IO[bytes]
    if output == "-":
        target, suffix = sys.stdout.buffer, job.suffix or ".png"
    else:
        target = _target(source, output, look.name, job.suffix)
        check_not_input(target, [] if job.mask is None else [job.mask])
        suffix = target.suffix.lower()
    picture = read_content(job, content, suffix)
    painted = picture.painted(look.paint) if isinstance(picture, Animation) else look.paint(picture)
    write_result(job, painted, target, suffix)
    if isinstance(target, Path):
        log.info("Wrote %s", target)
    else:
        target.flush()
    if as_json and output != "-":
        seconds = round(time.perf_counter() - begun, 3)
        cli.say(json_line({"input": source, "output": str(target), "status": "done", "seconds": seconds}))


def _film(job: Job, look: Look, source: Path, output: str | None, as_json: bool) -> None:
    begun = time.perf_counter()
    target = _target(str(source), output, look.name, job.suffix)

    from impasto.video.clip import read_clip  # and with it PyAV, which is optional
    from impasto.video.film import stylize_film

    clip = read_clip(source, job.megapixels)
    size = result_size(job, repr(str(source)), clip.size)
    frames = stylize_film(
        clip,
        target,
        look.paint,
        look.memories,
        size=size,
        key=look.key,
        quality=job.quality,
        keep_metadata=job.keep_metadata,
        quiet=as_json,
    )
    log.info("Wrote %s, %d frames", target, frames)
    if as_json:
        seconds = round(time.perf_counter() - begun, 3)
        record = {"input": str(source), "output": str(target), "status": "done", "frames": frames, "seconds": seconds}
        cli.say(json_line(record))
