"""Matrix products of the output layers: oneDNN where torch offers it, torch's own BLAS elsewhere.

torch sends single-precision products to MKL, which some processors run more slowly than oneDNN; oneDNN also has the
bfloat16 instructions of processors that do.
"""

from __future__ import annotations

import torch
from torch import Tensor

PRECISIONS = ("fp32", "bf16")


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x·weightᵀ for x [N, M], weight [P, M]; a new tensor [N, P] in the operands' type.

    The operands may be transposed views. Not for autograd.
    """
    # The operation behind torch's compiled linear layers; the plain operator goes to MKL even where oneDNN is faster.
    if _ONEDNN and x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16):
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
        return out
    return x @ weight.T


_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
