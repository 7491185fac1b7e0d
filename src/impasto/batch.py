"""Images, folders, films and streams through one or several styles: each whole or not at all, and accounted for."""

import hashlib
import io
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from impasto.animation import ANIMATED, Animation, read_animation, write_animation
from impasto.controls import Controls
from impasto.engines import Engine
from impasto.errors import UserError
from impasto.image import WRITABLE, check_writable, find_images
from impasto.picture import Picture, read_picture, write_picture
from impasto.stylizer import Stylizer, masked
from impasto.video import WRITABLE as WRITABLE_VIDEOS
from impasto.video import check_writable_video, is_video

log = logging.getLogger("impasto")

REPORT = "report.jsonl"


@dataclass(frozen=True)
class Job:
    """What is done to every image; the fields are those of stylize.py's words."""

    controls: Controls = field(default_factory=Controls)
    mask: Path | None = None
    feather: float = 16.0
    quality: int = 95
    suffix: str | None = None
    keep_metadata: bool = True
    megapixels: float = 178
    smooth: float = 0.0
    device: str = "auto"
    precision: str = "auto"


@dataclass(frozen=True)
class Look:
    """One way to paint: a name for files, the function, and a key that changes with anything that changes pictures.

    `engines` are the networks behind it.
    """

    name: str
    paint: Callable[[Picture], Picture]
    key: str
    engines: tuple[Engine, ...]


def looks(job: Job, networks: Sequence[Path], film: bool = False) -> list[Look]:
    """One for each network; with a mask and two networks, one in which the second paints where it is black.

    Those of a `film` remember the frames before.
    """
    mask = None if job.mask is None else read_picture(job.mask, job.megapixels)
    if mask is not None and len(networks) > 2:
        raise UserError(f"mask= takes one style, or two, not {len(networks)}")
    stylizers = [Stylizer.load(str(path), job.device, job.precision) for path in networks]
    if film:
        from impasto.temporal import with_memory  # and with it torch, which not all engines take

        stylizers = [Stylizer(with_memory(each.engine, job.smooth)) for each in stylizers]

    def key(*paths: Path) -> str:
        files = [path for path in (*paths, job.mask) if path is not None]
        contents = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
        options = {**asdict(job), "mask": None, "controls": asdict(job.controls), "smooth": film and job.smooth}
        return hashlib.sha256(json.dumps([contents, options], sort_keys=True).encode()).hexdigest()[:16]

    def painter(stylizer: Stylizer) -> Callable[[Picture], Picture]:
        def paint(picture: Picture) -> Picture:
            painted = stylizer.paint(picture, job.controls)
            return painted if mask is None else masked(painted, picture, mask, job.feather)

        return paint

    if mask is not None and len(networks) == 2:
        split, (first, second) = mask, stylizers

        def both(picture: Picture) -> Picture:
            inside, outside = first.paint(picture, job.controls), second.paint(picture, job.controls)
            return masked(inside, outside, split, job.feather)

        return [Look(f"{first.name}_{second.name}", both, key(*networks), (first.engine, second.engine))]
    return [
        Look(each.name, painter(each), key(path), (each.engine,))
        for each, path in zip(stylizers, networks, strict=True)
    ]


def run(job: Job, networks: Sequence[Path], source: str, output: str | None, as_json: bool = False) -> None:
    """Stylize an image, a film, a folder or the standard input (`-`).

    Raises `UserError` for bad input, and at the end of a folder in which an image failed.
    """
    film = source != "-" and is_video(Path(source)) and not Path(source).is_dir()
    if job.suffix is not None:
        (check_writable_video if film else check_writable)(Path(f"picture{job.suffix}"))
    if source != "-" and not Path(source).exists():
        raise UserError(f"there is no image or folder {source!r}")
    several = len(networks) > 1 and job.mask is None
    if output == "-" and (several or Path(source).is_dir()):
        raise UserError("output=- takes one image and one style")
    if output == "-" and film:
        raise UserError("output=- takes an image: a video goes to a file")
    if source == "-" and output is None:
        raise UserError("input=- takes output=-, or a file")
    if output is not None and output != "-" and source != "-" and not Path(source).is_dir():
        _target(Path(source), output + "/" * several, "", job.suffix)  # mistakes before minutes are spent
    for look in looks(job, networks, film):
        place = output
        if output is not None and several:
            place = f"{output.rstrip('/')}/{look.name}/"
        if film:
            _film(job, look, Path(source), place, as_json)
        elif source == "-" or not Path(source).is_dir():
            _one(job, look, source, place, as_json)
        else:
            _folder(job, look, Path(source), place, as_json)


def default_output(source: Path, style: str) -> Path:
    """A name beside the input: `photo.jpg` → `photo_starry_night.jpg`, a folder → `folder_starry_night`."""
    if source.is_dir():
        return source.resolve().with_name(f"{source.resolve().name}_{style}")
    return source.with_name(f"{source.stem}_{style}{_suffix(source, None)}")


