"""One output for every label, exactly: the layer that MACH and sampling set out to replace, at its honest best.

Labels are worked through in chunks, once for the normaliser and once for the gradient (softmax), or once in all (bce);
beyond a few hundred megabytes the batch × labels matrix of logits never exists.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.topk import RunningTopK

LOSSES = ("softmax", "bce")
KEEP_BYTES = 256 * 2**20  # exponentials up to this size are kept for the gradient instead of computed twice
SMOOTHING = 0.5  # of a positive: keeps the prior of a label without train points finite


class FullSoftmax(nn.Module):
    """A linear layer over all labels.

    loss ``softmax``: cross-entropy against 1/|Y| on each label of a point, mean over points. loss ``bce``: binary
    cross-entropy summed over labels, mean over points. bias ``prior`` starts a label at its log share (softmax) or
    log-odds (bce) in train, ``zero`` at 0. label_chunk: labels worked on at a time.
    """

    def __init__(
        self,
        *,
        n_labels: int,
        hidden: int,
        train_labels: sp.csr_matrix,
        seeds: dict[str, int],
        loss: str = "softmax",
        bias: str = "prior",
        label_chunk: int = 8192,
    ) -> None:
        super().__init__()
        if loss not in LOSSES:
            raise ValueError(f"unknown loss {loss!r}; known: {', '.join(LOSSES)}")
        if bias not in ("prior", "zero"):
            raise ValueError(f"unknown bias {bias!r}; known: prior, zero")
        if label_chunk < 1:
            raise ValueError(f"label_chunk must be at least 1, got {label_chunk}")
        generator = torch.Generator().manual_seed(seeds["initialisation"])
        bound = 1.0 / math.sqrt(hidden)
        self.weight = nn.Parameter(torch.empty(n_labels, hidden).uniform_(-bound, bound, generator=generator))
        self.bias = nn.Parameter(label_prior(train_labels, loss) if bias == "prior" else torch.zeros(n_labels))
        self.loss_kind, self.label_chunk = loss, label_chunk

    @staticmethod
    def parameter_count(*, n_labels: int, hidden: int, **_: object) -> int:
        """K·(H + 1)."""
        return n_labels * (hidden + 1)

    def loss(self, hidden: Tensor, labels: sp.csr_matrix) -> Tensor:
        """hidden [N, H], labels CSR [N, n_labels]; a scalar."""
        rows = torch.from_numpy(np.repeat(np.arange(labels.shape[0]), np.diff(labels.indptr)))
        columns = torch.from_numpy(labels.indices.astype(np.int64))
        arguments = (rows.to(hidden.device), columns.to(hidden.device), self.loss_kind, self.label_chunk)
        return _ChunkedLoss.apply(hidden, self.weight, self.bias, *arguments)

    def topk(self, hidden: Tensor, k: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        """Exact top-k logits: (scores [N, k], labels [N, k])."""
        return linear_topk(hidden, self.weight, self.bias, k, self.label_chunk)


def linear_topk(
    hidden: Tensor, weight: Tensor, bias: Tensor, k: int, label_chunk: int = 16384
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Exact top-k of hidden·weightᵀ + bias, a chunk of labels at a time; ties by lowest label id."""
    best = RunningTopK(len(hidden), k)
    for low in range(0, len(weight), label_chunk):
        chunk = slice(low, low + label_chunk)
        logits = torch.addmm(bias[chunk], hidden, weight[chunk].T)
        best.feed(logits.float().cpu().numpy(), low)
    return best.scores, best.labels


def label_prior(train_labels: sp.csr_matrix, loss: str) -> Tensor:
    """Bias that reproduces the labels' train frequencies when nothing else is known, float32 [n_labels]."""
    counts = np.bincount(train_labels.indices, minlength=train_labels.shape[1]) + SMOOTHING
    if loss == "softmax":
        prior = np.log(counts / counts.sum())
    else:
        share = counts / (train_labels.shape[0] + 2 * SMOOTHING)
        prior = np.log(share) - np.log1p(-share)
    return torch.from_numpy(prior.astype(np.float32))


