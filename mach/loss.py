"""The loss of one repetition over its B buckets, with its gradient worked out by hand.

The gradient of both losses with respect to the logits z is (prediction − target) / N, so it is formed in place of the
logits and the backward pass is two matrix products; autograd would keep three more arrays of size N × B.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.nn import functional as F

LOSSES = ("bce", "softmax")


def bucket_targets(labels: sp.csr_matrix, buckets: npt.NDArray[np.integer]) -> tuple[Tensor, Tensor]:
    """The buckets that hold at least one label of each point: the target is the OR of the labels, not their count.

    labels [N, n_labels] CSR, buckets [n_labels]. Returns (rows, columns), int64, each (point, bucket) pair once.
    Counting a pair twice when two labels of a point collide is a wrong gradient that hardly shows in the loss.
    """
    rows, columns = _distinct_buckets(labels.indptr, labels.indices, buckets)
    return torch.from_numpy(rows), torch.from_numpy(columns)


@numba.njit(cache=True)
def _distinct_buckets(indptr, indices, buckets):  # type: ignore[no-untyped-def]
    first, last = indptr[0], indptr[-1]
    rows = np.empty(last - first, dtype=np.int64)
    columns = np.empty(last - first, dtype=np.int64)
    kept = 0
    for n in range(len(indptr) - 1):
        begin = kept
        for at in range(indptr[n], indptr[n + 1]):
            bucket = np.int64(buckets[indices[at]])
            seen = False
            for other in range(begin, kept):
                seen |= columns[other] == bucket
            if not seen:
                rows[kept], columns[kept] = n, bucket
                kept += 1
    return rows[:kept], columns[:kept]


def bucket_loss(hidden: Tensor, weight: Tensor, bias: Tensor, rows: Tensor, columns: Tensor, kind: str) -> Tensor:
    """Loss of one repetition: hidden [N, H], weight [B, H], bias [B], targets as (rows, columns); a scalar.

    ``bce``: Σ over buckets of the binary cross-entropy, mean over points (official code up to a constant factor).
    ``softmax``: cross-entropy against 1/|buckets of the point|, mean over points; points without labels count 0.
    """
    return _BucketLoss.apply(hidden, weight, bias, rows, columns, kind)


def bucket_loss_reference(
    hidden: Tensor, weight: Tensor, bias: Tensor, rows: Tensor, columns: Tensor, kind: str
) -> Tensor:
    """The same through plain torch and autograd, with dense targets. For tests."""
    logits = F.linear(hidden, weight, bias)
    target = torch.zeros_like(logits)
    target[rows, columns] = 1.0
    if kind == "bce":
        return F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / len(hidden)
    target = target / target.sum(1, keepdim=True).clamp(min=1.0)
    return -(target * F.log_softmax(logits, dim=1)).sum() / len(hidden)


class _BucketLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, rows: Tensor, columns: Tensor, kind: str
    ) -> Tensor:
        n_points = len(hidden)
        logits = torch.addmm(bias, hidden, weight.T)
        positive = logits[rows, columns]
        if kind == "bce":
            loss = F.softplus(logits).sum() - positive.sum()
            gradient = logits.sigmoid_()
            gradient[rows, columns] -= 1.0
        else:
            counts = torch.bincount(rows, minlength=n_points)
            share = (1.0 / counts.clamp(min=1).to(logits.dtype))[rows]
            highest = logits.amax(1, keepdim=True)
            gradient = logits.sub_(highest).exp_()
            total = gradient.sum(1, keepdim=True)
            labelled = (counts > 0).to(logits.dtype)[:, None]
            log_normaliser = (total.log() + highest) * labelled
            loss = log_normaliser.sum() - (share * positive).sum()
            gradient.mul_(labelled / total)
            gradient[rows, columns] -= share
        gradient.div_(n_points)
        ctx.save_for_backward(hidden, weight, gradient)
        return loss / n_points

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, gradient = ctx.saved_tensors
        scale = grad_outputs[0]
        grad_hidden = (gradient @ weight).mul_(scale)
        grad_weight = (gradient.T @ hidden).mul_(scale)
        return grad_hidden, grad_weight, gradient.sum(0).mul_(scale), None, None, None
