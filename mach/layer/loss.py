"""The loss of repetitions over their B buckets each, with its gradient computed by hand.

The gradient of both losses with respect to the logits z is (prediction − target) / N. It overwrites the logits of one
repetition at a time while they are in the cache, and goes into the products of the backward pass at once. So no array
of size R × N × B exists, and autograd, which would keep several, gets the finished gradients.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.nn import functional as F

from mach.kernels.product import DTYPES, product
from mach.kernels.triton_device import has_triton
from mach.kernels.workers import workers
from mach.layer.loss_kernels import distinct_buckets, loss_and_gradient, loss_and_gradient_shared

LOSSES = ("bce", "softmax")
TimingHook = Callable[[str, float], None]
PARTS = ("output forward", "loss and gradient", "output backward")
BLOCK_BYTES = 256 * 2**20  # logits worked on at a time where repetitions go through one batched product


@dataclass(frozen=True)
class Targets:
    """The buckets that hold at least one label of each point: the target is the OR of the labels, not their count.

    In repetition g, point n has the buckets columns[g, starts[g, n] : starts[g, n + 1]], each once. To count a bucket
    twice when two labels of a point collide would make the gradient wrong, and would hardly show in the loss.
    """

    starts: npt.NDArray[np.int64]  # [G, N + 1]
    columns: npt.NDArray[np.int64]  # [G, pairs of the repetition that has most]

    @classmethod
    def of(cls, labels: sp.csr_matrix, lookup: npt.NDArray[np.integer], B: int) -> Targets:
        """labels CSR [N, n_labels], lookup [G, n_labels] with buckets below B."""
        return cls(*distinct_buckets(labels.indptr, labels.indices, lookup, B))

    def pairs(self, g: int) -> tuple[Tensor, Tensor]:
        """(points, buckets) of repetition g, int64."""
        starts = self.starts[g]
        points = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        return torch.from_numpy(points), torch.from_numpy(self.columns[g, : starts[-1]])

    def indices(self, block: range, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """(repetition, counted from the block's first; point; bucket) of all pairs of a block, int64."""
        pairs = [self.pairs(g) for g in block]
        which = torch.repeat_interleave(torch.tensor([len(points) for points, _ in pairs]))
        points, buckets = (torch.cat(side) for side in zip(*pairs, strict=True))
        return which.to(device), points.to(device), buckets.to(device)


def _no_timing(part: str, seconds: float) -> None:
    del part, seconds


@dataclass(frozen=True)
class LossSettings:
    """Which loss, and how it is computed.

    ``kind``: ``bce`` is Σ over buckets of the binary cross-entropy, mean over points (official code up to a constant
    factor); ``softmax`` is the cross-entropy against 1/|buckets of the point|, mean over points, and points without
    labels count 0. ``precision`` is that of the matrix products; weights, losses and gradients are float32 in any case.
    ``timing_hook`` is called with the name of each part of the work (`PARTS`) and its seconds, the time of all threads
    divided by their number.
    """

    kind: str
    precision: str = "fp32"
    timing_hook: TimingHook = _no_timing


def bucket_losses(hidden: Tensor, kernel: Tensor, bias: Tensor, targets: Targets, settings: LossSettings) -> Tensor:
    """Sum over repetitions of their losses: hidden [G, N, H], kernel [G, H, B], bias [G, B]; a scalar."""
    return _BucketLosses.apply(hidden, kernel, bias, targets, settings)


def bucket_loss_reference(
    hidden: Tensor, kernel: Tensor, bias: Tensor, points: Tensor, buckets: Tensor, kind: str
) -> Tensor:
    """The loss of one repetition through plain torch and autograd, with dense targets; hidden [N, H], kernel [H, B]."""
    logits = hidden @ kernel + bias
    target = torch.zeros_like(logits)
    target[points, buckets] = 1.0
    if kind == "bce":
        return F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / len(hidden)
    target = target / target.sum(1, keepdim=True).clamp(min=1.0)
    return -(target * F.log_softmax(logits, dim=1)).sum() / len(hidden)


class _BucketLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, kernel: Tensor, bias: Tensor, targets: Targets, settings: LossSettings
    ) -> Tensor:
        compiled = hidden.device.type == "cpu" and hidden.dtype == torch.float32
        work = _one_by_one if compiled else _in_blocks
        tensors = (hidden.detach(), kernel.detach(), bias.detach())
        loss, *ctx.gradients = work(*tensors, targets, settings)
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        # Not kept here as well, because autograd then uses them without a copy.
        gradients, ctx.gradients = ctx.gradients, None
        if grad_outputs[0] != 1.0:
            gradients = [gradient.mul_(grad_outputs[0]) for gradient in gradients]
        return (*gradients, None, None)


Gradients = tuple[Tensor, Tensor, Tensor, Tensor]


