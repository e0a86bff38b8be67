"""Whether there are kernels of our own for the updates of a weight; what they do is in `bench.model.triton_updates`."""

from __future__ import annotations

import importlib.util
from functools import cache
from types import ModuleType

import torch
from torch import Tensor


def updates_for(weight: Tensor) -> ModuleType | None:
    """`bench.model.triton_updates` for a weight on a GPU in float32 or bfloat16, where triton is installed; else
    None."""
    if not weight.is_cuda or weight.dtype not in (torch.float32, torch.bfloat16) or not has_triton():
        return None
    from bench.model import triton_updates  # here, because triton is optional

    return triton_updates


@cache
def has_triton() -> bool:
    """Whether the package is there; it comes with torch's CUDA builds for Linux."""
    return importlib.util.find_spec("triton") is not None
