"""The network itself, in PyTorch."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt
from rich.console import Console

from impasto.checkpoint import load_network
from impasto.hardware import choose_device, heed_quota, takes_bfloat16
from impasto.memory import Room, is_shortage
from impasto.models.transformer_net import TransformerNet
from impasto.peers import PEER_SUFFIXES, load_peer_network, precision_for
from impasto.progress import passing
from impasto.tiling import stylize_tiled
from impasto.tiling.room import choose_tile, memory_of_pass

# On 2 cores four images of 128² at once took 0.82 of their time one by one, of 256² 1.03, and eight of 512² 2.7: what
# stays in the caches gains. On a GPU an estimate: what fills it.
BATCH_PIXELS = {"cpu": 4 * 128**2, "cuda": 4 * 1024**2, "mps": 1024**2}


# A process forked from one that has stylized has none of OpenMP's threads, and would wait for them for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))


class EagerEngine:
    """Uncompiled, which on a CPU is as fast as compiled (`impasto.benchmark`), and ready at once."""

    def __init__(
        self,
        net: TransformerNet,
        metadata: dict[str, Any] | None = None,
        device: str = "auto",
        precision: str = "auto",
    ) -> None:
        heed_quota()
        self.torch_device = choose_device(device)
        self.bfloat16 = takes_bfloat16(precision_for(net, precision), self.torch_device.type)
        self.precision = "bfloat16" if self.bfloat16 else "float32"
        self.device = str(self.torch_device)
        self.batch_pixels = BATCH_PIXELS[self.torch_device.type]
        self.net = net.eval().to(self.torch_device).to(memory_format=torch.channels_last)
        self.metadata, self.room = metadata or {}, Room()

    @classmethod
    def load(cls, path: Path, device: str = "auto", precision: str = "auto") -> "EagerEngine":
        """From an inference file, or a checkpoint of pytorch/examples. Raises `UserError`."""
        load = load_peer_network if path.suffix.lower() in PEER_SUFFIXES else load_network
        return cls(*load(path), device, precision)

    def __call__(
        self, content: Float32[np.ndarray, "batch 3 height width"]
    ) -> Float32[np.ndarray, "batch 3 height width"]:
        """The stylized images."""
        if self.torch_device.type == "cpu":
            count, _, height, width = content.shape
            self.room.take(memory_of_pass(height, width, int(self.net.arguments["width"]), self.precision, count))
        with (
            torch.inference_mode(),
            torch.autocast(self.torch_device.type, torch.bfloat16, enabled=self.bfloat16),
            memory_errors(),
        ):
            tensor = torch.from_numpy(content).to(self.torch_device, memory_format=torch.channels_last)
            return self.net(tensor).cpu().numpy()

    def choose_tile(self, height: int, width: int) -> int | None:
        """Side of the tiles (px) that the free memory allows; None where the whole fits."""
        channels = int(self.net.arguments["width"])
        return choose_tile(height, width, channels, self.precision, self.torch_device, self.room.held)

    def stylize_tiled(
        self, pixels: UInt[np.ndarray, "height width 3"], tile: int, exact: bool = True
    ) -> UInt[np.ndarray, "height width 3"]:
        """The stylized picture, in tiles: `impasto.tiling.stylize_tiled`, with its progress."""
        # on stderr, as a picture may go to the standard output
        with passing(console=Console(stderr=True)) as progress, memory_errors():
            bar = progress.add_task("Tiles", total=1.0)
            return stylize_tiled(
                self.net, pixels, tile, exact, self.bfloat16, lambda done: progress.update(bar, completed=done)
            )


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn torch's ways to be out of memory into `MemoryError`."""
    try:
        yield
    except RuntimeError as error:
        if not is_shortage(error):
            raise
        raise MemoryError from None
