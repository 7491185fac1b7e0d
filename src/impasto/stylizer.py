"""A trained network at work: an image or a folder in, stylized images out. Knows nothing of training."""

import logging
import os
from pathlib import Path

from PIL import Image

from impasto.engines import Engine, load_engine
from impasto.errors import UserError
from impasto.image import WRITABLE, find_images, read_image, resize, save_image, to_array, to_image
from impasto.styles import find_checkpoint

log = logging.getLogger("impasto")


class Stylizer:
    """A style at work: `Stylizer.load("starry_night")(image)` gives the stylized image."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @classmethod
    def load(cls, ckpt: str, device: str = "auto", precision: str = "auto") -> "Stylizer":
        """From an inference file, a compiled package, an ONNX graph or the name of a style. Raises `UserError`."""
        path = find_checkpoint(ckpt)
        engine = load_engine(path, device, precision)
        log.info("Style: %s, on %s in %s", path, engine.device, engine.precision)
        return cls(engine)

    @property
    def name(self) -> str:
        """The style's name, for file names."""
        return str(self.engine.metadata.get("style", {}).get("name", "stylized"))

    def __call__(self, image: Image.Image, size: int | None = None) -> Image.Image:
        """Stylize an RGB image; it keeps its size, or gets `size` px on its long side."""
        if size is not None:
            image = resize(image, size / max(image.size))
        try:
            return to_image(self.engine(to_array(image)))
        except MemoryError:
            width, height = image.size
            raise UserError(
                f"{width}×{height} px takes more memory than {self.engine.device} has: try size={max(image.size) // 2}"
            ) from None

    def stylize_folder(self, folder: Path, output: Path, size: int | None = None) -> None:
        """Stylize every image under a folder into the same places under `output`; damaged ones are named and skipped.

        Raises `UserError` if there was none to stylize or an output cannot be written.
        """
        from rich.progress import track  # a folder's worth of work shows its progress; one image needs no bar

        contents, failures = find_images(folder), []
        # an earlier output inside the input folder is no input
        contents = [path for path in contents if not path.resolve().is_relative_to(output.resolve())] or contents
        for content in track(contents, description=self.name, transient=True):
            try:
                stylized = self(read_image(content), size)
            except UserError as error:
                failures.append(content)
                log.warning("skipped: %s", error)
            else:  # what cannot be written ends it: the next image would fare no better
                save_image(stylized, folder_output(content, folder, output))
        if len(failures) == len(contents):
            raise UserError(f"none of the {len(contents)} images in {str(folder)!r} could be stylized")
        done = len(contents) - len(failures)
        log.info("Wrote %d images to %s%s", done, output, f"; skipped {len(failures)}" if failures else "")


def folder_output(content: Path, folder: Path, output: Path) -> Path:
    """Where a folder's image goes: the same place and name; formats that cannot be written become PNG."""
    target = output / content.relative_to(folder)
    return target if target.suffix.lower() in WRITABLE else target.with_name(target.name + ".png")


def default_output(source: Path, style: str) -> Path:
    """A name beside the input: `photo.jpg` → `photo_starry_night.jpg`, a folder → `folder_starry_night`."""
    if source.is_dir():
        return source.resolve().with_name(f"{source.resolve().name}_{style}")
    suffix = source.suffix if source.suffix.lower() in WRITABLE else ".png"
    return source.with_name(f"{source.stem}_{style}{suffix}")


def stylize(stylizer: Stylizer, source: Path, output: str | os.PathLike[str] | None, size: int | None = None) -> None:
    """Stylize an image or a folder; an `output` that ends with a slash, or is there as one, is a folder.

    Never writes over the input. Raises `UserError` for bad input.
    """
    if not source.exists():
        raise UserError(f"there is no image or folder {str(source)!r}")
    target = default_output(source, stylizer.name) if output is None else Path(output)
    if source.is_dir():
        if target.is_file():
            raise UserError(f"the input is a folder, so output={str(target)!r} must be a folder, not a file")
        if target.resolve() == source.resolve():
            raise UserError(f"output={str(target)!r} is the input folder: its images would be written over")
        stylizer.stylize_folder(source, target, size)
        return
    if target.is_dir() or (output is not None and os.fspath(output).endswith("/")):  # which Path() drops
        target = folder_output(source, source.parent, target)
    if target.exists() and target.samefile(source):
        raise UserError(f"output={str(target)!r} is the input: it would be written over")
    save_image(stylizer(read_image(source), size), target)
    log.info("Wrote %s", target)
