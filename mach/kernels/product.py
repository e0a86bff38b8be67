"""Matrix products of the output layers: oneDNN where torch offers it, torch's own BLAS elsewhere.

torch sends single-precision products to MKL, which on some processors runs at half the rate that oneDNN reaches on the
same cores (docs/training.md has the measurement); oneDNN also has the bfloat16 instructions of processors that do.
"""

from __future__ import annotations

import torch
from torch import Tensor

PRECISIONS = ("fp32", "bf16")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x·weightᵀ + bias for x [N, M], weight [P, M], bias [P]; a new tensor [N, P] in the operands' type.

    The operands may be transposed views. Not for autograd.
    """
    # The operation behind torch's compiled linear layers; the plain operator goes to MKL even where oneDNN is faster.
    if _ONEDNN and x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16):
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return out
    return product_reference(x, weight, bias)


def product_reference(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same through torch's ordinary operators."""
    return x @ weight.T if bias is None else torch.addmm(bias, x, weight.T)


def _has_onednn() -> bool:
    available = torch.backends.mkldnn.is_available()
    return available and hasattr(torch.ops.mkldnn, "_linear_pointwise")


_ONEDNN = _has_onednn()
