"""The passes of `baselines.chunked.kernels` over a chunk's logits [C, N] on a GPU, as Triton kernels; needs triton.

Each reads the logits once and writes its result over them. In plain torch a loss is about ten passes over memory, which
take longer than the matrix products. Logits may be bfloat16, the type of the products; all arithmetic is in float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from baselines.chunked.kernels import LOWEST, ChunkLabels
from mach.kernels.triton_device import device_of
from mach.kernels.triton_softplus import softplus_and_sigmoid

POINTS = 128  # of a tile: neighbours in memory
LABELS = 16  # of a tile
PROGRAMS = 2048  # wanted for a sum over labels, several for each multiprocessor


def log_sum(logits: Tensor, labels: ChunkLabels, negatives_only: bool, positive: Tensor, result: Tensor) -> None:
    """`baselines.chunked.kernels.log_sum_torch`, the labels in runs whose sums are added up afterwards."""
    bias, rows, points = labels
    positive.copy_(logits[rows, points] + bias[rows])
    if negatives_only:
        logits[rows, points] = LOWEST
    n_labels, n_points = logits.shape
    blocks = triton.cdiv(n_points, POINTS)
    a_run = triton.cdiv(triton.cdiv(n_labels, max(1, PROGRAMS // blocks)), LABELS) * LABELS
    runs = triton.cdiv(n_labels, a_run)
    parts = torch.empty(runs, n_points, device=logits.device)
    with device_of(logits):
        _log_sum[(blocks, runs)](logits, bias, parts, n_labels, n_points, a_run, LABELS=LABELS, POINTS=POINTS)
    torch.logsumexp(parts, 0, out=result)


def softmax_gradient(
    logits: Tensor, labels: ChunkLabels, log_total: Tensor, factor: Tensor, at_positives: Tensor, grad_bias: Tensor
) -> None:
    """`baselines.chunked.kernels.softmax_gradient_torch`."""
    bias, rows, points = labels
    n_labels, n_points = logits.shape
    grid = (triton.cdiv(n_points, POINTS), triton.cdiv(n_labels, LABELS))
    with device_of(logits):
        _softmax_gradient[grid](
            logits, bias, log_total, factor, n_labels, n_points, LABELS=LABELS, POINTS=POINTS, num_warps=8
        )
    logits[rows, points] = at_positives.to(logits.dtype)
    torch.sum(logits, 1, dtype=grad_bias.dtype, out=grad_bias)


def bce_gradient(logits: Tensor, labels: ChunkLabels, scale: float, grad_bias: Tensor) -> Tensor:
    """`baselines.chunked.kernels.bce_gradient_torch`; the loss in double precision."""
    bias, rows, points = labels
    n_labels, n_points = logits.shape
    grid = (triton.cdiv(n_points, POINTS), triton.cdiv(n_labels, LABELS))
    positive = (logits[rows, points] + bias[rows]).double()
    parts = torch.empty(grid, device=logits.device)
    with device_of(logits):
        _bce_gradient[grid](logits, bias, parts, scale, n_labels, n_points, LABELS=LABELS, POINTS=POINTS, num_warps=8)
    logits[rows, points] = ((positive.sigmoid() - 1.0) * scale).to(logits.dtype)
    torch.sum(logits, 1, dtype=grad_bias.dtype, out=grad_bias)
    return parts.double().sum() - positive.sum()


@triton.jit
def _log_sum(logits, bias, parts, n_labels, n_points, a_run, LABELS: tl.constexpr, POINTS: tl.constexpr):  # type: ignore[no-untyped-def]
    """One program: a block of points × a run of labels; keeps the largest logit so far and the sum relative to it."""
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
    softplus, sigmoid = softplus_and_sigmoid(z)
    softplus = tl.where(inside, softplus, 0.0)
    tl.store(parts + tl.program_id(0) * tl.num_programs(1) + tl.program_id(1), tl.sum(tl.sum(softplus, axis=1), axis=0))
    tl.store(logits + at, sigmoid * scale, mask=inside)
