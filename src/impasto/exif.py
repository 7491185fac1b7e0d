"""A photo's EXIF: what is carried on, and files with it where their encoders would change it or leave it out.

Pillow reads text in EXIF as Latin-1, but writes ASCII, with a ? for a ©; libvips writes none in TIFF.
"""

import io
from typing import Any

from PIL import Image, PngImagePlugin, TiffImagePlugin

TIFF = (".tif", ".tiff")
# what may be told of the stylized picture, too: not orientation, size, strips, nor the photo's thumbnail
TOP = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)  # description, camera, software, date, artist
SUB_IFDS = (0x8769, 0x8825)  # Exif, GPS
OF_THE_PIXELS = (0xA001, 0xA002, 0xA003)  # in Exif: colour space, width, height
INTEROP = 0xA005  # in Exif: where a further directory was in the photo's file
MAKER_NOTE = 0x927C  # of any length, in the camera's own format
MOST_BYTES = 65533  # of a segment of JPEG


def orientation(image: Image.Image) -> int:
    """How a file says that its picture lies, 1 … 8 as EXIF counts; 1, upright, where it says nothing."""
    try:
        said = int(image.getexif().get(0x0112, 1))
    except Exception:  # damaged metadata, as below
        return 1
    return said if 1 <= said <= 8 else 1


def kept_exif(image: Image.Image) -> bytes:
    """Of a file's EXIF what may be carried on, packed; b"" where there is none, or it is damaged."""
    try:
        found, kept = image.getexif(), Image.Exif()
        kept.update(_verbatim({tag: found[tag] for tag in TOP if tag in found}))
        for ifd in SUB_IFDS:
            if content := found.get_ifd(ifd):
                content = {tag: said for tag, said in content.items() if tag not in (*OF_THE_PIXELS, INTEROP)}
                kept.get_ifd(ifd).update(_verbatim(content))
        if not kept and not any(kept.get_ifd(ifd) for ifd in SUB_IFDS):
            return b""
        if len(kept.tobytes()) > MOST_BYTES:
            kept.get_ifd(0x8769).pop(MAKER_NOTE, None)
        packed = kept.tobytes()
        return packed if len(packed) <= MOST_BYTES else b""
    except Exception:  # damaged metadata, for which Pillow has no one error: the picture does without
        return b""


def with_exif(content: bytes | memoryview, suffix: str, packed: bytes) -> bytes:
    """A PNG's or a TIFF's content with the packed EXIF, as it is."""
    if not packed:
        return bytes(content)
    return _tiff_with_exif(content, packed) if suffix in TIFF else _png_with_exif(content, packed)


def _png_with_exif(png: bytes | memoryview, packed: bytes) -> bytes:
    """Behind the header."""
    chunk, end = io.BytesIO(), 33  # of signature and header
    PngImagePlugin.putchunk(chunk, b"eXIf", packed.removeprefix(b"Exif\0\0"))
    return b"".join((png[:end], chunk.getvalue(), png[end:]))


def _tiff_with_exif(tiff: bytes | memoryview, packed: bytes) -> bytes:
    """In a new directory ahead of all else; of a TIFF of strips, not tiles, that may lie anywhere."""
    header = bytes(tiff[:8])
    exif, directory = Image.Exif(), TiffImagePlugin.ImageFileDirectory_v2(header)
    exif.load(packed)
    file = io.BytesIO(tiff)
    file.seek(directory.next)
    directory.load(file)
    tags = {tag: directory[tag] for tag in directory}  # decoded: Pillow writes no others
    # which it counts from the directory's end, where what followed the header now begins
    strips = tags[TiffImagePlugin.STRIPOFFSETS]
    tags[TiffImagePlugin.STRIPOFFSETS] = tuple(offset - 8 for offset in strips)
    tags |= _verbatim({tag: exif[tag] for tag in TOP if tag in exif})
    tags |= {ifd: _verbatim(content) for ifd in SUB_IFDS if (content := exif.get_ifd(ifd))}
    directory.update(tags)
    position = (8).to_bytes(4, "little" if header[:2] == b"II" else "big")
    return b"".join((header[:4], position, directory.tobytes(8), tiff[8:]))


def _verbatim(tags: dict[int, Any]) -> dict[int, Any]:
    """Text so that it is written as it was."""
    return {tag: _Text(value) if isinstance(value, str) else value for tag, value in tags.items()}


class _Text(str):
    """Text that Pillow writes as it reads it, in Latin-1."""

    def encode(self, *_: str) -> bytes:
        """Whatever encoding it is asked for."""
        return str.encode(self, "latin-1", "replace")
