"""Contact sheets: pictures in rows, each with a caption."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

GAP = 8  # px, around each picture
TEXT = 15  # px, height of the letters
LINE = 22  # px, height of a row's captions

Captioned = tuple[str, Image.Image]


def contact_sheet(rows: Sequence[Sequence[Captioned]], cell: int = 256) -> Image.Image:
    """All pictures on one RGB image, each brought to `cell` px on its long side, its caption above it.

    A row without any caption takes no space for them.
    """
    font = ImageFont.load_default(size=TEXT)
    fitted = [[ImageOps.contain(image, (cell, cell), Image.Resampling.LANCZOS) for _, image in row] for row in rows]
    columns = max(map(len, rows))
    widths = [max(row[column].width for row in fitted if column < len(row)) for column in range(columns)]
    heights = [max(image.height for image in row) for row in fitted]
    lines = [LINE if any(caption for caption, _ in row) else 0 for row in rows]
    size = (sum(widths) + GAP * (columns + 1), sum(heights) + sum(lines) + GAP * (len(rows) + 1))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    top = GAP
    for row, images, height, line in zip(rows, fitted, heights, lines, strict=True):
        left = GAP
        for (caption, _), image, width in zip(row, images, widths, strict=False):
            draw.text((left, top), caption, "black", font)
            sheet.paste(image, (left, top + line))
            left += width + GAP
        top += line + height + GAP
    return sheet


def wrapped(pictures: Sequence[Captioned], columns: int) -> list[list[Captioned]]:
    """Rows of `columns` pictures each."""
    return [list(pictures[first : first + columns]) for first in range(0, len(pictures), columns)]
