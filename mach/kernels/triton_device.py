"""Whether Triton is installed, and the GPU that its kernels are started on. Importing this does not need triton."""

from __future__ import annotations

import contextlib
import importlib.util
from functools import cache

import torch
from torch import Tensor


@cache
def has_triton() -> bool:
    """Whether the package is installed; it comes with torch's CUDA builds for Linux."""
    return importlib.util.find_spec("triton") is not None


def device_of(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """A context in which the tensor's GPU is the current one; no effect for a tensor that is not on a GPU.

    Triton starts a kernel on the current device. In Triton's interpreter the tensors are on the host.
    """
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()
