"""Softmax over a point's labels and a shared random sample of the others, corrected for how they were sampled."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from baselines.full_softmax import label_prior, linear_topk


class SampledSoftmax(nn.Module):
    """The full softmax's parameters, trained on a sample of negatives a step (Jean et al. 2015).

    Each step draws ``n_samples`` labels with replacement from the train frequencies to the power ``alpha`` (0 is
    uniform) and keeps the distinct ones, shared by the batch so that their logits are one matrix product. A sampled
    logit is lowered by the log of its probability of being in the sample, log(1 − (1 − q)^n): then the sum over the
    sample estimates the sum over all labels without bias. All labels of a point are positives with target 1/|Y|,
    and a sampled label that is one of them is masked (an accidental hit). Gradients touch only the rows used.
    """

    row_sparse = ("weight", "bias")

    def __init__(
        self,
        *,
        n_labels: int,
        hidden: int,
        train_labels: sp.csr_matrix,
        seeds: dict[str, int],
        n_samples: int = 8192,
        alpha: float = 0.5,
        bias: str = "zero",
    ) -> None:
        super().__init__()
        if n_samples < 1:
            raise ValueError(f"n_samples must be at least 1, got {n_samples}")
        if bias not in ("prior", "zero"):
            raise ValueError(f"unknown bias {bias!r}; known: prior, zero")
        generator = torch.Generator().manual_seed(seeds["initialisation"])
        bound = 1.0 / math.sqrt(hidden)
        self.weight = nn.Parameter(torch.empty(n_labels, hidden).uniform_(-bound, bound, generator=generator))
        start = label_prior(train_labels, "softmax") if bias == "prior" else torch.zeros(n_labels)
        self.bias = nn.Parameter(start[:, None])
        frequency = np.bincount(train_labels.indices, minlength=n_labels).astype(np.float64)
        proposal = np.maximum(frequency, 1.0) ** alpha  # a label without train points can still be a negative
        self._cumulative = np.cumsum(proposal / proposal.sum())
        self._log_q = log_inclusion(proposal / proposal.sum(), n_samples)
        self._rng = np.random.Generator(np.random.PCG64(seeds["sampling"]))
        self.n_samples = n_samples

    @staticmethod
    def parameter_count(*, n_labels: int, hidden: int, **_: object) -> int:
        """K·(H + 1): sampling saves work, not parameters."""
        return n_labels * (hidden + 1)

    def sample(self) -> npt.NDArray[np.int64]:
        """Distinct labels of one step, ascending."""
        drawn = np.searchsorted(self._cumulative, self._rng.random(self.n_samples), side="right")
        return np.unique(np.minimum(drawn, len(self._cumulative) - 1))

    def loss(self, hidden: Tensor, labels: sp.csr_matrix) -> Tensor:
        """hidden [N, H], labels CSR [N, n_labels]; a scalar, not comparable with the full softmax's loss."""
        return self.loss_on(self.sample(), hidden, labels)

    def loss_on(self, sample: npt.NDArray[np.int64], hidden: Tensor, labels: sp.csr_matrix) -> Tensor:
        """The loss with the negatives given (ascending, distinct)."""
        batch = _Batch.of(sample, labels, self._log_q, hidden.device)
        loss: Tensor = _SampledLoss.apply(hidden, self.weight, self.bias, batch)
        return loss

    def topk(self, hidden: Tensor, k: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        """Exact top-k logits over all labels: (scores [N, k], labels [N, k])."""
        return linear_topk(hidden, self.weight, self.bias[:, 0], k)


def log_inclusion(q: npt.NDArray[np.float64], tries: int) -> npt.NDArray[np.float64]:
    """Log of the probability that a label is among the distinct ones of ``tries`` draws: log(1 − (1 − q)^tries)."""
    with np.errstate(divide="ignore"):
        return np.log(-np.expm1(tries * np.log1p(-q)))


@dataclass(frozen=True)
class _Batch:
    """Who is compared with whom in one step: index tensors, with the sample first among the rows in use."""

    used: Tensor  # label ids of the rows in use: the sample, then positives outside it
    n_sampled: int
    correction: Tensor  # log-probability of each sampled label to be in the sample, [n_sampled]
    rows: Tensor  # point of each positive
    positive_at: Tensor  # place of each positive among the rows in use
    accidental: tuple[Tensor, Tensor]  # (point, place in the sample) of sampled labels that are the point's own
    counts: Tensor  # labels of each point, [N]

    @classmethod
    def of(
        cls,
        sample: npt.NDArray[np.int64],
        labels: sp.csr_matrix,
        log_q: npt.NDArray[np.float64],
        device: torch.device,
    ) -> _Batch:
        positives = labels.indices.astype(np.int64)
        counts = np.diff(labels.indptr)
        rows = np.repeat(np.arange(len(counts)), counts)
        place = np.searchsorted(sample, positives)
        is_hit = sample[np.minimum(place, len(sample) - 1)] == positives
        others, at = np.unique(positives[~is_hit], return_inverse=True)
        positive_at = place.copy()
        positive_at[~is_hit] = len(sample) + at

        def tensor(array: npt.NDArray[np.generic]) -> Tensor:
            return torch.from_numpy(array).to(device)

        return cls(
            used=tensor(np.concatenate([sample, others])),
            n_sampled=len(sample),
            correction=tensor(log_q[sample].astype(np.float32)),
            rows=tensor(rows),
            positive_at=tensor(positive_at),
            accidental=(tensor(rows[is_hit]), tensor(place[is_hit])),
            counts=tensor(counts.astype(np.int64)),
        )


class _SampledLoss(torch.autograd.Function):
    """Loss and gradients together: two products with the sample's rows, and a short sum over the positives."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, batch: _Batch) -> Tensor:
        n_points, rows, at = len(hidden), batch.rows, batch.positive_at
        used_weight, used_bias = weight[batch.used], bias[batch.used, 0]
        sampled = used_weight[: batch.n_sampled]
        offset = used_bias[: batch.n_sampled] - batch.correction.to(hidden.dtype)
        negative = torch.addmm(offset, hidden, sampled.T)
        negative[batch.accidental] = -torch.inf
        positive_weight, positive_hidden = used_weight[at], hidden[rows]
        positive = (positive_hidden * positive_weight).sum(1) + used_bias[at]

        # log Σ exp over the sample and the point's own labels, shifted by the largest so that it stays finite
        highest = torch.scatter_reduce(negative.amax(1), 0, rows, positive, reduce="amax")
        labelled = (batch.counts > 0).to(hidden.dtype)
        highest = torch.where(batch.counts > 0, highest, 0.0)
        negative.sub_(highest[:, None]).exp_()
        raised = (positive - highest[rows]).exp_()
        total = negative.sum(1).index_add_(0, rows, raised)
        share = (1.0 / batch.counts.to(hidden.dtype))[rows]
        loss = ((total.log() + highest) * labelled).sum() - (share * positive).sum()

        negative.mul_((labelled / (total * n_points))[:, None])
        pull = ((raised / total[rows] - share) / n_points)[:, None]
        grad_hidden = (negative @ sampled).index_add_(0, rows, pull * positive_weight)
        grad_weight = used_weight.new_zeros(used_weight.shape)
        torch.mm(negative.T, hidden, out=grad_weight[: batch.n_sampled])
        grad_weight.index_add_(0, at, pull * positive_hidden)
        grad_bias = used_bias.new_zeros(len(used_bias), 1)
        grad_bias[: batch.n_sampled, 0] = negative.sum(0)
        grad_bias.index_add_(0, at, pull)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias, batch.used)
        ctx.n_labels = len(weight)
        return loss / n_points

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        scale = grad_outputs[0]
        grad_hidden, grad_weight, grad_bias, used = ctx.saved_tensors
        sparse = [
            torch.sparse_coo_tensor(used[None], g * scale, (ctx.n_labels, g.shape[1]), check_invariants=False)
            for g in (grad_weight, grad_bias)
        ]
        return grad_hidden * scale, *sparse, None
