"""A trained network at work: `Stylizer.load("starry_night")(image, strength=0.8)`. Knows nothing of training."""

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image

from impasto.controls import Controls, composite, finish, read_mask
from impasto.engines import Engine, TiledEngine, load_engine
from impasto.errors import UserError
from impasto.picture import LEVELS, Picture, as_type, from_pil, resize_array, unit
from impasto.styles import find_checkpoint, style_name

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("impasto")

Kind = TypeVar("Kind", Image.Image, np.ndarray, "Tensor")
FEATHER = 16.0  # px


class Stylizer:
    """A style at work, for any number of threads: nothing in it changes."""

    def __init__(self, engine: Engine, tile: int | None = None, exact: bool = True) -> None:
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
        White in `mask` is stylized, black stays, edges blend over `feather` px.
        Raises `UserError` for wrong values and where memory does not suffice.
        """
        chosen = Controls(**controls)

        def painted(picture: Picture) -> Picture:
            result = self.paint(picture, chosen)
            return result if mask is None else masked(result, picture, from_pil(mask), feather)

        if isinstance(image, Image.Image):
            return painted(from_pil(image)).to_pil()
        if isinstance(image, np.ndarray):
            return _to_array(painted(_from_array(image)), image.shape[2])
        batch = image if image.ndim == 4 else image[None]
        arrays = [each.detach().float().cpu().numpy().transpose(1, 2, 0) for each in batch]
        stylized = np.stack([painted(_from_array(array)).pixels for array in arrays]).transpose(0, 3, 1, 2)
        result = image.new_tensor(np.ascontiguousarray(stylized))
        return result if image.ndim == 4 else result[0]

    def paint(self, picture: Picture, controls: Controls = Controls()) -> Picture:  # noqa: B008, which is frozen
        """Stylize a picture as the controls say; transparency and EXIF stay. Raises `UserError`."""
        seen, size = controls.sizes(*picture.size)
        photo = picture.resized(size)
        if controls.strength == 0:
            return photo
        content = photo.filled()
        stylized = self._network(content if seen == size else picture.resized(seen).filled())
        return replace(photo, pixels=finish(resize_array(stylized, size), content, controls))

    def _network(self, pixels: np.ndarray) -> np.ndarray:
        """The network's picture of (height, width, 3) of any type, as the same."""
        height, width = pixels.shape[:2]
        try:
            if tile := self._tile(height, width):
                return self._in_tiles(pixels, tile)
            content = np.ascontiguousarray(unit(pixels).transpose(2, 0, 1)[None])
            stylized = self.engine(content)
        except MemoryError:
            smaller = f"size={max(width, height) // 2}"
            mend = f"tile=512, or {smaller}" if isinstance(self.engine, TiledEngine) else smaller
            raise UserError(
                f"{width}×{height} px takes more memory than {self.engine.device} has: try {mend}"
            ) from None
        if stylized.shape != content.shape or not np.isfinite(stylized).all():
            raise UserError("the network gives no picture: its file is damaged, or was made to deceive")
        return as_type(stylized[0].transpose(1, 2, 0), pixels.dtype)

    def _tile(self, height: int, width: int) -> int | None:
        """Side of the tiles, px; None or 0 for the whole at once."""
        if self.tile is not None or not isinstance(self.engine, TiledEngine):
            return self.tile
        return self.engine.choose_tile(height, width)

    def _in_tiles(self, pixels: np.ndarray, tile: int) -> np.ndarray:
        if not isinstance(self.engine, TiledEngine):
            raise UserError(f"tile={tile} takes a .safetensors: the norms of an exported network see one tile each")
        height, width = pixels.shape[:2]
        log.info("%d×%d px: in tiles of %d px", width, height, tile)
        levels = as_type(pixels, np.uint16) if pixels.dtype == np.float32 else pixels
        stylized = self.engine.stylize_tiled(levels, tile, self.exact)
        return unit(stylized) if pixels.dtype == np.float32 else stylized


def masked(inside: Picture, outside: Picture, mask: Picture, feather: float = FEATHER) -> Picture:
    """`inside` where the mask is white, `outside`, brought to its size, where it is black. Raises `UserError`."""
    cover = read_mask(mask, inside.size, feather)
    return replace(inside, pixels=composite(inside.pixels, outside.resized(inside.size).pixels, cover))


def _from_array(array: np.ndarray) -> Picture:
    if array.ndim != 3 or array.shape[2] not in (3, 4) or 0 in array.shape:
        raise UserError(f"an array of shape {array.shape} should be (height, width, 3 or 4)")
    if array.dtype.name not in LEVELS:
        raise UserError(f"an array of {array.dtype} should be of {', '.join(LEVELS)}")
    return Picture(array[..., :3], array[..., 3] if array.shape[2] == 4 else None)


def _to_array(picture: Picture, channels: int) -> np.ndarray:
    if channels == 3 or picture.alpha is None:
        return picture.pixels
    return np.dstack([picture.pixels, picture.alpha])
