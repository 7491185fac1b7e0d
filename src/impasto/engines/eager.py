"""The network itself, in PyTorch."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from impasto.checkpoint import load_network
from impasto.errors import UserError
from impasto.hardware import bfloat16_is_fast
from impasto.models.transformer_net import TransformerNet

PRECISIONS = ("auto", "float32", "bfloat16")


def choose_device(device: str) -> torch.device:
    """`auto` takes the best there is; a device that is asked for and absent raises `UserError`."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return torch.device(next(name for name, available in present.items() if available))
    if device.partition(":")[0] not in present:
        raise UserError(f"device is auto, {', '.join(sorted(present))}, not {device!r}")
    if not present[device.partition(":")[0]]:
        raise UserError(f"device={device} was asked for, but this machine has none; device=auto takes what there is")
    return torch.device(device)


class EagerEngine:
    """Uncompiled, which on a CPU is as fast as compiled (README, Speed), and ready at once."""

    def __init__(
        self,
        net: TransformerNet,
        metadata: dict[str, Any] | None = None,
        device: str = "auto",
        precision: str = "auto",
    ) -> None:
        if precision not in PRECISIONS:
            raise UserError(f"precision is {', '.join(PRECISIONS)}, not {precision!r}")
        self.torch_device = choose_device(device)
        self.device = str(self.torch_device)
        self.net = net.eval().to(self.torch_device).to(memory_format=torch.channels_last)
        self.metadata = metadata or {}
        if precision == "auto":
            precision = "bfloat16" if bfloat16_is_fast(self.torch_device.type) else "float32"
        self.precision, self.bfloat16 = precision, precision == "bfloat16"

    @classmethod
    def load(cls, path: Path, device: str = "auto", precision: str = "auto") -> "EagerEngine":
        """From an inference file. Raises `UserError`."""
        return cls(*load_network(path), device, precision)

    def __call__(self, content: Float32[np.ndarray, "1 3 height width"]) -> Float32[np.ndarray, "1 3 height width"]:
        """The stylized image."""
        with (
            torch.inference_mode(),
            torch.autocast(self.torch_device.type, torch.bfloat16, enabled=self.bfloat16),
            memory_errors(),
        ):
            tensor = torch.from_numpy(content).to(self.torch_device, memory_format=torch.channels_last)
            return self.net(tensor).cpu().numpy()


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn torch's ways to be out of memory into `MemoryError`."""
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError, and the CPU allocator's plain RuntimeError
        if "memory" not in str(error):
            raise
        raise MemoryError from None