def _suffix(source: Path, asked: str | None) -> str:
    """The result's: as asked for, else the input's, or .png, of films .mp4, for what cannot be written."""
    if asked is not None:
        return asked
    if is_video(source):
        return source.suffix if source.suffix.lower() in WRITABLE_VIDEOS else ".mp4"
    return source.suffix if source.suffix.lower() in WRITABLE else ".png"


def _target(source: Path, output: str | None, style: str, suffix: str | None) -> Path:
    """Where one image goes; an `output` that ends with a slash, or is there as one, is a folder."""
    check = check_writable_video if is_video(source) else check_writable
    if output is None:
        target = default_output(source, style)
        target = target if suffix is None else target.with_suffix(suffix)
        check(target)
        return target
    target = Path(output)
    if target.is_dir() or output.endswith("/"):  # which Path() drops
        target = target / source.with_suffix(_suffix(source, suffix)).name
    check(target)
    if target.exists() and source.exists() and target.samefile(source):
        raise UserError(f"output={str(target)!r} is the input: it would be written over")
    return target


def _one(job: Job, look: Look, source: str, output: str | None, as_json: bool) -> None:
    begun = time.perf_counter()
    content: Path | io.BytesIO = io.BytesIO(sys.stdin.buffer.read()) if source == "-" else Path(source)
    target: Path | IO[bytes]
    if output == "-":
        target, suffix = sys.stdout.buffer, job.suffix or ".png"
    else:
        target = _target(Path("stdin.png" if source == "-" else source), output, look.name, job.suffix)
        suffix = target.suffix.lower()
    picture = _read(job, content, suffix)
    painted = picture.painted(look.paint) if isinstance(picture, Animation) else look.paint(picture)
    _write(job, painted, target, suffix)
    if isinstance(target, Path):
        log.info("Wrote %s", target)
    else:
        target.flush()
    if as_json and output != "-":
        seconds = round(time.perf_counter() - begun, 3)
        print(json.dumps({"input": source, "output": str(target), "status": "done", "seconds": seconds}), flush=True)


def _film(job: Job, look: Look, source: Path, output: str | None, as_json: bool) -> None:
    begun = time.perf_counter()
    target = _target(source, output, look.name, job.suffix)

    from impasto.video.clip import read_clip  # and with it PyAV, which is optional
    from impasto.video.film import stylize_film

    clip = read_clip(source, job.megapixels)
    size = job.controls.sizes(*clip.size)[1]
    frames = stylize_film(
        clip,
        target,
        look.paint,
        look.engines,
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
        print(json.dumps(record), flush=True)


def _read(job: Job, source: Path | io.BytesIO, suffix: str) -> Picture | Animation:
    """The picture, or all frames where the result's suffix can hold them."""
    picture: Picture | Animation | None = read_animation(source, job.megapixels) if suffix in ANIMATED else None
    if picture is None:
        if not isinstance(source, Path):
            source.seek(0)
        picture = read_picture(source, job.megapixels)
        if not job.keep_metadata:
            picture = replace(picture, exif=b"")
    return picture


def _write(job: Job, painted: Picture | Animation, target: Path | IO[bytes], suffix: str) -> None:
    if isinstance(painted, Animation):
        write_animation(painted, target, suffix, job.quality)
    else:
        write_picture(painted, target, suffix, job.quality)


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Images a second."""
        return Text("" if task.speed is None else f"{task.speed:.2f} images/s")


def _folder(job: Job, look: Look, folder: Path, output: str | None, as_json: bool) -> None:
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
            line = json.dumps({**record, "key": look.key}, ensure_ascii=False)
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
            digest = hashlib.sha256(source.read_bytes()).hexdigest()
            if target.is_file() and before.get(str(target)) == digest:
                return digest, None
            return digest, _read(job, source, target.suffix.lower())
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
                    behind[0].result()  # what cannot be written ends it: the next image would fare no better
                    yield behind[1]
                    behind = None
                if painted is None:
                    yield record
                else:
                    record["seconds"] = round(time.perf_counter() - begun, 3)
                    behind = writer.submit(_write, job, painted, target, target.suffix.lower()), record
            if behind is not None:
                behind[0].result()
                yield behind[1]
        finally:
            ahead.cancel()


def _targets(sources: Sequence[Path], folder: Path, place: Path, suffix: str | None) -> list[Path]:
    """The same place and name for each, with the suffix that can be written.

    Where two would meet, as photo.jpg and photo.png do with format=, both keep their own suffix before it.
    """
    changed = [place / source.relative_to(folder).with_suffix(_suffix(source, suffix)) for source in sources]
    return [
        target
        if target.name == source.name or changed.count(target) == 1 and suffix is not None
        else place / source.relative_to(folder).with_name(source.name + _suffix(source, suffix))
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
