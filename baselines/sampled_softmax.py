"""Softmax over a point's labels and a shared random sample of the others, corrected for how they were sampled."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
        n_samples: int = 2048,
        alpha: float = 0.5,
        bias: str = "prior",
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
        device = hidden.device
        positives = labels.indices.astype(np.int64)
        used, where = np.unique(np.concatenate([sample, positives]), return_inverse=True)
        used_ids = torch.from_numpy(used).to(device)
        weight = F.embedding(used_ids, self.weight, sparse=True)
        bias = F.embedding(used_ids, self.bias, sparse=True)[:, 0]
        negative_at = torch.from_numpy(where[: len(sample)]).to(device)
        positive_at = torch.from_numpy(where[len(sample) :]).to(device)
        counts = np.diff(labels.indptr)
        rows_np = np.repeat(np.arange(len(counts)), counts)
        rows = torch.from_numpy(rows_np).to(device)

        correction = torch.from_numpy(self._log_q[sample].astype(np.float32)).to(device)
        negative = torch.addmm(bias[negative_at] - correction, hidden, weight[negative_at].T)
        hit = np.searchsorted(sample, positives)
        is_hit = sample[np.minimum(hit, len(sample) - 1)] == positives
        accidental = (torch.from_numpy(rows_np[is_hit]).to(device), torch.from_numpy(hit[is_hit]).to(device))
        negative = negative.index_put(accidental, negative.new_tensor(-torch.inf))
        positive = (hidden[rows] * weight[positive_at]).sum(1) + bias[positive_at]

        # Row-wise log Σ exp over the sample and the point's own labels; a shift by the larger maximum keeps it finite.
        shift = negative.detach().amax(1)
        shift = torch.scatter_reduce(shift, 0, rows, positive.detach(), reduce="amax").clamp(min=-1e30)
        total = (negative - shift[:, None]).exp().sum(1)
        total = total.index_add(0, rows, (positive - shift[rows]).exp())
        labelled = torch.from_numpy(counts > 0).to(device)
        log_normaliser = torch.where(labelled, total.clamp(min=1e-30).log() + shift, 0.0)
        share = torch.from_numpy((1.0 / np.maximum(counts, 1)).astype(np.float32)).to(device)[rows]
        return (log_normaliser.sum() - (share * positive).sum()) / len(hidden)

    def topk(self, hidden: Tensor, k: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        """Exact top-k logits over all labels: (scores [N, k], labels [N, k])."""
        return linear_topk(hidden, self.weight, self.bias[:, 0], k)


def log_inclusion(q: npt.NDArray[np.float64], tries: int) -> npt.NDArray[np.float64]:
    """Log of the probability that a label is among the distinct ones of ``tries`` draws: log(1 − (1 − q)^tries)."""
    with np.errstate(divide="ignore"):
        return np.log(-np.expm1(tries * np.log1p(-q)))
