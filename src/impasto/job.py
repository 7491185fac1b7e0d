"""What is to be done to images, and the ways to paint that follow from it."""

import hashlib
import io
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from impasto.animation import ANIMATED, Animation, count_frames, read_animation, write_animation
from impasto.controls import Controls, check_feather, check_mask, read_mask
from impasto.errors import UserError
from impasto.image import WRITABLE
from impasto.picture import Picture
from impasto.picture_files import MEGAPIXELS, QUALITY, check_sides, count_pages, read_picture, shown, write_picture
from impasto.stylizer import FEATHER, Stylizer, masked
from impasto.video import WRITABLE as WRITABLE_VIDEOS
from impasto.video import check_smooth, is_video

if TYPE_CHECKING:
    from impasto.temporal import SteadyEngine

log = logging.getLogger("impasto")

SMOOTH = 0.8  # of films: strokes stay in place, and no ghosts are seen (README)


@dataclass(frozen=True)
class Job:
    """What is done to every image; the fields are those of stylize.py's words."""

    controls: Controls = field(default_factory=Controls)
    mask: Path | None = None
    feather: float = FEATHER
    quality: int = QUALITY
    suffix: str | None = None
    keep_metadata: bool = True
    megapixels: float = MEGAPIXELS
    smooth: float = SMOOTH
    device: str = "auto"
    precision: str = "auto"
    tile: int | None = None
    exact: bool = True

    def __post_init__(self) -> None:
        """Check what would be found only once a picture is painted. Raises `UserError`."""
        check_feather(self.feather)
        if self.mask is None and self.feather != FEATHER:
            raise UserError(f"feather={self.feather:g} softens the edges of a mask: say mask=, too")


@dataclass(frozen=True)
class Look:
    """One way to paint: a name for files, the function, and a key that changes with whatever is chosen.

    `at_once` tells how many pictures of a size are best painted together; `memories` are the networks behind it that
    know the frames before.
    """

    name: str
    paint_all: Callable[[Sequence[Picture]], list[Picture]]
    at_once: Callable[[Picture], int]
    key: str
    memories: tuple["SteadyEngine", ...]

    def paint(self, picture: Picture) -> Picture:
        """One picture."""
        return self.paint_all([picture])[0]


def looks(job: Job, networks: Sequence[Path], film: bool = False) -> list[Look]:
    """One for each network; with a mask and two networks, one in which the second paints where it is black.

    Those of a `film` remember the frames before.
    """
    mask = None if job.mask is None else read_picture(job.mask, job.megapixels)
    if mask is not None:
        if len(networks) > 2:
            raise UserError(f"mask= takes one style, or two, not {len(networks)}")
        check_mask(mask)
    if film:
        check_smooth(job.smooth)
    stylizers = [Stylizer.load(str(path), job.device, job.precision, job.tile, job.exact) for path in networks]
    memories: tuple[SteadyEngine, ...] = ()
    if film and job.smooth:
        from impasto import temporal  # and with it OpenCV, which is optional

        memories = tuple(temporal.SteadyEngine(each.engine, job.smooth) for each in stylizers)
    if film:
        stylizers = [Stylizer(engine, tile=0) for engine in memories or [each.engine for each in stylizers]]

    def key(*paths: Path) -> str:
        files = [path for path in (*paths, job.mask) if path is not None]
        contents = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
        options = {**asdict(job), "mask": None, "controls": asdict(job.controls), "smooth": film and job.smooth}
        options["megapixels"] = None  # a limit that a picture keeps to does not change it
        if film:  # in which these change no picture
            options |= {"keep_metadata": None, "suffix": None}
        if job.exact:  # tiles compute what the whole does
            options["tile"] = None
        return hashlib.sha256(json.dumps([contents, options], sort_keys=True).encode()).hexdigest()[:16]

    def at_once(picture: Picture) -> int:
        return min(each.at_once(picture, job.controls) for each in stylizers)

    def look(name: str, paint_all: Callable[[Sequence[Picture]], list[Picture]], *numbers: int) -> Look:
        known = tuple(memories[number] for number in numbers if memories)
        return Look(name, paint_all, at_once, key(*(networks[number] for number in numbers)), known)

    plain = [partial(each.paint_all, controls=job.controls) for each in stylizers]
    names = [each.name for each in stylizers]
    if mask is None:
        return [look(name, plain[number], number) for number, name in enumerate(names)]
    split = _split(mask, job.feather)
    if len(stylizers) == 2:
        inside, outside = plain
        return [look("_".join(names), lambda pictures: split(inside(pictures), outside(pictures)), 0, 1)]
    return [look(names[0], lambda pictures: split(plain[0](pictures), pictures), 0)]


