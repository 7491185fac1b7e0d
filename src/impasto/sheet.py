"""Contact sheets: pictures in rows, each with a caption."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from impasto.picture import fitted

GAP = 8  # px, around each picture
TEXT = 15  # px, height of the letters
LINE = 22  # px, height of a row's captions

Captioned = tuple[str, Image.Image]


def contact_sheet(rows: Sequence[Sequence[Captioned]], cell: int = 256) -> Image.Image:
    """All pictures on one RGB image, each brought to `cell` px on its long side, its caption above it.

    A row without any caption takes no space for them.
    """
    font = ImageFont.load_default(size=TEXT)
    widths, heights, lines = _layout(rows, cell)
    sheet = Image.new("RGB", sheet_size(rows, cell), "white")
    draw = ImageDraw.Draw(sheet)
    top = GAP
    for row, height, line in zip(rows, heights, lines, strict=True):
        left = GAP
        for (caption, image), width in zip(row, widths, strict=False):
            draw.text((left, top), caption, "black", font)
            sheet.paste(image.resize(fitted(*image.size, cell), Image.Resampling.LANCZOS), (left, top + line))
            left += width + GAP
        top += line + height + GAP
    return sheet


def sheet_size(rows: Sequence[Sequence[Captioned]], cell: int = 256) -> tuple[int, int]:
    """Width and height of `contact_sheet`."""
    widths, heights, lines = _layout(rows, cell)
    return sum(widths) + GAP * (len(widths) + 1), sum(heights) + sum(lines) + GAP * (len(rows) + 1)


def _layout(rows: Sequence[Sequence[Captioned]], cell: int) -> tuple[list[int], list[int], list[int]]:
    """Widths of the columns, heights of the rows' pictures and of their captions."""
    sizes = [[fitted(*image.size, cell) for _, image in row] for row in rows]
    columns = range(max(map(len, rows)))
    widths = [max(row[column][0] for row in sizes if column < len(row)) for column in columns]
    heights = [max(height for _, height in row) for row in sizes]
    return widths, heights, [LINE if any(caption for caption, _ in row) else 0 for row in rows]


def wrapped(pictures: Sequence[Captioned], columns: int) -> list[list[Captioned]]:
    """Rows of `columns` pictures each."""
    return [list(pictures[first : first + columns]) for first in range(0, len(pictures), columns)]
