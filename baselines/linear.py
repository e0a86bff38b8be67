"""A linear layer over all labels, as the exact losses and the sampled one share it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from baselines.chunked import ChunkedLoss, Loss, Positives, Update
from baselines.cost import dense_cost
from baselines.product import PRECISIONS
from baselines.topk import RunningTopK

SMOOTHING = 0.5  # of a positive: keeps the prior of a label without train points finite
WEIGHTS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class LinearOverLabels(nn.Module):
    """Weight [n_labels, hidden] and bias [n_labels], trained in chunks of labels; what its loss is, subclasses say.

    weights ``bf16``: the weight is kept in bfloat16; the optimiser rounds it stochastically, because an update smaller
    than half a unit in the last place would otherwise be lost. bias ``prior`` starts a label at its frequency in train
    by `label_prior`, ``zero`` at 0. label_chunk: labels worked on at a time. ValueError for anything else.
    """

    chunked = ("weight", "bias")
    precisions = PRECISIONS
    prior_of = "softmax"
    keep_bytes, passes = 0, 3  # logits kept for the gradient; products over all labels in a step without that

    def __init__(
        self,
        *,
        n_labels: int,
        hidden: int,
        train_labels: sp.csr_matrix,
        seeds: dict[str, int],
        bias: str = "prior",
        label_chunk: int = 2048,
        weights: str = "fp32",
    ) -> None:
        super().__init__()
        if bias not in ("prior", "zero"):
            raise ValueError(f"unknown bias {bias!r}; known: prior, zero")
        if weights not in WEIGHTS:
            raise ValueError(f"unknown weights {weights!r}; known: {', '.join(WEIGHTS)}")
        if label_chunk < 1:
            raise ValueError(f"label_chunk must be at least 1, got {label_chunk}")
        generator = torch.Generator().manual_seed(seeds["initialisation"])
        bound = 1.0 / math.sqrt(hidden)
        weight = torch.empty(n_labels, hidden).uniform_(-bound, bound, generator=generator)
        self.weight = nn.Parameter(weight.to(WEIGHTS[weights]))
        self.bias = nn.Parameter(label_prior(train_labels, self.prior_of) if bias == "prior" else torch.zeros(n_labels))
        self.label_chunk = label_chunk
        self.precision = "fp32"
        self.update: Update | None = None

    @staticmethod
    def parameter_count(*, n_labels: int, hidden: int, **_: object) -> int:
        """K·(H + 1)."""
        return n_labels * (hidden + 1)

    @classmethod
    def cost(
        cls,
        *,
        n_labels: int,
        hidden: int,
        run: Mapping[str, float],
        label_chunk: int = 2048,
        weights: str = "fp32",
        **_: object,
    ) -> dict[str, float]:
        """Bytes and operations of a run, see `baselines.cost`."""
        return dense_cost(
            n_labels=n_labels,
            hidden=hidden,
            run=run,
            keep_bytes=cls.keep_bytes,
            label_chunk=label_chunk,
            passes=cls.passes,
            weight_bytes=WEIGHTS[weights].itemsize,
        )

    def loss_by(self, loss: Loss, hidden: Tensor, labels: sp.csr_matrix) -> Tensor:
        """The loss that ``loss`` works out chunk by chunk, for autograd. Without gradients nothing is updated."""
        positives = Positives.of(labels, hidden.device)
        settings = (self.label_chunk, WEIGHTS[self.precision], self.update, torch.is_grad_enabled())
        value: Tensor = ChunkedLoss.apply(hidden, self.weight, self.bias, loss, positives, *settings)
        return value

    def topk(self, hidden: Tensor, k: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        """Exact top-k logits: (scores [N, k], labels [N, k])."""
        return linear_topk(hidden, self.weight, self.bias, k)


def linear_topk(
    hidden: Tensor, weight: Tensor, bias: Tensor, k: int, label_chunk: int = 16384
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Exact top-k of hidden·weightᵀ + bias, a chunk of labels at a time; ties by lowest label id."""
    best = RunningTopK(len(hidden), k)
    for low in range(0, len(weight), label_chunk):
        chunk = slice(low, low + label_chunk)
        logits = torch.addmm(bias[chunk], hidden, weight[chunk].to(hidden.dtype).T)
        best.feed(logits.float().cpu().numpy(), low)
    return best.scores, best.labels


def label_prior(train_labels: sp.csr_matrix, loss: str) -> Tensor:
    """Bias that reproduces the labels' train frequencies when nothing else is known, float32 [n_labels].

    For ``softmax`` a label's log share of the positives, for ``bce`` its log-odds.
    """
    counts = np.bincount(train_labels.indices, minlength=train_labels.shape[1]) + SMOOTHING
    if loss == "softmax":
        prior = np.log(counts / counts.sum())
    else:
        share = counts / (train_labels.shape[0] + 2 * SMOOTHING)
        prior = np.log(share) - np.log1p(-share)
    return torch.from_numpy(prior.astype(np.float32))
