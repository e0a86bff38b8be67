"""Exact softmax over all labels: the layer that MACH and sampling are meant to replace, in a fast implementation.

Labels are computed in chunks, once for the normaliser and once for the gradient; a chunk is updated as soon as its
gradient is known. Neither the batch × labels logits nor the labels × hidden gradient exists (docs/full_softmax.md).
"""

from __future__ import annotations

from functools import reduce
from typing import Any, Literal

import scipy.sparse as sp
import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.chunked import kernels
from baselines.chunked.linear import LinearOverLabels
from baselines.chunked.linear import label_prior as label_prior
from baselines.chunked.linear import linear_topk as linear_topk
from baselines.chunked.step import LabelStep
from baselines.parts.scatter import add_at

LOSSES = ("softmax", "decoupled")
KEEP_BYTES = 64 * 2**20  # logits up to this size are kept for the gradient instead of computed twice


class FullSoftmax(LinearOverLabels):
    """A linear layer over all labels. Mean over points; points without labels count 0.

    loss ``softmax``: cross-entropy against 1/|Y| on each label of a point. loss ``decoupled``: each label of a point
    against the labels that are not the point's, mean over its labels (Gupta et al. 2024, "DEXML", decoupled softmax):
    −log(exp(s_p) / (exp(s_p) + Σ over negatives exp(s_n))). For the other settings see `LinearOverLabels`.
    """

    keep_bytes, passes = KEEP_BYTES, 4

    def __init__(self, *, loss: Literal["softmax", "decoupled"] = "softmax", **linear: Any) -> None:
        if loss not in LOSSES:
            raise ValueError(f"unknown loss {loss!r}; known: {', '.join(LOSSES)}")
        super().__init__(**linear)
        self._loss = _softmax if loss == "softmax" else _decoupled

    def loss(self, hidden: Tensor, labels: sp.csr_matrix) -> Tensor:
        """hidden [N, H], labels CSR [N, n_labels]; a scalar."""
        return self.loss_by(self._loss, hidden, labels)


def loss_reference(hidden: Tensor, weight: Tensor, bias: Tensor, rows: Tensor, columns: Tensor, kind: str) -> Tensor:
    """The same loss with all logits at once, through autograd. For tests and for comparisons of speed and memory.

    rows, columns: point and label of each positive.
    """
    logits = F.linear(hidden, weight, bias)
    target = torch.zeros_like(logits)
    target[rows, columns] = 1.0
    share = target / target.sum(1, keepdim=True).clamp(min=1.0)
    if kind == "softmax":
        return -(share * F.log_softmax(logits, dim=1)).sum() / len(hidden)
    log_negatives = logits.masked_fill(target > 0, kernels.LOWEST).logsumexp(1, keepdim=True)
    return -(share * F.logsigmoid(logits - log_negatives)).sum() / len(hidden)


def _softmax(step: LabelStep) -> Tensor:
    totals = _Totals(step, negatives_only=False)
    n_points, points = len(step.points), step.positives.points
    labelled = (step.positives.counts > 0).double()
    share = (1.0 / step.positives.counts.double())[points]
    loss = (totals.log_sum * labelled).sum() - step.shards.sum((share * totals.positive).sum())
    if step.learn:
        probability = (totals.positive - totals.log_sum[points]).exp()
        totals.take_gradient(labelled / n_points, (probability - share) / n_points)
    return loss / n_points


def _decoupled(step: LabelStep) -> Tensor:
    totals = _Totals(step, negatives_only=True)
    n_points, points = len(step.points), step.positives.points
    share = (1.0 / step.positives.counts.double())[points]
    ahead = totals.positive - totals.log_sum[points]  # margin of a positive over all negatives together
    loss = step.shards.sum(-(share * F.logsigmoid(ahead)).sum())  # softplus would be linear from 20 on
    if step.learn:
        pull = share * (-ahead).sigmoid() / n_points
        factor = step.shards.sum(add_at(torch.zeros_like(totals.log_sum), points, pull))
        totals.take_gradient(factor, -pull)
    return loss / n_points


class _Totals:
    """The first pass: log Σ exp(logits) of each point, float64 [N], and the logits of the positives, float64 [P].

    Sums within a chunk are in the type of hidden, those over chunks and shards in double precision. The sums are over
    the labels of all shards, the positives those of this one.
    """

    def __init__(self, step: LabelStep, negatives_only: bool) -> None:
        self.step, self.negatives_only = step, negatives_only
        n_bytes = len(step.points) * len(step.bias) * step.points.element_size()
        self._keep = step.learn and n_bytes <= KEEP_BYTES
        self._kept: dict[int, Tensor] = {}
        device = step.points.device
        positive = torch.empty(len(step.positives.points), dtype=step.type, device=device)
        self.log_sum = torch.full((len(step.points),), -torch.inf, dtype=torch.float64, device=device)
        for part in step.each(lambda chunk: self._first(chunk, positive)):
            torch.logaddexp(self.log_sum, part.double(), out=self.log_sum)
        self.log_sum = reduce(torch.logaddexp, step.shards.gather(self.log_sum))
        self.positive = positive.double()

    def _first(self, chunk: slice, positive: Tensor) -> Tensor:
        logits = self.step.logits(chunk)
        labels = self.step.labels(chunk)
        result = labels.bias.new_empty(len(self.step.points), dtype=self.step.type)
        mine = positive[self.step.positives.within(chunk)]
        self.step.passes.log_sum(logits, labels, self.negatives_only, mine, result)
        if self._keep:
            self._kept[chunk.start] = logits
        return result

    def take_gradient(self, factor: Tensor, at_positives: Tensor) -> None:
        """The second pass: a logit's gradient is factor[n]·exp(logit − log_sum[n]), a positive's at_positives[p]."""
        step = self.step
        log_sum, factor, at_positives = (t.to(step.type) for t in (self.log_sum, factor, at_positives))

        def second(chunk: slice) -> Tensor:
            logits = self._kept.pop(chunk.start) if self._keep else step.logits(chunk)
            labels = step.labels(chunk)
            grad_bias = torch.empty_like(labels.bias)
            mine = at_positives[step.positives.within(chunk)]
            step.passes.softmax_gradient(logits, labels, log_sum, factor, mine, grad_bias)
            return step.backward(chunk, logits, grad_bias)

        for pull in step.each(second):
            step.add(pull)
