"""Binary cross-entropy over buckets and its gradient in one pass over the logits, as a Triton kernel; needs triton."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from mach.kernels.triton_device import device_of
from mach.kernels.triton_softplus import softplus_and_sigmoid

BLOCK = 2048  # logits of a program


def bce_gradient(logits: Tensor, at: tuple[Tensor, Tensor, Tensor], n_points: int) -> tuple[Tensor, Tensor]:
    """(Σ of the cross-entropies, float32; their gradient in place of the logits [G, N, B]), both divided by N.

    logits contiguous, float32 or bfloat16; the gradient is rounded to the same type. at: repetition, point and bucket
    of each positive, all different. Arithmetic is in float32, and sums over more than a block in double precision.
    """
    scale = 1.0 / n_points
    positive = logits[at].double()
    parts = torch.empty(triton.cdiv(logits.numel(), BLOCK), device=logits.device)
    with device_of(logits):
        _bce_gradient[(len(parts),)](logits, parts, logits.numel(), scale, BLOCK=BLOCK, num_warps=8)
    logits[at] = ((positive.sigmoid() - 1.0) * scale).to(logits.dtype)
    return ((parts.double().sum() - positive.sum()) * scale).float(), logits


@triton.jit
def _bce_gradient(logits, parts, n_logits, scale, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n_logits
    z = tl.load(logits + at, mask=inside, other=0.0).to(tl.float32)
    softplus, sigmoid = softplus_and_sigmoid(z)
    tl.store(parts + tl.program_id(0), tl.sum(tl.where(inside, softplus, 0.0), axis=0))
    tl.store(logits + at, sigmoid * scale, mask=inside)
