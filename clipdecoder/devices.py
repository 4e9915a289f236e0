"""What a device is good at."""

from __future__ import annotations

import torch

_WITH_BFLOAT16 = (8, 0)  # compute capability of a GPU; older ones are slower with it than without


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device has units for products of bfloat16: a processor without takes a hundred times as long."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= _WITH_BFLOAT16
    abilities = torch.cpu.get_capabilities()
    return bool(abilities.get("avx512_bf16") or abilities.get("amx_bf16"))
