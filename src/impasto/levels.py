"""Pixels as levels of a type: uint8, uint16 or float32 in [0, 1]."""

from typing import Any

import numpy as np
from PIL import Image

LEVELS = {"uint8": 255, "uint16": 65535, "float32": 1}
ROWS = 256  # worked on at once


def unit(array: np.ndarray) -> np.ndarray:
    """Levels of any type as float32 in [0, 1]."""
    return array.astype(np.float32, copy=False) / np.float32(LEVELS[array.dtype.name])


def converted(array: np.ndarray, dtype: Any) -> np.ndarray:
    """Levels of one type as those of another; some rows at a time, as floats of a large picture are gigabytes."""
    if array.dtype == dtype:
        return array
    result = np.empty(array.shape, dtype)
    for top in range(0, len(array), ROWS):
        result[top : top + ROWS] = as_type(unit(array[top : top + ROWS]), dtype)
    return result


def as_type(array: np.ndarray, dtype: Any) -> np.ndarray:
    """Float32 in [0, 1] as levels of a type, rounded to the nearest."""
    levels = LEVELS[np.dtype(dtype).name]
    clipped = array.clip(0, 1)
    return clipped if levels == 1 else (clipped * levels + 0.5).astype(dtype)


def composite(inside: np.ndarray, outside: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`inside` where the mask, (height, width) in [0, 1], is 1, `outside` where it is 0; blended between."""
    result = np.empty_like(inside)
    for top in range(0, len(inside), ROWS):
        rows = slice(top, top + ROWS)
        cover = mask[rows, :, None]
        result[rows] = as_type(unit(inside[rows]) * cover + unit(outside[rows]) * (1 - cover), inside.dtype)
    return result


def resize_array(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(height, width, 3) of any type, brought to a width and height by Lanczos' filter, within the type's range."""
    if size == (pixels.shape[1], pixels.shape[0]):
        return pixels
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
    planes = [
        np.asarray(Image.fromarray(plane.astype(np.float32)).resize(size, Image.Resampling.LANCZOS))
        for plane in np.moveaxis(pixels, 2, 0)
    ]
    stacked = np.stack(planes, axis=2)
    if pixels.dtype == np.float32:
        return stacked.clip(0, 1)
    return (stacked.clip(0, LEVELS[pixels.dtype.name]) + 0.5).astype(pixels.dtype)


def spread(image: Image.Image) -> np.ndarray:
    """Colours of an RGBA image, pulled into its transparent parts from ever coarser levels."""
    smaller = [image]
    while max(smaller[-1].size) > 1:
        width, height = smaller[-1].size
        half = smaller[-1].resize((-(-width // 2), -(-height // 2)), Image.Resampling.BOX)  # weighted by alpha
        half.putalpha(half.getchannel("A").point(lambda cover: 255 if cover else 0))
        smaller.append(half)
    below = smaller[-1]
    for level in reversed(smaller[:-1]):
        below = Image.alpha_composite(below.resize(level.size, Image.Resampling.BILINEAR), level)
    return np.asarray(below.convert("RGB"))
