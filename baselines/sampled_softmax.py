"""Softmax over a point's labels and a shared random sample of the others, corrected for how they were sampled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from baselines.full_softmax import label_prior, linear_topk
from baselines.parts.cost import sampled_cost
from baselines.parts.samplers import Labels, make_sampler
from baselines.parts.scatter import add_at
from baselines.parts.topk import Ranking

CHOICES = {
    "correction": ("log_q", "log_q_all", "none"),
    "accidental_hits": ("mask", "keep"),
    "positives": ("all", "one"),
    "bias": ("zero", "prior"),
}


class SampledSoftmax(nn.Module):
    """The full softmax's parameters, trained on a sample of negatives a step (Jean et al. 2015).

    In each step a ``sampler`` (`baselines.parts.samplers.make_sampler`) draws distinct labels, shared by the batch so
    that their logits are one matrix product. A sampled logit is lowered by the log of its probability to be in the
    sample (``correction`` log_q), so that the sum over the sample is an unbiased estimate of the sum over all labels.
    All labels of a point are positives with target 1/|Y|, and a sampled label that is one of them is masked (an
    accidental hit). Only the rows in use get gradients.

    Other choices that were common, for comparison: ``correction`` none, or log_q_all, which lowers the logits of
    positives too, as ``tf.nn.sampled_softmax_loss`` does; ``accidental_hits`` keep; ``positives`` one, drawn for each
    point in each step. ValueError for unknown choices.
    """

    row_sparse = ("weight", "bias")
    takes_excluded = True

    def __init__(
        self,
        *,
        n_labels: int,
        hidden: int,
        train_labels: sp.csr_matrix,
        seeds: dict[str, int],
        sampler: Literal["unigram", "uniform", "log_uniform", "in_batch"] = "unigram",
        n_samples: Annotated[int, ">= 1"] = 8192,
        alpha: float = 0.5,
        label_order: Literal["frequency", "id"] = "frequency",
        correction: Literal["log_q", "log_q_all", "none"] = "log_q",
        accidental_hits: Literal["mask", "keep"] = "mask",
        positives: Literal["all", "one"] = "all",
        bias: Literal["zero", "prior"] = "zero",
    ) -> None:
        super().__init__()
        chosen = {"correction": correction, "accidental_hits": accidental_hits, "positives": positives, "bias": bias}
        for name, value in chosen.items():
            if value not in CHOICES[name]:
                raise ValueError(f"unknown {name} {value!r}; known: {', '.join(CHOICES[name])}")
        generator = torch.Generator().manual_seed(seeds["initialisation"])
        bound = 1.0 / math.sqrt(hidden)
        self.weight = nn.Parameter(torch.empty(n_labels, hidden).uniform_(-bound, bound, generator=generator))
        start = label_prior(train_labels, "softmax") if bias == "prior" else torch.zeros(n_labels)
        self.bias = nn.Parameter(start[:, None])
        seed = seeds["sampling"]
        self.sampler = make_sampler(
            sampler, train_labels, n_samples=n_samples, alpha=alpha, label_order=label_order, seed=seed
        )
        self.correction, self.accidental_hits, self.positives = correction, accidental_hits, positives
        self._pick = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 1])))

    def get_extra_state(self) -> list[Any]:
        """Part of ``state_dict``: the states of the random streams, so that a resumed run continues them."""
        return [rng and rng.bit_generator.state for rng in (self._pick, self.sampler.rng)]

    def set_extra_state(self, state: list[Any]) -> None:
        """Set the random streams to the states that ``get_extra_state`` returned."""
        for rng, kept in zip((self._pick, self.sampler.rng), state, strict=True):
            if rng is not None:
                rng.bit_generator.state = kept

    @staticmethod
    def parameter_count(*, n_labels: int, hidden: int, **_: object) -> int:
        """K·(H + 1): sampling saves work, not parameters."""
        return n_labels * (hidden + 1)

    @staticmethod
    def cost(
        *,
        n_labels: int,
        hidden: int,
        run: Mapping[str, float],
        n_samples: int = 8192,
        sampler: str = "unigram",
        **_: object,
    ) -> dict[str, float]:
        """Bytes and operations of a run, see `baselines.parts.cost`; in_batch samples the batch's own labels."""
        own = round(run["batch_size"] * run["labels_per_point"])
        n_samples = min(n_labels, own if sampler == "in_batch" else n_samples)
        return sampled_cost(n_labels=n_labels, hidden=hidden, run=run, n_samples=n_samples)

    def loss(self, hidden: Tensor, labels: sp.csr_matrix) -> Tensor:
        """hidden [N, H], labels CSR [N, n_labels]; a scalar, not comparable with the full softmax's loss."""
        positives = one_positive(labels, self._pick) if self.positives == "one" else labels
        return self.loss_on(self.sampler.sample(labels), hidden, labels, positives)

    def loss_on(self, sample: Labels, hidden: Tensor, labels: sp.csr_matrix, positives: sp.csr_matrix) -> Tensor:
        """The loss with the negatives given (ascending, distinct, at least one), and the positives among the labels."""
        if not labels.nnz:  # nothing to learn, and in_batch has no negatives
            return hidden.sum() * 0.0
        batch = self._compare(sample, labels, positives, hidden.device)
        loss: Tensor = _SampledLoss.apply(hidden, self.weight, self.bias, batch)
        return loss

    def log_q(self, chosen: Labels, n_points: int) -> npt.NDArray[np.float32]:
        """The correction by which the logits of sampled labels are lowered."""
        if self.correction == "none":
            return np.zeros(len(chosen), np.float32)
        return self.sampler.log_inclusion(chosen, n_points).astype(np.float32)

    def topk(self, hidden: Tensor, k: int, excluded: sp.csr_matrix | None = None) -> Ranking:
        """Exact top-k logits over all labels: (scores [N, k], labels [N, k]).

        excluded: CSR [N, n_labels], pairs of a point and a label that may not be ranked; None for none.
        """
        return linear_topk(hidden, self.weight, self.bias[:, 0], k, excluded=excluded)

    def _compare(self, sample: Labels, labels: sp.csr_matrix, positives: sp.csr_matrix, device: torch.device) -> _Batch:
        rows, columns = _pairs(positives)
        index, is_hit = _find(sample, columns)
        others, at = np.unique(columns[~is_hit], return_inverse=True)
        index[~is_hit] = len(sample) + at
        used = np.concatenate([sample, others])
        log_q = self.log_q(used, labels.shape[0])
        masked = np.empty(0, np.int64), np.empty(0, np.int64)
        if self.accidental_hits == "mask":
            own_rows, own = _pairs(labels)
            own_index, own_hit = _find(sample, own)
            masked = own_rows[own_hit], own_index[own_hit]

        def tensor(array: npt.NDArray[np.generic]) -> Tensor:
            return torch.from_numpy(array).to(device)

        return _Batch(
            used=tensor(used),
            n_sampled=len(sample),
            log_q=tensor(log_q[: len(sample)]),
            log_q_positives=tensor(log_q[index] if self.correction == "log_q_all" else np.zeros(len(rows), np.float32)),
            rows=tensor(rows),
            positive_at=tensor(index),
            masked=(tensor(masked[0]), tensor(masked[1])),
            counts=tensor(np.diff(positives.indptr).astype(np.int64)),
        )


