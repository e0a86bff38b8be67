"""One classifier per label, each trained on every point: exact binary cross-entropy over all labels.

Labels are computed in chunks, once; the gradient σ − Y overwrites a chunk's logits, without a matrix Y, and the chunk
is updated at once (Jain et al. 2023, "Renée"; Zhang et al. 2025, "ELMO").
"""

from __future__ import annotations

import scipy.sparse as sp
import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.chunked.linear import LinearOverLabels
from baselines.chunked.step import LabelStep


class OneVsAll(LinearOverLabels):
    """A linear layer over all labels. Binary cross-entropy summed over labels, mean over points.

    bias ``prior`` starts a label at the log-odds of its train frequency, so that training does not have to
    learn first that nearly all labels are nearly always absent. For the other settings see `LinearOverLabels`.
    """

    prior_of = "bce"

    def loss(self, hidden: Tensor, labels: sp.csr_matrix) -> Tensor:
        """hidden [N, H], labels CSR [N, n_labels]; a scalar."""
        return self.loss_by(_bce, hidden, labels)


def loss_reference(hidden: Tensor, weight: Tensor, bias: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The same loss with all logits at once, through autograd. For tests and for comparisons of speed and memory.

    rows, columns: point and label of each positive.
    """
    logits = F.linear(hidden, weight, bias)
    target = torch.zeros_like(logits)
    target[rows, columns] = 1.0
    return F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / len(hidden)


def _bce(step: LabelStep) -> Tensor:
    n_points = len(step.points)

    def work(chunk: slice) -> tuple[Tensor, Tensor | None]:
        logits = step.logits(chunk)
        labels = step.labels(chunk)
        grad_bias = torch.empty_like(labels.bias)
        loss = step.passes.bce_gradient(logits, labels, 1.0 / n_points, grad_bias)
        return loss, step.backward(chunk, logits, grad_bias) if step.learn else None

    total = torch.zeros((), dtype=torch.float64, device=step.points.device)
    for loss, pull in step.each(work):
        total += loss
        if pull is not None:
            step.add(pull)
    return step.shards.sum(total) / n_points
