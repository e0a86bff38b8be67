"""What precisions the hardware has."""

from __future__ import annotations

import torch


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices itself; torch emulates, slowly, what it does not have."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return bool(supported and torch.backends.mkldnn.is_available() and supported())
