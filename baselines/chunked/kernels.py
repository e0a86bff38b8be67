"""Losses of a chunk of labels in one compiled pass over its logits [C, N], in place; a row is a label.

The plain torch form of each kernel is below it. Tests compare the kernel with it, and it runs in double precision and
on a GPU without triton (with triton: `baselines.chunked.triton_kernels`).

All take logits without bias and the fields of `ChunkLabels`: the compiled kernels one by one, the others as one object.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mach.kernels.exp_log import FAST, ONE, ZERO, exp_of_negative, softplus

LOWEST = -3e38  # stands for a logit that does not count; finite, so that a difference of two is a number
_LOWEST = np.float32(LOWEST)


class ChunkLabels(NamedTuple):
    """The labels of a chunk and their positives, each pair of label and point once, by label and then by point."""

    bias: Tensor  # [C]
    rows: Tensor  # int64 [P]: label of each positive, counted from the chunk's first
    points: Tensor  # int64 [P]


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def log_sum(logits, bias, rows, points, negatives_only, positive, result):  # type: ignore[no-untyped-def]
    """result [N]: log Σ exp over the chunk's labels, or over negatives alone. positive [P]: logits of the positives."""
    for at in range(len(rows)):
        positive[at] = logits[rows[at], points[at]] + bias[rows[at]]
        if negatives_only:
            logits[rows[at], points[at]] = _LOWEST
    n_labels, n_points = logits.shape
    highest = np.full(n_points, _LOWEST, dtype=np.float32)
    for c in range(n_labels):
        b = bias[c]
        for n in range(n_points):
            z = logits[c, n] + b
            highest[n] = z if z > highest[n] else highest[n]
    total = np.zeros(n_points, dtype=np.float32)
    for c in range(n_labels):
        b = bias[c]
        for n in range(n_points):
            total[n] += exp_of_negative(logits[c, n] + b - highest[n])
    for n in range(n_points):
        result[n] = np.log(total[n]) + highest[n]


def log_sum_torch(logits: Tensor, labels: ChunkLabels, negatives_only: bool, positive: Tensor, result: Tensor) -> None:
    """The same in plain torch."""
    bias, rows, points = labels
    positive.copy_(logits[rows, points] + bias[rows])
    if negatives_only:
        logits[rows, points] = LOWEST
    torch.logsumexp(logits + bias[:, None], 0, out=result)


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def softmax_gradient(logits, bias, rows, points, log_total, factor, at_positives, grad_bias):  # type: ignore[no-untyped-def]
    """Logits become factor[n]·exp(logit − log_total[n]), and at_positives [P] at the positives.

    grad_bias [C] becomes their sums over points.
    """
    n_labels, n_points = logits.shape
    done = 0
    for c in range(n_labels):
        b = bias[c]
        for n in range(n_points):
            logits[c, n] = factor[n] * exp_of_negative(logits[c, n] + b - log_total[n])
        while done < len(rows) and rows[done] == c:
            logits[c, points[done]] = at_positives[done]
            done += 1
        total = ZERO
        for n in range(n_points):
            total += logits[c, n]
        grad_bias[c] = total


def softmax_gradient_torch(
    logits: Tensor, labels: ChunkLabels, log_total: Tensor, factor: Tensor, at_positives: Tensor, grad_bias: Tensor
) -> None:
    """The same in plain torch."""
    bias, rows, points = labels
    logits.add_(bias[:, None]).sub_(log_total).exp_().mul_(factor)
    logits[rows, points] = at_positives
    torch.sum(logits, 1, out=grad_bias)


@numba.njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def bce_gradient(logits, bias, rows, points, scale, grad_bias):  # type: ignore[no-untyped-def]
    """Logits become scale·(σ − Y) and grad_bias [C] their sums; returns Σ of the binary cross-entropies, not scaled."""
    n_labels, n_points = logits.shape
    loss, done = np.float64(0.0), 0
    for c in range(n_labels):
        b = bias[c]
        above = ZERO
        first = done
        while done < len(rows) and rows[done] == c:
            loss -= logits[c, points[done]] + b
            done += 1
        for n in range(n_points):
            z = logits[c, n] + b
            e = exp_of_negative(-abs(z))
            above += softplus(z, e)
            logits[c, n] = scale * (e if z < ZERO else ONE) / (ONE + e)
        loss += above
        for at in range(first, done):
            logits[c, points[at]] -= scale
        total = ZERO
        for n in range(n_points):
            total += logits[c, n]
        grad_bias[c] = total
    return loss


def bce_gradient_torch(logits: Tensor, labels: ChunkLabels, scale: float, grad_bias: Tensor) -> Any:
    """The same in plain torch."""
    bias, rows, points = labels
    logits.add_(bias[:, None])
    loss = -F.logsigmoid(-logits).sum() - logits[rows, points].sum()
    logits.sigmoid_()[rows, points] -= 1.0
    torch.sum(logits.mul_(scale), 1, out=grad_bias)
    return loss
