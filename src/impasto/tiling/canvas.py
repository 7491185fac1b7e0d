"""A picture by regions: the tiles that it is stylized in, its pixels before and after."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float, UInt
from torch import Tensor

from impasto.errors import NO_PICTURE, UserError
from impasto.models.transformer_net import TransformerNet

Region = tuple[slice, slice]  # rows and columns, in pixels of the quarter resolution


class Canvas:
    """The pixels as the network extends them, in regions that its strides divide."""

    def __init__(
        self,
        net: TransformerNet,
        pixels: UInt[np.ndarray, "height width 3"],
        tile: int,
        progress: Callable[[float], object],
    ) -> None:
        self.pixels, self.progress = pixels, progress
        self.unit = net.multiple  # px to a region's pixel
        self.stylized = np.empty_like(pixels)
        self.levels = np.float32(np.iinfo(pixels.dtype).max)
        self.device = next(net.parameters()).device
        self.margin, cpu = net.margin, torch.device("cpu")
        self.rows, self.columns = (net.reflection(size, self.margin, cpu).numpy() for size in pixels.shape[:2])
        self.height, self.width = len(self.rows) // self.unit, len(self.columns) // self.unit
        rows, columns = (_spans(size, tile // self.unit) for size in (self.height, self.width))
        self.tiles = [(row, column) for row in rows for column in columns]

    def passes(self, count: int) -> Iterator[Iterator[Region]]:
        """All tiles, `count` times, telling `progress` the fraction done."""
        total = count * len(self.tiles)
        return (self._one_pass(number * len(self.tiles), total) for number in range(count))

    def _one_pass(self, before: int, total: int) -> Iterator[Region]:
        for done, tile in enumerate(self.tiles, before + 1):
            yield tile
            self.progress(done / total)

    def with_halo(self, tile: Region, halo: float) -> Region:
        """At least `halo` more on each side, but nothing beyond the picture."""
        rows, columns = (
            slice(max(span.start - math.ceil(halo), 0), min(span.stop + math.ceil(halo), size))
            for span, size in zip(tile, (self.height, self.width), strict=True)
        )
        return rows, columns

    def read(self, region: Region) -> Float[Tensor, "1 3 height width"]:
        """A region in [0, 1]."""
        rows, columns = self._full(region)
        levels = self.pixels[self.rows[rows, None], self.columns[columns]]
        return self._tensor(levels.astype(np.float32))

    def write(self, tile: Region, stylized: Float[Tensor, "1 3 height width"]) -> None:
        """Round [0, 1] to the nearest level. Raises `UserError` for what is not finite."""
        if not stylized.isfinite().all():
            raise UserError(NO_PICTURE)
        shown, part = [], []  # without what extends the picture
        for span, size in zip(self._full(tile), self.stylized.shape[:2], strict=True):
            start, end = (min(max(place - self.margin, 0), size) for place in (span.start, span.stop))
            shown.append(slice(start, end))
            part.append(slice(start + self.margin - span.start, end + self.margin - span.start))
        levels = (stylized[0, :, part[0], part[1]] * float(self.levels)).round()
        self.stylized[shown[0], shown[1]] = levels.permute(1, 2, 0).cpu().numpy()

    def thumbnail(self, side: int) -> Float[Tensor, "1 3 height width"]:
        """Means of square blocks, in [0, 1]: at most `side` px long, the picture itself where it is no longer."""
        height, width = self.pixels.shape[:2]
        factor = math.ceil(max(height, width) / side)
        starts = np.arange(0, width, factor)
        counts = np.diff(starts, append=width)[:, None]
        blocks = (self.pixels[row : row + factor] for row in range(0, height, factor))
        lines = [np.add.reduceat(rows.sum(0, np.float32), starts, axis=0) / (counts * len(rows)) for rows in blocks]
        return self._tensor(np.stack(lines).astype(np.float32))

    def _full(self, region: Region) -> Region:
        rows, columns = (slice(span.start * self.unit, span.stop * self.unit) for span in region)
        return rows, columns

    def _tensor(self, levels: np.ndarray) -> Tensor:
        return torch.from_numpy(levels / self.levels).to(self.device).permute(2, 0, 1)[None]


def cropped(
    features: Float[Tensor, "1 channels height width"], region: Region, tile: Region
) -> Float[Tensor, "1 channels tile_height tile_width"]:
    """The tile's part of a region's features, at whatever resolution."""
    scale = features.shape[2] // (region[0].stop - region[0].start)
    rows, columns = (
        slice((inner.start - outer.start) * scale, (inner.stop - outer.start) * scale)
        for inner, outer in zip(tile, region, strict=True)
    )
    return features[:, :, rows, columns]


def _spans(size: int, longest: int) -> list[slice]:
    """As few as there can be, all about as long."""
    count = math.ceil(size / longest)
    return [slice(size * index // count, size * (index + 1) // count) for index in range(count)]
