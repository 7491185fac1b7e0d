"""What processors can do."""

import torch


def bfloat16_is_fast(device_type: str) -> bool:
    """Whether the device multiplies bfloat16 in hardware; its emulation would be slower than float32."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False
