"""Whether a picture fits in memory at once, and if not, in what tiles it does."""

import torch

from impasto.memory import EXTENDED, free_memory

TILES = (1024, 512, 256, 128)  # px: larger ones gain little time and take gigabytes
ADDRESSED = 2**31  # numbers in a tensor that CUDA's reflection padding takes
HALO = 64  # px: more than the default network's 56

# Peak of a process less what it held before, one pass on a CPU, 1 to 3 megapixels, widths 16 and 32, torch 2.15:
# 15.4 to 18 bytes in float32 and 8 to 9.5 in bfloat16 per pixel and channel at full resolution.
PASS_BYTES = {"float32": 18, "bfloat16": 10}
RGB_BYTES = 24  # a pixel of the picture before and after, in float32
FIXED_BYTES = 256 << 20  # what the libraries take beside


def memory_of_pass(height: int, width: int, channels: int, precision: str, count: int = 1) -> int:
    """Bytes that one pass over `count` whole pictures takes.

    `channels` is the network's width, `precision` float32 or bfloat16.
    """
    pixels = count * (height + EXTENDED) * (width + EXTENDED)
    return pixels * (channels * PASS_BYTES[precision] + RGB_BYTES) + FIXED_BYTES


def choose_tile(
    height: int, width: int, channels: int, precision: str, device: torch.device, held: int = 0
) -> int | None:
    """None where half of the free memory is enough for one pass, else the largest tile for which a quarter is enough.

    A quarter, as `keep_freed_memory` was seen to hold on to 2.4 times a tile's need, after passes of many sizes.
    What passes before have taken, and so `held` on to, is enough for as large a one.
    """
    free = free_memory(device)
    addressed = device.type == "cpu" or channels * (height + 2 * HALO) * (width + 2 * HALO) < ADDRESSED
    if addressed and memory_of_pass(height, width, channels, precision) <= max(held, free // 2):
        return None
    sides = ((tile, tile + 2 * HALO) for tile in TILES)
    return next(
        (tile for tile, side in sides if memory_of_pass(side, side, channels, precision) <= free // 4), TILES[-1]
    )
