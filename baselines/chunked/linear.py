"""A linear layer over all labels: the base of the layers with an exact loss, and the prior and top-k of others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from baselines.chunked.step import ChunkedLoss, Loss, Positives, StepSettings, Update
from baselines.parts.cost import RANK_CHUNK, DenseLayout, dense_cost
from baselines.parts.shards import Shards, check_shards
from baselines.parts.topk import Ranking, merge_topk, top_k_of_tiles
from mach.kernels.excluded import Excluded
from mach.kernels.product import PRECISIONS

SMOOTHING = 0.5  # of a positive: keeps the prior of a label without train points finite
DRAWN = 65536  # rows drawn at a time on the way to those of a shard
GPU_LABELS = 65536  # labels of a chunk on a GPU: enough work to hide the time of a launch
GPU_LOGITS = 2**26  # of a chunk at most, which bounds its memory
WEIGHTS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class LinearOverLabels(nn.Module):
    """Weight [n_labels, hidden] and bias [n_labels], trained in chunks of labels; subclasses define the loss.

    weights ``bf16``: the weight is kept in bfloat16; the optimiser rounds it stochastically, because an update smaller
    than half a unit in the last place would otherwise be lost. bias ``prior`` starts a label at its frequency in train
    by `label_prior`, ``zero`` at 0. label_chunk: labels computed at a time, 0 for the device's default (`chunk_on`).
    shards: processes over which the labels are divided (`baselines.parts.shards`); each has some rows of weight and
    bias, with the same start as in the undivided layer, and loss and top-k are the same in all processes. ValueError
    for other values."""

    chunked = ("weight", "bias")
    takes_excluded = True
    precisions = PRECISIONS
    prior_of = "softmax"
    on_cpu = 2048  # labels computed at a time on a CPU, so that logits stay in the cache
    keep_bytes, passes = 0, 3  # logits kept for the gradient; products over all labels in a step without that

    def __init__(
        self,
        *,
        n_labels: int,
        hidden: int,
        train_labels: sp.csr_matrix,
        seeds: dict[str, int],
        bias: Literal["prior", "zero"] = "prior",
        label_chunk: Annotated[int, ">= 0"] = 0,
        weights: Literal["fp32", "bf16"] = "fp32",
        shards: Annotated[int, ">= 1"] = 1,
    ) -> None:
        super().__init__()
        if bias not in ("prior", "zero"):
            raise ValueError(f"unknown bias {bias!r}; known: prior, zero")
        if weights not in WEIGHTS:
            raise ValueError(f"unknown weights {weights!r}; known: {', '.join(WEIGHTS)}")
        if label_chunk < 0:
            raise ValueError(f"label_chunk must be at least 1, or 0 for the device's, got {label_chunk}")
        generator = torch.Generator().manual_seed(seeds["initialisation"])
        bound = 1.0 / math.sqrt(hidden)
        self.shards = Shards.of(shards)
        self.rows = self.shards.rows(n_labels)
        self.offset = self.rows.start  # of the rows here within the whole layer
        n_rows = self.rows.stop - self.rows.start
        self.elsewhere = self.parameter_count(n_labels=n_labels - n_rows, hidden=hidden)
        weight = uniform_rows(self.rows, hidden, bound, generator)
        self.weight = nn.Parameter(weight.to(WEIGHTS[weights]))
        prior = label_prior(train_labels, self.prior_of)[self.rows].clone() if bias == "prior" else torch.zeros(n_rows)
        self.bias = nn.Parameter(prior)
        self.label_chunk = label_chunk
        self.precision = "fp32"
        self.update: Update | None = None

    @staticmethod
    def parameter_count(*, n_labels: int, hidden: int, **_: object) -> int:
        """K·(H + 1), of all shards together."""
        return n_labels * (hidden + 1)

    @staticmethod
    def processes(*, shards: int = 1, **_: object) -> int:
        """One for each shard."""
        return check_shards(shards)

    @classmethod
    def cost(
        cls,
        *,
        n_labels: int,
        hidden: int,
        run: Mapping[str, float],
        label_chunk: int = 0,
        weights: str = "fp32",
        shards: int = 1,
        **_: object,
    ) -> dict[str, float]:
        """Bytes and operations of a run, see `baselines.parts.cost`; with shards, of the process with most labels."""
        layout = DenseLayout(
            keep_bytes=cls.keep_bytes,
            label_chunk=label_chunk or cls.on_cpu,
            passes=cls.passes,
            weight_bytes=WEIGHTS[weights].itemsize,
            shards=check_shards(shards, n_labels),
        )
        return dense_cost(n_labels=n_labels, hidden=hidden, run=run, layout=layout)

    def loss_by(self, loss: Loss, hidden: Tensor, labels: sp.csr_matrix) -> Tensor:
        """The loss that ``loss`` computes chunk by chunk, for autograd. Without gradients nothing is updated."""
        positives = Positives.of(labels, hidden.device).of_rows(self.rows)
        chunk = self.label_chunk or chunk_on(hidden, self.on_cpu)
        settings = StepSettings(chunk, WEIGHTS[self.precision], self.update, torch.is_grad_enabled(), self.shards)
        value: Tensor = ChunkedLoss.apply(hidden, self.weight, self.bias, loss, positives, settings)
        return value

    def topk(self, hidden: Tensor, k: int, excluded: sp.csr_matrix | None = None) -> Ranking:
        """Exact top-k logits: (scores [N, k], labels [N, k]).

        excluded: CSR [N, n_labels], pairs of a point and a label that may not be ranked; None for none.
        """
        if self.shards.count == 1:
            return linear_topk(hidden, self.weight, self.bias, k, excluded=excluded)
        own_pairs = None if excluded is None else excluded[:, self.rows]
        scores, labels = linear_topk(hidden, self.weight, self.bias, k, excluded=own_pairs)
        labels[labels >= 0] += self.offset
        lists = [
            np.concatenate(
                [part.cpu().numpy() for part in self.shards.gather(torch.from_numpy(own).to(hidden.device))], 1
            )
            for own in (scores, labels)
        ]
        return merge_topk(lists[0], lists[1], k)


def uniform_rows(rows: slice, width: int, bound: float, generator: torch.Generator) -> Tensor:
    """Some rows of a matrix drawn from U(−bound, bound) row by row; those before them are drawn and dropped."""
    for low in range(0, rows.start, DRAWN):
        torch.empty(min(DRAWN, rows.start - low), width).uniform_(-bound, bound, generator=generator)
    return torch.empty(rows.stop - rows.start, width).uniform_(-bound, bound, generator=generator)


def chunk_on(hidden: Tensor, on_cpu: int) -> int:
    """Labels computed at a time with hidden [N, H]: ``on_cpu`` on a CPU, at least as many on a GPU."""
    if not hidden.is_cuda:
        return on_cpu
    return max(on_cpu, min(GPU_LABELS, GPU_LOGITS // max(1, len(hidden))))


def linear_topk(
    hidden: Tensor, weight: Tensor, bias: Tensor, k: int, label_chunk: int = 0, excluded: sp.csr_matrix | None = None
) -> Ranking:
    """Exact top-k of hidden·weightᵀ + bias, ties by lowest label id. label_chunk: as in `LinearOverLabels`.

    excluded: CSR [N, rows of weight], pairs of a point and a label that may not be ranked.
    """
    size = label_chunk or chunk_on(hidden, RANK_CHUNK)
    chunks = (slice(low, low + size) for low in range(0, len(weight), size))
    tiles = ((c.start, torch.addmm(bias[c], hidden, weight[c].to(hidden.dtype).T)) for c in chunks)
    return top_k_of_tiles(tiles, len(hidden), k, Excluded.of(excluded, len(hidden), len(weight)))


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