def _split(mask: Picture, feather: float) -> Callable[[Sequence[Picture], Sequence[Picture]], list[Picture]]:
    """Combines pictures for the inside of a mask with those for its outside."""

    @lru_cache(maxsize=1)  # pictures of one size often follow one another, as the frames of a film do
    def cover(size: tuple[int, int]) -> np.ndarray:
        return read_mask(mask, size, feather)

    def split(insides: Sequence[Picture], outsides: Sequence[Picture]) -> list[Picture]:
        pairs = zip(insides, outsides, strict=True)
        return [masked(inside, outside, cover(inside.size)) for inside, outside in pairs]

    return split


def default_output(source: Path, style: str) -> Path:
    """A name beside the input: `photo.jpg` → `photo_starry_night.jpg`, a folder → `folder_starry_night`.

    Raises `UserError` for the root of all folders.
    """
    if source.is_dir():
        folder = Path(os.path.abspath(source))  # beside a link, not beside what it leads to
        if not folder.name:
            raise UserError(f"input={source} has no name to call the results by: say output=")
        return folder.with_name(f"{folder.name}_{style}")
    return source.with_name(f"{source.stem}_{style}{result_suffix(source, None)}")


def result_suffix(source: Path, asked: str | None) -> str:
    """The result's: as asked for, else the input's, or .png, of films .mp4, for what cannot be written."""
    if asked is not None:
        return asked
    if is_video(source):
        return source.suffix if source.suffix.lower() in WRITABLE_VIDEOS else ".mp4"
    return source.suffix if source.suffix.lower() in WRITABLE else ".png"


def read_content(job: Job, source: Path | io.BytesIO, suffix: str) -> Picture | Animation:
    """The picture, or all frames where the result's suffix can hold them.

    Raises `UserError`, also where the result would be too long for its suffix.
    """
    picture: Picture | Animation | None = read_animation(source, job.megapixels) if suffix in ANIMATED else None
    if picture is None:
        if not isinstance(source, Path):
            source.seek(0)
        picture = read_picture(source, job.megapixels)
        if (count := count_frames(source, job.megapixels)) > 1:
            held = ", ".join(sorted(ANIMATED))
            log.warning("%s has %d frames, and only the first is painted: %s hold all", shown(source), count, held)
        if (count := count_pages(source, job.megapixels)) > 1:
            log.warning("%s has %d pages, and only the first is painted", shown(source), count)
    if not job.keep_metadata:
        if isinstance(picture, Animation):
            picture = picture.painted(lambda frame: replace(frame, exif=b""))
        else:
            picture = replace(picture, exif=b"")
    frames = picture.frames if isinstance(picture, Animation) else (picture,)
    check_sides(shown(source), *result_size(job, shown(source), frames[0].size, len(frames)), suffix)
    return picture


def result_size(job: Job, name: str, size: tuple[int, int], frames: int = 1) -> tuple[int, int]:
    """What a picture's width and height become, px.

    Raises `UserError` where that is more than may be read, of all frames together that are held at once.
    """
    seen, asked = job.controls.sizes(*size)
    for (width, height), count in ((seen, 1), (asked, frames)):
        if count * width * height > job.megapixels * 1e6:
            many = f"{count} frames of " * (count > 1)
            raise UserError(
                f"{name}: {many}{width}×{height} px are {count * width * height / 1e6:.0f} megapixels, more than "
                f"max_megapixels={job.megapixels:g}: try a smaller size= or stroke=, or allow more"
            )
    return asked


def write_result(job: Job, painted: Picture | Animation, target: Path | IO[bytes], suffix: str) -> None:
    """Write a picture, or an animation, whole or not at all. Raises `UserError`."""
    if isinstance(painted, Animation):
        write_animation(painted, target, suffix, job.quality)
    else:
        write_picture(painted, target, suffix, job.quality)


def json_line(record: dict[str, Any]) -> str:
    """A line of a report; bytes in names that are no UTF-8 become JSON's escapes."""
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