def loss_reference(hidden: Tensor, weight: Tensor, bias: Tensor, rows: Tensor, columns: Tensor, kind: str) -> Tensor:
    """The same loss with all logits at once, through autograd. For tests and for memory comparisons."""
    logits = F.linear(hidden, weight, bias)
    target = torch.zeros_like(logits)
    target[rows, columns] = 1.0
    if kind == "bce":
        return F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / len(hidden)
    target = target / target.sum(1, keepdim=True).clamp(min=1.0)
    return -(target * F.log_softmax(logits, dim=1)).sum() / len(hidden)


class _ChunkedLoss(torch.autograd.Function):
    """Loss and gradients in the forward pass, chunk by chunk; backward only scales what was kept."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        rows: Tensor,
        columns: Tensor,
        kind: str,
        label_chunk: int,
    ) -> Tensor:
        n_points, n_labels = len(hidden), len(weight)
        chunks = [slice(low, min(low + label_chunk, n_labels)) for low in range(0, n_labels, label_chunk)]
        order = torch.argsort(columns, stable=True)
        rows, columns = rows[order], columns[order]
        positive = (hidden[rows] * weight[columns]).sum(1) + bias[columns]
        if kind == "softmax":
            counts = torch.bincount(rows, minlength=n_points)
            labelled = (counts > 0).to(hidden.dtype)[:, None]
            share = (1.0 / counts.to(hidden.dtype))[rows]
            log_normaliser, kept = _normalise(hidden, weight, bias, chunks)
            loss = (log_normaliser * labelled).sum() - (share * positive).sum()
        else:
            share = torch.ones_like(positive)
            loss = -positive.sum()
        grad_hidden = torch.zeros_like(hidden)
        grad_weight = torch.empty_like(weight)
        grad_bias = torch.empty_like(bias)
        for at, chunk in enumerate(chunks):
            if kind == "softmax":
                exponentials, highest = kept[at] or _exponentials(hidden, weight, bias, chunk)
                gradient = exponentials.mul_((highest - log_normaliser).exp_().mul_(labelled / n_points))
            else:
                logits = torch.addmm(bias[chunk], hidden, weight[chunk].T)
                loss = loss + F.softplus(logits).sum()
                gradient = logits.sigmoid_().div_(n_points)
            here = slice(*torch.searchsorted(columns, columns.new_tensor([chunk.start, chunk.stop])).tolist())
            gradient[rows[here], columns[here] - chunk.start] -= share[here] / n_points
            grad_hidden.addmm_(gradient, weight[chunk])
            torch.mm(gradient.T, hidden, out=grad_weight[chunk])
            torch.sum(gradient, 0, out=grad_bias[chunk])
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        return loss / n_points

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        scale = grad_outputs[0]
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        if scale != 1.0:
            grad_hidden, grad_weight, grad_bias = grad_hidden * scale, grad_weight * scale, grad_bias * scale
        return grad_hidden, grad_weight, grad_bias, None, None, None, None


def _exponentials(hidden: Tensor, weight: Tensor, bias: Tensor, chunk: slice) -> tuple[Tensor, Tensor]:
    """exp(logits − highest) of a chunk of labels [N, C], and the highest logit of each point [N, 1]."""
    logits = torch.addmm(bias[chunk], hidden, weight[chunk].T)
    highest = logits.amax(1, keepdim=True)
    return logits.sub_(highest).exp_(), highest


def _normalise(
    hidden: Tensor, weight: Tensor, bias: Tensor, chunks: list[slice]
) -> tuple[Tensor, list[tuple[Tensor, Tensor] | None]]:
    """log Σ exp(logits) over all labels, [N, 1], and what the gradient needs of each chunk where memory allows."""
    n_bytes = len(hidden) * len(weight) * hidden.element_size()
    kept: list[tuple[Tensor, Tensor] | None] = []
    parts = []
    for chunk in chunks:
        exponentials, highest = _exponentials(hidden, weight, bias, chunk)
        parts.append(exponentials.sum(1, keepdim=True).log_() + highest)
        kept.append((exponentials, highest) if n_bytes <= KEEP_BYTES else None)
    return torch.cat(parts, 1).logsumexp(1, keepdim=True), kept
