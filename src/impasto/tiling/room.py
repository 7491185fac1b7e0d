"""Whether a picture fits in memory at once, and if not, in what tiles it does."""

from pathlib import Path

import psutil
import torch

TILES = (1024, 512, 256, 128)  # px: larger ones gain little time and take gigabytes
HALO = 64  # px: more than the default network's 56

# Peak of a process less what it held before, one pass on a CPU, 1 to 3 megapixels, widths 16 and 32, torch 2.15:
# 15.4 to 18 bytes in float32 and 8 to 9.5 in bfloat16 per pixel and channel at full resolution.
PASS_BYTES = {"float32": 18, "bfloat16": 10}
RGB_BYTES = 24  # a pixel of the picture before and after, in float32
FIXED_BYTES = 256 << 20  # what the libraries take beside

_sharers = 1


def share_memory(processes: int) -> None:
    """Count on only this part of the CPU's memory from now on, as so many processes stylize on this machine."""
    global _sharers
    _sharers = processes


def memory_of_pass(height: int, width: int, channels: int, precision: str) -> int:
    """Bytes that one pass over the whole takes; `channels` is the network's width, `precision` float32 or bfloat16."""
    return height * width * (channels * PASS_BYTES[precision] + RGB_BYTES) + FIXED_BYTES


def choose_tile(height: int, width: int, channels: int, precision: str, device: torch.device) -> int | None:
    """None where half of the free memory is enough for one pass, else the largest tile for which a quarter is enough.

    A quarter, as `keep_freed_memory` was seen to hold on to 2.4 times a tile's need, after passes of many sizes.
    """
    free = free_memory(device)
    if memory_of_pass(height, width, channels, precision) <= free // 2:
        return None
    sides = ((tile, tile + 2 * HALO) for tile in TILES)
    return next(
        (tile for tile, side in sides if memory_of_pass(side, side, channels, precision) <= free // 4), TILES[-1]
    )


def free_memory(device: torch.device) -> int:
    """Bytes that this process can still take on the device: on a CPU, within the limits set to it as well."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return min([psutil.virtual_memory().available, *_below_address_limit(), *_below_group_limits()]) // _sharers


def _below_address_limit() -> list[int]:
    """What `ulimit -v` leaves."""
    if not hasattr(psutil, "RLIMIT_AS"):  # not on Linux
        return []
    process = psutil.Process()
    limit, _ = process.rlimit(psutil.RLIMIT_AS)
    return [] if limit < 0 else [max(limit - process.memory_info().vms, 0)]


def _below_group_limits(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """What containers and batch systems leave: the limits of this process's control group and those around it (v2)."""
    lines = own.read_text().splitlines() if own.is_file() else []
    paths = [line.removeprefix("0::/") for line in lines if line.startswith("0::")]
    room = []
    for group in [group for path in paths for group in (root / path, *(root / path).parents)]:
        try:
            limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
            statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except OSError:  # none here
            continue
        if limit != "max":
            # files that the system keeps in memory count as used, but it gives them up
            room.append(max(int(limit) - int(used) + int(statistics["inactive_file"]), 0))
    return room
