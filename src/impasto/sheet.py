"""Contact sheets: pictures in rows, each with a caption."""

from collections.abc import Sequence
from functools import cache
from math import ceil

from PIL import Image, ImageDraw, ImageFont

from impasto.picture import fitted

GAP = 8  # px, around each picture
TEXT = 15  # px, height of the letters
LINE = 22  # px, height of a row's captions

Captioned = tuple[str, Image.Image]


def contact_sheet(rows: Sequence[Sequence[Captioned]], cell: int = 256) -> Image.Image:
    """All pictures on one RGB image, each brought to `cell` px on its long side, its caption above it, in columns.

    A row without any caption takes no space for them.
    """
    widths, heights, lines = _layout(rows, cell)
    sheet = Image.new("RGB", sheet_size(rows, cell), "white")
    draw = ImageDraw.Draw(sheet)
    top = GAP
    for row, height, line in zip(rows, heights, lines, strict=True):
        left = GAP
        for (caption, image), width in zip(row, widths, strict=False):
            draw.text((left, top), caption, "black", _font())
            sheet.paste(image.resize(fitted(*image.size, cell), Image.Resampling.LANCZOS), (left, top + line))
            left += width + GAP
        top += line + height + GAP
    return sheet


def sheet_size(rows: Sequence[Sequence[Captioned]], cell: int = 256) -> tuple[int, int]:
    """Width and height of `contact_sheet`."""
    widths, heights, lines = _layout(rows, cell)
    return sum(widths) + GAP * (len(widths) + 1), sum(heights) + sum(lines) + GAP * (len(rows) + 1)


def _layout(rows: Sequence[Sequence[Captioned]], cell: int) -> tuple[list[int], list[int], list[int]]:
    """Widths of the columns, which hold pictures and captions, heights of the rows' pictures and of their captions."""
    font = _font()
    sizes = [[fitted(*image.size, cell) for _, image in row] for row in rows]
    columns = range(max(map(len, rows)))
    needed = [
        [max(width, ceil(font.getlength(caption))) for (caption, _), (width, _) in zip(row, of_row, strict=True)]
        for row, of_row in zip(rows, sizes, strict=True)
    ]
    widths = [max(row[column] for row in needed if column < len(row)) for column in columns]
    heights = [max(height for _, height in row) for row in sizes]
    return widths, heights, [LINE if any(caption for caption, _ in row) else 0 for row in rows]


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=TEXT)


def wrapped(pictures: Sequence[Captioned], columns: int) -> list[list[Captioned]]:
    """Rows of `columns` pictures each."""
    return [list(pictures[first : first + columns]) for first in range(0, len(pictures), columns)]