def _one_by_one(hidden: Tensor, kernel: Tensor, bias: Tensor, targets: Targets, settings: LossSettings) -> Gradients:
    """(loss, gradients of hidden, kernel, bias), float32 on the CPU.

    Each thread works on whole repetitions. With fewer repetitions than threads, all threads work on one at a time.
    """
    grad_hidden, grad_kernel, grad_bias = torch.empty(hidden.shape), torch.empty(kernel.shape), torch.empty(bias.shape)
    dtype, threads = DTYPES[settings.precision], torch.get_num_threads()
    each_alone = 1 < threads <= len(kernel)

    def repetition(g: int) -> tuple[float, ...]:
        moments = [time.perf_counter()]
        points, weight = hidden[g].contiguous().to(dtype), kernel[g].to(dtype)
        logits = product(points, weight.T, bias[g].to(dtype)).float()
        moments.append(time.perf_counter())
        arguments = (
            logits.numpy(),
            targets.starts[g],
            targets.columns[g],
            settings.kind == "softmax",
            grad_bias[g].numpy(),
        )
        shared = threads > 1 and not each_alone
        loss = loss_and_gradient_shared(*arguments, threads) if shared else loss_and_gradient(*arguments)
        moments.append(time.perf_counter())
        gradient = logits.to(dtype)
        grad_hidden[g] = product(gradient, weight)
        grad_kernel[g] = product(points.T, gradient.T)
        moments.append(time.perf_counter())
        return loss, *(after - before for before, after in itertools.pairwise(moments))

    everywhere = workers(threads).map if each_alone else map
    total = 0.0
    for loss, *seconds in everywhere(repetition, range(len(kernel))):
        total += loss
        for part, spent in zip(PARTS, seconds, strict=True):
            settings.timing_hook(part, spent / threads if each_alone else spent)
    return torch.tensor(total, dtype=torch.float32), grad_hidden, grad_kernel, grad_bias


def _in_blocks(hidden: Tensor, kernel: Tensor, bias: Tensor, targets: Targets, settings: LossSettings) -> Gradients:
    """The same by batched products over blocks of repetitions; any device and type. Its parts are not timed."""
    grad_hidden, grad_kernel, grad_bias = torch.empty_like(hidden), torch.empty_like(kernel), torch.empty_like(bias)
    n_points, n_buckets = hidden.shape[1], kernel.shape[2]
    dtype = hidden.dtype if settings.precision == "fp32" else DTYPES[settings.precision]
    fused = settings.kind == "bce" and hidden.is_cuda and hidden.dtype == torch.float32 and has_triton()
    size = max(1, BLOCK_BYTES // (n_points * n_buckets * hidden.element_size()))
    total = hidden.new_zeros(())
    for low in range(0, len(kernel), size):
        block = slice(low, low + size)
        points, weight = hidden[block].to(dtype), kernel[block].to(dtype)
        logits = torch.baddbmm(bias[block, None].to(dtype), points, weight)
        at = targets.indices(range(low, low + len(weight)), hidden.device)
        if fused:
            loss, gradient = _fused(logits, at, n_points)
        else:
            loss, gradient = _loss_and_gradient_torch(logits.to(hidden.dtype), *at, settings.kind)
        total += loss
        torch.sum(gradient, 1, dtype=grad_bias.dtype, out=grad_bias[block])
        gradient = gradient.to(dtype)
        grad_hidden[block] = torch.bmm(gradient, weight.transpose(1, 2))
        grad_kernel[block] = torch.bmm(points.transpose(1, 2), gradient)
    return total, grad_hidden, grad_kernel, grad_bias


def _fused(logits: Tensor, at: tuple[Tensor, Tensor, Tensor], n_points: int) -> tuple[Tensor, Tensor]:
    """As `_loss_and_gradient_torch` for ``bce``, on a GPU."""
    from mach.layer.triton_kernels import bce_gradient  # here, because triton is optional

    return bce_gradient(logits, at, n_points)


def _loss_and_gradient_torch(
    logits: Tensor, which: Tensor, points: Tensor, buckets: Tensor, kind: str
) -> tuple[Tensor, Tensor]:
    """Loss of a block of repetitions, and the gradient in place of its logits [G, N, B].

    which, points, buckets: repetition (of the block), point and bucket of each positive.
    """
    repetitions, n_points, _ = logits.shape
    positive = logits[which, points, buckets]
    if kind == "bce":
        loss = F.softplus(logits).sum() - positive.sum()
        gradient, share = logits.sigmoid_(), torch.ones_like(positive)
    else:
        counts = torch.bincount(which * n_points + points, minlength=repetitions * n_points)
        counts = counts.view(repetitions, n_points, 1)
        share = 1.0 / counts[which, points, 0].to(logits.dtype)
        labelled = (counts > 0).to(logits.dtype)
        highest = logits.amax(2, keepdim=True)
        gradient = logits.sub_(highest).exp_()
        total = gradient.sum(2, keepdim=True)
        loss = ((total.log() + highest) * labelled).sum() - (share * positive).sum()
        gradient.mul_(labelled / total)
    gradient[which, points, buckets] -= share
    return loss / n_points, gradient.div_(n_points)
