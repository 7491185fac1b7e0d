"""What is to be done to images, and the ways to paint that follow from it."""

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from impasto.animation import ANIMATED, Animation, read_animation, write_animation
from impasto.controls import Controls
from impasto.errors import UserError
from impasto.image import WRITABLE
from impasto.picture import MEGAPIXELS, QUALITY, Picture, read_picture, write_picture
from impasto.stylizer import FEATHER, Stylizer, masked
from impasto.video import WRITABLE as WRITABLE_VIDEOS
from impasto.video import check_smooth, is_video

if TYPE_CHECKING:
    from impasto.temporal import SteadyEngine

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


@dataclass(frozen=True)
class Look:
    """One way to paint: a name for files, the function, and a key that changes with anything that changes pictures.

    `memories` are the networks behind it that know the frames before.
    """

    name: str
    paint: Callable[[Picture], Picture]
    key: str
    memories: tuple["SteadyEngine", ...]


def looks(job: Job, networks: Sequence[Path], film: bool = False) -> list[Look]:
    """One for each network; with a mask and two networks, one in which the second paints where it is black.

    Those of a `film` remember the frames before.
    """
    mask = None if job.mask is None else read_picture(job.mask, job.megapixels)
    if mask is not None and len(networks) > 2:
        raise UserError(f"mask= takes one style, or two, not {len(networks)}")
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

        return [Look(f"{first.name}_{second.name}", both, key(*networks), memories)]
    return [
        Look(each.name, painter(each), key(path), memories[index : index + 1])
        for index, (each, path) in enumerate(zip(stylizers, networks, strict=True))
    ]


def default_output(source: Path, style: str) -> Path:
    """A name beside the input: `photo.jpg` → `photo_starry_night.jpg`, a folder → `folder_starry_night`."""
    if source.is_dir():
        return source.resolve().with_name(f"{source.resolve().name}_{style}")
    return source.with_name(f"{source.stem}_{style}{result_suffix(source, None)}")


def result_suffix(source: Path, asked: str | None) -> str:
    """The result's: as asked for, else the input's, or .png, of films .mp4, for what cannot be written."""
    if asked is not None:
        return asked
    if is_video(source):
        return source.suffix if source.suffix.lower() in WRITABLE_VIDEOS else ".mp4"
    return source.suffix if source.suffix.lower() in WRITABLE else ".png"


def read_content(job: Job, source: Path | io.BytesIO, suffix: str) -> Picture | Animation:
    """The picture, or all frames where the result's suffix can hold them."""
    picture: Picture | Animation | None = read_animation(source, job.megapixels) if suffix in ANIMATED else None
    if picture is None:
        if not isinstance(source, Path):
            source.seek(0)
        picture = read_picture(source, job.megapixels)
        if not job.keep_metadata:
            picture = replace(picture, exif=b"")
    return picture


def write_result(job: Job, painted: Picture | Animation, target: Path | IO[bytes], suffix: str) -> None:
    """Write a picture, or an animation, whole or not at all. Raises `UserError`."""
    if isinstance(painted, Animation):
        write_animation(painted, target, suffix, job.quality)
    else:
        write_picture(painted, target, suffix, job.quality)


def json_line(record: dict[str, Any]) -> str:
    """A line of a report; bytes in names that are no UTF-8 become JSON's escapes."""
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
