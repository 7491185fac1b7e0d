"""A trained network at work: `Stylizer.load("starry_night")(image, strength=0.8)`. Knows nothing of training."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from math import isfinite
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image

from impasto.controls import Controls, check_feather, check_mask, finish, read_mask
from impasto.engines import Engine, TiledEngine, load_engine
from impasto.errors import NO_PICTURE, UserError
from impasto.levels import LEVELS, as_type, composite, resize_array, unit
from impasto.picture import Picture, from_pil
from impasto.styles import find_checkpoint, style_name

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("impasto")

Kind = TypeVar("Kind", Image.Image, np.ndarray, "Tensor")
FEATHER = 16.0  # px
SLACK = 0.5  # beyond [0, 1]: what resampling overshoots is cut off, other ranges are a mistake


class Stylizer:
    """A style at work, for any number of threads: nothing in it changes."""

    def __init__(self, engine: Engine, tile: int | None = None, exact: bool = True) -> None:
        # told before the first picture
        if (tile or not exact) and not isinstance(engine, TiledEngine):
            word = f"tile={tile}" if tile else "exact=false"
            raise UserError(f"{word} takes a .safetensors: the norms of an exported network see one tile each")
        if tile == 0 and not exact:
            raise UserError("exact=false is of tiles, of which tile=0 makes none")
        if tile:
            from impasto.tiling import check_tile  # and with it torch, which such an engine has

            check_tile(tile)
        self.engine, self.tile, self.exact = engine, tile, exact

    @classmethod
    def load(
        cls, ckpt: str, device: str = "auto", precision: str = "auto", tile: int | None = None, exact: bool = True
    ) -> "Stylizer":
        """From an inference file, a compiled package, an ONNX graph or the name of a style. Raises `UserError`.

        A picture too large for the free memory is stylized in tiles, without seams; `tile` (px) sets their size, where
        0 means never. `exact` takes instance norm's statistics from the whole picture, else from a thumbnail.
        """
        path = find_checkpoint(ckpt)
        engine = load_engine(path, device, precision)
        log.info("Style: %s, on %s in %s", path, engine.device, engine.precision)
        return cls(engine, tile, exact)

    @property
    def name(self) -> str:
        """The style's name, for file names."""
        return style_name(self.engine.metadata)

    def __call__(
        self, image: Kind, *, mask: Image.Image | None = None, feather: float = FEATHER, **controls: Any
    ) -> Kind:
        """Stylize a Pillow image, a NumPy array or a tensor; what comes back is of the same kind.

        Pillow: any mode, orientation and profile applied; RGB or RGBA comes back. NumPy: (height, width, 3 or 4),
        uint8, uint16 or float32 in [0, 1]. Tensor: (3, height, width) or (batch, 3, height, width), floating point
        in [0, 1]. `controls` are those of `Controls`: strength, preserve_color, size, stroke, upscale.
        White in `mask` is stylized, black and what is transparent stay, edges blend over `feather` px.
        Raises `UserError` for wrong values and where memory does not suffice.
        """
        chosen = Controls(**controls)
        if mask is not None and not isinstance(mask, Image.Image):
            raise UserError(f"mask= is a Pillow image, not {type(mask).__name__}")
        check_feather(feather)
        drawn = None if mask is None else from_pil(mask)
        if drawn is not None:
            check_mask(drawn)

        def painted(pictures: list[Picture]) -> list[Picture]:
            results = self.paint_all(pictures, chosen)
            if drawn is None:
                return results
            cover = read_mask(drawn, results[0].size, feather)  # of one size all
            return [masked(result, picture, cover) for result, picture in zip(results, pictures, strict=True)]

        if isinstance(image, Image.Image):
            if 0 in image.size:
                raise UserError(f"an image of {image.width}×{image.height} px has no pixels")
            return painted([from_pil(image)])[0].to_pil()
        if isinstance(image, np.ndarray):
            return _to_array(painted([_from_array(image)])[0], image.shape[2])
        if not hasattr(image, "is_floating_point"):
            raise UserError(f"a Pillow image, a NumPy array or a tensor is stylized, not {type(image).__name__}")
        if not image.is_floating_point() or image.ndim not in (3, 4) or image.shape[-3] != 3 or 0 in image.shape:
            shown = f"a tensor of {image.dtype}, {tuple(image.shape)}"
            raise UserError(f"{shown} should be float, of shape ((batch,) 3, height, width)")
        batch = image if image.ndim == 4 else image[None]
        arrays = [each.detach().float().cpu().numpy().transpose(1, 2, 0) for each in batch]
        results = painted([_from_array(array) for array in arrays])
        stylized = np.stack([result.pixels for result in results]).transpose(0, 3, 1, 2)
        result = image.new_tensor(np.ascontiguousarray(stylized))
        return result if image.ndim == 4 else result[0]

    def paint(self, picture: Picture, controls: Controls = Controls()) -> Picture:  # noqa: B008, which is frozen
        """Stylize a picture as the controls say; transparency and EXIF stay. Raises `UserError`."""
        return self.paint_all([picture], controls)[0]

    def paint_all(self, pictures: Sequence[Picture], controls: Controls = Controls()) -> list[Picture]:  # noqa: B008, as above
        """Stylize pictures as `paint` does; those of one size that follow one another at once, where that pays."""
        try:
            return self._paint_all(pictures, controls)
        except MemoryError:
            width, height = controls.sizes(*pictures[0].size)[1]
            raise UserError(f"{width}×{height} px takes more memory than there is: try a smaller size=") from None

    def _paint_all(self, pictures: Sequence[Picture], controls: Controls) -> list[Picture]:
        photos = [picture.resized(controls.sizes(*picture.size)[1]) for picture in pictures]
        if controls.strength == 0:
            return photos
        contents = [photo.filled() for photo in photos]
        seen = []
        for picture, photo, content in zip(pictures, photos, contents, strict=True):
            size = controls.sizes(*picture.size)[0]
            seen.append(content if size == photo.size else picture.resized(size).filled())
        stylized: list[np.ndarray] = []
        for _, group in groupby(seen, lambda pixels: (pixels.shape, pixels.dtype)):
            waiting = list(group)
            count = self._at_once(*waiting[0].shape[:2])
            for first in range(0, len(waiting), count):
                stylized += self._network(waiting[first : first + count])
        return [
            replace(photo, pixels=finish(resize_array(pixels, photo.size), content, controls, photo.alpha))
            for photo, pixels, content in zip(photos, stylized, contents, strict=True)
        ]

    def at_once(self, picture: Picture, controls: Controls) -> int:
        """How many of a picture's size the network takes in one batch."""
        width, height = controls.sizes(*picture.size)[0]
        return self._at_once(height, width)

    def _at_once(self, height: int, width: int) -> int:
        return max(1, self.engine.batch_pixels // (height * width))

    def _network(self, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The network's pictures of arrays (height, width, 3) of one size and type, as the same."""
        height, width = pictures[0].shape[:2]
        tile = self._tile(height, width)
        try:
            if tile:
                return [self._in_tiles(pixels, tile) for pixels in pictures]
            content = np.stack([unit(pixels).transpose(2, 0, 1) for pixels in pictures])
            stylized = self.engine(content)
        except MemoryError:
            smaller = f"size={max(width, height, 2) // 2} and no larger stroke="
            tiles = tile is None and isinstance(self.engine, TiledEngine)
            mend = f"tile=512, or {smaller}" if tiles else smaller
            raise UserError(
                f"{width}×{height} px takes more memory than {self.engine.device} has: try {mend}"
            ) from None
        if stylized.shape != content.shape or not np.isfinite(stylized).all():
            raise UserError(NO_PICTURE)
        return [as_type(each.transpose(1, 2, 0), pictures[0].dtype) for each in stylized]

    def _tile(self, height: int, width: int) -> int | None:
        """Side of the tiles, px; for the whole at once 0, or None where it was not asked for."""
        if self.tile is None:
            return self.engine.choose_tile(height, width) if isinstance(self.engine, TiledEngine) else None
        return self.tile if max(height, width) > self.tile else 0

    def _in_tiles(self, pixels: np.ndarray, tile: int) -> np.ndarray:
        assert isinstance(self.engine, TiledEngine)  # or there would be no tile
        height, width = pixels.shape[:2]
        log.info("%d×%d px: in tiles of %d px", width, height, tile)
        levels = as_type(pixels, np.uint16) if pixels.dtype == np.float32 else pixels
        stylized = self.engine.stylize_tiled(levels, tile, self.exact)
        return unit(stylized) if pixels.dtype == np.float32 else stylized


def masked(inside: Picture, outside: Picture, cover: np.ndarray) -> Picture:
    """`inside` where a mask that `read_mask` gave for its size is 1; `outside`, brought to its size, where it is 0."""
    return replace(inside, pixels=composite(inside.pixels, outside.resized(inside.size).pixels, cover))


def _from_array(array: np.ndarray) -> Picture:
    if array.ndim != 3 or array.shape[2] not in (3, 4) or 0 in array.shape:
        raise UserError(f"an array of shape {array.shape} should be (height, width, 3 or 4)")
    if array.dtype.name not in LEVELS:
        raise UserError(f"an array of {array.dtype} should be of {', '.join(LEVELS)}")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype == np.float32:
        least, most = float(array.min()), float(array.max())
        if not (isfinite(least) and isfinite(most) and least >= -SLACK and most <= 1 + SLACK):
            raise UserError(f"numbers from {least:g} to {most:g} should be finite, in [0, 1]")
        array = array.clip(0, 1)
    return Picture(array[..., :3], array[..., 3] if array.shape[2] == 4 else None)


def _to_array(picture: Picture, channels: int) -> np.ndarray:
    if channels == 3 or picture.alpha is None:
        return picture.pixels.copy()  # which may be the caller's own
    return np.dstack([picture.pixels, picture.alpha])
