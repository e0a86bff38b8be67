"""Which kernels compute on a chunk's logits: compiled loops on a CPU, Triton's on a GPU, plain torch elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from baselines.chunked import kernels
from baselines.chunked.kernels import ChunkLabels
from mach.kernels.triton_device import has_triton


@dataclass(frozen=True)
class Passes:
    """The three passes of `baselines.chunked.kernels`, with the parameters of their torch forms; all take tensors."""

    log_sum: Callable[[Tensor, ChunkLabels, bool, Tensor, Tensor], None]
    softmax_gradient: Callable[[Tensor, ChunkLabels, Tensor, Tensor, Tensor, Tensor], None]
    bce_gradient: Callable[[Tensor, ChunkLabels, float, Tensor], Tensor]
    by_threads: bool = False  # each runs in one thread, so that several threads may each do a chunk
    any_type: bool = False  # logits may be in the type of the products; gradients are then in it too


def passes_for(hidden: Tensor) -> Passes:
    """The passes for the device and type of the hidden activations."""
    if hidden.dtype == torch.float32 and hidden.device.type == "cpu":
        return COMPILED
    if hidden.dtype == torch.float32 and hidden.is_cuda and has_triton():
        from baselines.chunked import triton_kernels  # here, because triton is optional

        return Passes(
            triton_kernels.log_sum, triton_kernels.softmax_gradient, triton_kernels.bce_gradient, any_type=True
        )
    return PLAIN


def _on_arrays(kernel: Any) -> Callable[..., Any]:
    """A compiled kernel that is called with tensors and `ChunkLabels`; a float becomes single precision."""

    def call(logits: Tensor, labels: ChunkLabels, *others: Any) -> Any:
        return kernel(*(_array(argument) for argument in (logits, *labels, *others)))

    return call


def _array(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return argument.numpy()
    return np.float32(argument) if isinstance(argument, float) else argument


def _bce_gradient(*arguments: Any) -> Tensor:
    return torch.tensor(_on_arrays(kernels.bce_gradient)(*arguments), dtype=torch.float64)


COMPILED = Passes(_on_arrays(kernels.log_sum), _on_arrays(kernels.softmax_gradient), _bce_gradient, by_threads=True)
PLAIN = Passes(kernels.log_sum_torch, kernels.softmax_gradient_torch, kernels.bce_gradient_torch)
