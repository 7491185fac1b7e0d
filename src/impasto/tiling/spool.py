"""Features of a whole picture on disk."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import torch
from jaxtyping import Float
from torch import Tensor

from impasto.errors import UserError
from impasto.memory import free_memory
from impasto.tiling.canvas import Region

IN_MEMORY = ("tmpfs", "ramfs")  # Linux's file systems that are


class Spool:
    """Features in a temporary file, which is gone when closed, or when the process ends.

    Read and written, not mapped into memory: so a full disk is an error, where a mapped file's would end the process,
    and none of it counts as the process's memory.
    """

    unit = 1  # px to a region's pixel

    def __init__(self, channels: int, width: int, dtype: torch.dtype, device: torch.device, folder: str) -> None:
        self.channels, self.width, self.dtype, self.device = channels, width, dtype, device
        self.norm: Callable[[Tensor], Tensor] | None = None  # of what is read; known when all has been written
        self.pixel_bytes = channels * dtype.itemsize
        self.advice = _advice(folder)
        self.file = tempfile.TemporaryFile(buffering=0, dir=folder)  # noqa: SIM115, closed by `open_spools`

    def write(self, region: Region, features: Float[Tensor, "1 channels height width"]) -> None:
        """Write a region. Raises `UserError` where the disk is full."""
        lines = features[0].permute(1, 2, 0).to("cpu", self.dtype).contiguous().view(torch.uint8).flatten(1).numpy()
        try:
            for row, line in enumerate(lines, region[0].start):
                self._seek(row, region)
                if self.file.write(line) < line.nbytes:  # the last bytes that there was room for
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise UserError(f"cannot write temporary files: {error.strerror} ({self.advice})") from None

    def read(self, region: Region) -> Float[Tensor, "1 channels height width"]:
        """What was written there, normed, in channels_last memory."""
        rows, columns = region
        pixels = torch.empty(rows.stop - rows.start, columns.stop - columns.start, self.channels, dtype=self.dtype)
        lines = pixels.view(torch.uint8).flatten(1).numpy()
        for row, line in enumerate(lines, rows.start):
            self._seek(row, region)
            self.file.readinto(line)
        features = pixels.to(self.device).permute(2, 0, 1)[None]
        return features if self.norm is None else self.norm(features)

    def close(self) -> None:
        """Give the disk's room back."""
        self.file.close()

    def _seek(self, row: int, region: Region) -> None:
        self.file.seek((row * self.width + region[1].start) * self.pixel_bytes)


@contextmanager
def open_spools(
    count: int, channels: int, height: int, width: int, dtype: torch.dtype, device: torch.device
) -> Iterator[list[Spool]]:
    """So many alike, gone at the end. Raises `UserError` at once where the disk lacks room for all."""
    folder = _folder()
    needed, free = count * channels * height * width * dtype.itemsize, shutil.disk_usage(folder).free
    if _is_memory(folder):
        free = min(free, free_memory(torch.device("cpu")))
    if needed > free:
        raise UserError(
            f"a picture this large takes {needed / 1e9:.1f} GB of temporary files, and there is room for"
            f" {free / 1e9:.1f} GB ({_advice(folder)})"
        )
    with ExitStack() as stack:
        spools = [Spool(channels, width, dtype, device, folder) for _ in range(count)]
        for spool in spools:
            stack.callback(spool.close)
        yield spools


def _folder() -> str:
    """The one for temporary files; but /var/tmp where that is in memory, as on Fedora, and nobody has chosen it."""
    usual, large = tempfile.gettempdir(), "/var/tmp"
    chosen = any(os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP"))
    if chosen or not _is_memory(usual) or not os.access(large, os.W_OK) or _is_memory(large):
        return usual
    return large


def _is_memory(folder: str) -> bool:
    """Whether files there take the machine's memory."""
    kinds = {place.mountpoint: place.fstype for place in psutil.disk_partitions(all=True)}
    real = Path(folder).resolve()
    return next((kinds[str(place)] for place in (real, *real.parents) if str(place) in kinds), "") in IN_MEMORY


def _advice(folder: str) -> str:
    return f"in {folder!r}; set TMPDIR to a folder with more room"
