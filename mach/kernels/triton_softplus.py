"""Softplus and its derivative inside Triton kernels; importing this needs triton."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def softplus_and_sigmoid(z):  # type: ignore[no-untyped-def]
    """log(1 + exp(z)) and its derivative 1 / (1 + exp(−z)) for float32 z, without overflow."""
    e = tl.exp(-tl.abs(z))
    small = e * (1.0 - e * (0.5 - e * 0.33333333))  # log(1 + e) where 1 + e would round to 1
    softplus = tl.maximum(z, 0.0) + tl.where(e < 0.01, small, tl.log(1.0 + e))
    return softplus, tl.where(z < 0.0, e, 1.0) / (1.0 + e)
