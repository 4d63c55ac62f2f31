"""Which number format computes: bfloat16 where the processor has it, float32 elsewhere, float16 never."""

from __future__ import annotations

import torch


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The autocast context of a forward pass.

    Args:
        precision: `auto`, `float32` or `bfloat16`. On processors that lack bfloat16 instructions
            the format is three to seven times slower than float32, so `auto` asks first.
        device: where the tensors are.
    """
    enabled = precision == "bfloat16" or (precision == "auto" and computes_bfloat16(device))
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16 products."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return False
