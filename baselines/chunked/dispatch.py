"""Who works through a chunk's logits: compiled loops on a CPU, Triton's kernels on a GPU, plain torch elsewhere."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from baselines.chunked import kernels


@dataclass(frozen=True)
class Passes:
    """The three passes of `baselines.chunked.kernels`, whose torch forms say what they take; all take tensors."""

    log_sum: Callable[[Tensor, Tensor, Tensor, Tensor, bool, Tensor, Tensor], None]
    softmax_gradient: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], None]
    bce_gradient: Callable[[Tensor, Tensor, Tensor, Tensor, float, Tensor], Tensor]
    by_threads: bool = False  # each works in one thread, and another may work on another chunk
    any_type: bool = False  # logits may be in the type of the products, and gradients then are


def passes_for(hidden: Tensor) -> Passes:
    """Those for the device and type of the hidden activations."""
    if hidden.dtype == torch.float32 and hidden.device.type == "cpu":
        return COMPILED
    if hidden.dtype == torch.float32 and hidden.is_cuda and has_triton():
        from baselines.chunked import triton_kernels  # here, because triton is optional

        return Passes(
            triton_kernels.log_sum, triton_kernels.softmax_gradient, triton_kernels.bce_gradient, any_type=True
        )
    return PLAIN


@cache
def has_triton() -> bool:
    """Whether the package is there; it comes with torch's CUDA builds for Linux."""
    return importlib.util.find_spec("triton") is not None


def _on_arrays(kernel: Any) -> Callable[..., Any]:
    """A compiled kernel that is given tensors, and single precision for a float."""

    def call(*arguments: Any) -> Any:
        return kernel(*(_array(argument) for argument in arguments))

    return call


def _array(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return argument.numpy()
    return np.float32(argument) if isinstance(argument, float) else argument


def _bce_gradient(*arguments: Any) -> Tensor:
    return torch.tensor(_on_arrays(kernels.bce_gradient)(*arguments), dtype=torch.float64)


COMPILED = Passes(_on_arrays(kernels.log_sum), _on_arrays(kernels.softmax_gradient), _bce_gradient, by_threads=True)
PLAIN = Passes(kernels.log_sum_torch, kernels.softmax_gradient_torch, kernels.bce_gradient_torch)
