"""Trained networks ready to run, alike to their caller whatever runs them.

An engine maps float32 RGB in [0, 1], a NumPy array of shape (batch, 3, height, width), to the stylized array of that
shape and range; it raises `MemoryError` where a size takes more memory than its device has. NumPy, so that an ONNX
graph needs no torch.
"""

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from impasto.errors import UserError
from impasto.files import is_utf8

EXPORTED = (".onnx", ".pt2")  # in one precision, each with an engine of its own


class Engine(Protocol):
    """What stylizes: `metadata` is the record that its file carries; where and in what precision it runs.

    Images of one size gain by being in one batch while it has no more than `batch_pixels`; 0: a batch is one image.
    """

    metadata: dict[str, Any]
    device: str
    precision: str
    batch_pixels: int

    def __call__(
        self, content: Float32[np.ndarray, "batch 3 height width"]
    ) -> Float32[np.ndarray, "batch 3 height width"]:
        """The stylized images."""


@runtime_checkable
class TiledEngine(Protocol):
    """An engine that can stylize a picture larger than memory, tile by tile."""

    def choose_tile(self, height: int, width: int) -> int | None:
        """Side of the tiles (px) that the free memory allows; None where the whole fits."""

    def stylize_tiled(self, pixels: np.ndarray, tile: int, exact: bool = True) -> np.ndarray:
        """(height, width, 3), uint8 or uint16, stylized. Raises `UserError`."""


def load_engine(path: Path, device: str = "auto", precision: str = "auto") -> Engine:
    """What runs the file: its suffix says. Raises `UserError`.

    `device` is auto, cpu, cuda or mps; `precision` auto, float32 or bfloat16, where the file leaves it open.
    """
    if not is_utf8(path):
        raise UserError(f"{str(path)!r} cannot be read: its path is not UTF-8")
    suffix = path.suffix.lower()
    if suffix in EXPORTED and precision != "auto":
        raise UserError(f"precision={precision}: {str(path)!r} was exported in one; a .safetensors leaves it open")
    if suffix == ".onnx":
        from impasto.engines.onnx import OnnxEngine

        return OnnxEngine(path, device)
    if suffix == ".pt2":
        from impasto.engines.compiled import CompiledEngine

        return CompiledEngine(path, device)
    from impasto.engines.eager import EagerEngine

    return EagerEngine.load(path, device, precision)
