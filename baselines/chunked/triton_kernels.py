"""The passes of `baselines.chunked.kernels` over a chunk's logits [C, N] on a GPU, as Triton kernels; needs triton.

Each reads the logits once, and what becomes of them is written in their place. In plain torch a loss is some ten passes
over memory, which take longer than the matrix products. Logits may be bfloat16, as the products leave them; all
arithmetic is in float32.
"""

from __future__ import annotations

import contextlib

import torch
import triton
import triton.language as tl
from torch import Tensor

from baselines.chunked.kernels import LOWEST

POINTS = 128  # of a tile: neighbours in memory
LABELS = 16  # of a tile
PROGRAMS = 2048  # wanted for a sum over labels, several for each multiprocessor


def log_sum(
    logits: Tensor, bias: Tensor, rows: Tensor, points: Tensor, negatives_only: bool, positive: Tensor, result: Tensor
) -> None:
    """`baselines.chunked.kernels.log_sum_torch`, the labels in runs whose sums are added up afterwards."""
    positive.copy_(logits[rows, points] + bias[rows])
    if negatives_only:
        logits[rows, points] = LOWEST
    n_labels, n_points = logits.shape
    blocks = triton.cdiv(n_points, POINTS)
    a_run = triton.cdiv(triton.cdiv(n_labels, max(1, PROGRAMS // blocks)), LABELS) * LABELS
    runs = triton.cdiv(n_labels, a_run)
    parts = torch.empty(runs, n_points, device=logits.device)
    with _on(logits):
        _log_sum[(blocks, runs)](logits, bias, parts, n_labels, n_points, a_run, LABELS=LABELS, POINTS=POINTS)
    torch.logsumexp(parts, 0, out=result)


def softmax_gradient(
    logits: Tensor,
    bias: Tensor,
    rows: Tensor,
    points: Tensor,
    log_total: Tensor,
    factor: Tensor,
    at_positives: Tensor,
    grad_bias: Tensor,
) -> None:
    """`baselines.chunked.kernels.softmax_gradient_torch`."""
    n_labels, n_points = logits.shape
    grid = (triton.cdiv(n_points, POINTS), triton.cdiv(n_labels, LABELS))
    with _on(logits):
        _softmax_gradient[grid](
            logits, bias, log_total, factor, n_labels, n_points, LABELS=LABELS, POINTS=POINTS, num_warps=8
        )
    logits[rows, points] = at_positives.to(logits.dtype)
    torch.sum(logits, 1, dtype=grad_bias.dtype, out=grad_bias)


def bce_gradient(logits: Tensor, bias: Tensor, rows: Tensor, points: Tensor, scale: float, grad_bias: Tensor) -> Tensor:
    """`baselines.chunked.kernels.bce_gradient_torch`; the loss in double precision."""
    n_labels, n_points = logits.shape
    grid = (triton.cdiv(n_points, POINTS), triton.cdiv(n_labels, LABELS))
    positive = (logits[rows, points] + bias[rows]).double()
    parts = torch.empty(grid, device=logits.device)
    with _on(logits):
        _bce_gradient[grid](logits, bias, parts, scale, n_labels, n_points, LABELS=LABELS, POINTS=POINTS, num_warps=8)
    logits[rows, points] = ((positive.sigmoid() - 1.0) * scale).to(logits.dtype)
    torch.sum(logits, 1, dtype=grad_bias.dtype, out=grad_bias)
    return parts.double().sum() - positive.sum()


def _on(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """The tensor's GPU as the current one; nothing in Triton's interpreter."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


@triton.jit
def _log_sum(logits, bias, parts, n_labels, n_points, a_run, LABELS: tl.constexpr, POINTS: tl.constexpr):  # type: ignore[no-untyped-def]
    """One program: a block of points × a run of labels, the largest so far and the sum beside it going along."""
    n = tl.program_id(0) * POINTS + tl.arange(0, POINTS)
    start = tl.program_id(1) * a_run
    end = tl.minimum(start + a_run, n_labels)
    highest = tl.full([POINTS], -3e38, tl.float32)
    total = tl.zeros([POINTS], tl.float32)
    for low in range(start, end, LABELS):
        c = low + tl.arange(0, LABELS)
        inside = (c < end)[:, None] & (n < n_points)[None, :]
        at = c.to(tl.int64)[:, None] * n_points + n[None, :]
        z = tl.load(logits + at, mask=inside, other=0.0).to(tl.float32)
        z = tl.where(inside, z + tl.load(bias + c, mask=c < end, other=0.0)[:, None], float("-inf"))
        above = tl.maximum(highest, tl.max(z, axis=0))
        total = total * tl.exp(highest - above) + tl.sum(tl.exp(z - above[None, :]), axis=0)
        highest = above
    tl.store(parts + tl.program_id(1).to(tl.int64) * n_points + n, tl.log(total) + highest, mask=n < n_points)


@triton.jit
def _softmax_gradient(  # type: ignore[no-untyped-def]
    logits, bias, log_total, factor, n_labels, n_points, LABELS: tl.constexpr, POINTS: tl.constexpr
):
    n = tl.program_id(0) * POINTS + tl.arange(0, POINTS)
    c = tl.program_id(1) * LABELS + tl.arange(0, LABELS)
    inside = (c < n_labels)[:, None] & (n < n_points)[None, :]
    at = c.to(tl.int64)[:, None] * n_points + n[None, :]
    z = tl.load(logits + at, mask=inside, other=0.0).to(tl.float32)
    z += tl.load(bias + c, mask=c < n_labels, other=0.0)[:, None]
    z -= tl.load(log_total + n, mask=n < n_points, other=0.0)[None, :]
    tl.store(logits + at, tl.exp(z) * tl.load(factor + n, mask=n < n_points, other=0.0)[None, :], mask=inside)


@triton.jit
def _bce_gradient(logits, bias, parts, scale, n_labels, n_points, LABELS: tl.constexpr, POINTS: tl.constexpr):  # type: ignore[no-untyped-def]
    n = tl.program_id(0) * POINTS + tl.arange(0, POINTS)
    c = tl.program_id(1) * LABELS + tl.arange(0, LABELS)
    inside = (c < n_labels)[:, None] & (n < n_points)[None, :]
    at = c.to(tl.int64)[:, None] * n_points + n[None, :]
    z = tl.load(logits + at, mask=inside, other=0.0).to(tl.float32)
    z += tl.load(bias + c, mask=c < n_labels, other=0.0)[:, None]
    e = tl.exp(-tl.abs(z))
    small = e * (1.0 - e * (0.5 - e * 0.33333333))  # log(1 + e), which is 0 for an e that 1 does not feel
    softplus = tl.maximum(z, 0.0) + tl.where(e < 0.01, small, tl.log(1.0 + e))
    softplus = tl.where(inside, softplus, 0.0)
    tl.store(parts + tl.program_id(0) * tl.num_programs(1) + tl.program_id(1), tl.sum(tl.sum(softplus, axis=1), axis=0))
    tl.store(logits + at, tl.where(z < 0.0, e, 1.0) / (1.0 + e) * scale, mask=inside)