def _pairs(labels: sp.csr_matrix) -> tuple[npt.NDArray[np.int64], Labels]:
    """Point and label of each entry."""
    return np.repeat(np.arange(labels.shape[0]), np.diff(labels.indptr)), labels.indices.astype(np.int64)


def _find(sample: Labels, chosen: Labels) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Position of each chosen label in the sample, and whether it is in the sample at all."""
    index = np.searchsorted(sample, chosen)
    return index, sample[np.minimum(index, len(sample) - 1)] == chosen


def one_positive(labels: sp.csr_matrix, rng: np.random.Generator) -> sp.csr_matrix:
    """One label of each point, drawn uniformly; points without labels keep none."""
    counts = np.diff(labels.indptr)
    has = counts > 0
    at = labels.indptr[:-1][has] + rng.integers(0, counts[has])
    indptr = np.concatenate([[0], np.cumsum(has)])
    return sp.csr_matrix((labels.data[at], labels.indices[at], indptr), shape=labels.shape)


def sampled_loss_reference(
    layer: SampledSoftmax,
    sample: Labels,
    hidden: Tensor,
    labels: sp.csr_matrix,
    positives: sp.csr_matrix,
    log_q: Tensor,
) -> Tensor:
    """`SampledSoftmax.loss_on` a point at a time, through autograd; log_q [n_labels]. For tests."""
    weight, bias = layer.weight, layer.bias[:, 0]
    total = hidden.sum() * 0.0
    for point in range(labels.shape[0]):
        own, chosen = (y.indices[y.indptr[point] : y.indptr[point + 1]] for y in (labels, positives))
        if len(own):
            negatives = sample if layer.accidental_hits == "keep" else np.setdiff1d(sample, own)
            positive = weight[chosen] @ hidden[point] + bias[chosen]
            if layer.correction == "log_q_all":
                positive = positive - log_q[chosen]
            negative = weight[negatives] @ hidden[point] + bias[negatives] - log_q[negatives]
            total = total + torch.cat([positive, negative]).logsumexp(0) - positive.mean()
    return total / labels.shape[0]


@dataclass(frozen=True)
class _Batch:
    """The logits that are compared in one step, as index tensors; the sample comes first among the rows in use."""

    used: Tensor  # label ids of the rows in use: the sample, then positives outside it
    n_sampled: int
    log_q: Tensor  # by which the logit of each sampled label is lowered, [n_sampled]
    log_q_positives: Tensor  # the same for each positive
    rows: Tensor  # point of each positive
    positive_at: Tensor  # index of each positive among the rows in use
    masked: tuple[Tensor, Tensor]  # (point, index in the sample) of sampled labels that do not count for the point
    counts: Tensor  # labels of each point, [N]


class _SampledLoss(torch.autograd.Function):
    """Loss and gradients together: two products with the sample's rows, and a short sum over the positives."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, batch: _Batch) -> Tensor:
        n_points, rows, at = len(hidden), batch.rows, batch.positive_at
        used_weight, used_bias = weight[batch.used], bias[batch.used, 0]
        sampled = used_weight[: batch.n_sampled]
        offset = used_bias[: batch.n_sampled] - batch.log_q.to(hidden.dtype)
        negative = torch.addmm(offset, hidden, sampled.T)
        negative[batch.masked] = -torch.inf
        positive_weight, positive_hidden = used_weight[at], hidden[rows]
        positive = (positive_hidden * positive_weight).sum(1) + used_bias[at] - batch.log_q_positives.to(hidden.dtype)

        # log Σ exp over the sample and the point's own labels, shifted by the largest so that it stays finite
        highest = torch.scatter_reduce(negative.amax(1), 0, rows, positive, reduce="amax")
        labelled = (batch.counts > 0).to(hidden.dtype)
        negative.sub_(highest[:, None]).exp_()
        raised = (positive - highest[rows]).exp_()
        total = add_at(negative.sum(1), rows, raised)
        share = (1.0 / batch.counts.to(hidden.dtype))[rows]
        loss = ((total.log() + highest) * labelled).sum() - (share * positive).sum()

        # The factor of a point is applied to the narrow sides of the products instead of to each exponential.
        factor = (labelled / (total * n_points))[:, None]
        pull = ((raised / total[rows] - share) / n_points)[:, None]
        grad_hidden = add_at((negative @ sampled).mul_(factor), rows, pull * positive_weight)
        grad_weight = used_weight.new_zeros(used_weight.shape)
        torch.mm(negative.T, hidden * factor, out=grad_weight[: batch.n_sampled])
        add_at(grad_weight, at, pull * positive_hidden)
        grad_bias = used_bias.new_zeros(len(used_bias), 1)
        torch.mm(negative.T, factor, out=grad_bias[: batch.n_sampled])
        add_at(grad_bias, at, pull)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias, batch.used)
        ctx.n_labels = len(weight)
        return loss / n_points

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        scale = grad_outputs[0]
        grad_hidden, grad_weight, grad_bias, used = ctx.saved_tensors
        if scale != 1.0:
            grad_hidden, grad_weight, grad_bias = grad_hidden * scale, grad_weight * scale, grad_bias * scale
        sparse = [
            torch.sparse_coo_tensor(used[None], g, (ctx.n_labels, g.shape[1]), check_invariants=False)
            for g in (grad_weight, grad_bias)
        ]
        return grad_hidden, *sparse, None
