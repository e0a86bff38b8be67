"""The trunk that every neural method shares: a bag of weighted features, hidden layers, and an output layer on top."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Protocol

import numba
import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from bench.predict import Ranking

INPUT_STD = 0.1
MIN_STRIP = 64  # columns a thread takes at a time in the backward pass of the feature bag


class OutputLayer(Protocol):
    """What a neural method brings (an ``nn.Module``); everything else is the harness's and the same for all.

    An ordinary layer sees hidden [N, H]. A layer with an attribute ``repetitions`` = R asks for R independent
    encoders, sees hidden [R, N, H], and offers ``subset(range)`` (the layer of some repetitions, parameters shared)
    and ``topk_prefixes(hidden, k, prefixes)``. Optional: ``index_bytes()``, the bytes of lookup tables, and
    ``facts()``, more columns of the results, a dict for each R (one dict for an ordinary layer).
    """

    def loss(self, hidden: Tensor, labels: sp.csr_matrix) -> Tensor:
        """Scalar training loss; labels is CSR [N, n_labels]."""

    def topk(self, hidden: Tensor, k: int) -> Ranking:
        """(scores [N, k] float32, labels [N, k] int32), best first, ties by lowest label id."""


class FeatureBag(nn.Module):
    """First layer of G encoders at once: z = X·W + b with X sparse; W is one table [n_features, G·H].

    Its gradient is row-sparse: only features of the batch get one, and the optimiser touches only those rows.
    """

    row_sparse = ("table",)

    def __init__(self, n_features: int, width: int, generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        # Points are l2-normalised, so a table of standard deviation s gives pre-activations of standard deviation s.
        columns = [torch.empty(n_features, width).normal_(0.0, INPUT_STD, generator=g) for g in generators]
        self.table = nn.Parameter(torch.cat(columns, dim=1))
        self.bias = nn.Parameter(torch.zeros(len(generators), 1, width))
        self.shape = (len(generators), width)
        self._place = np.full(n_features, -1, dtype=np.int32)  # scratch of the backward pass

    def forward(self, X: sp.csr_matrix) -> Tensor:
        """X CSR [N, n_features] → [G, N, H]."""
        groups, width = self.shape
        if self.table.is_cuda:
            device = self.table.device
            summed = torch.nn.functional.embedding_bag(
                torch.from_numpy(X.indices.astype(np.int64)).to(device),
                self.table,
                torch.from_numpy(X.indptr.astype(np.int64)).to(device),
                mode="sum",
                sparse=True,
                per_sample_weights=torch.from_numpy(np.ascontiguousarray(X.data)).to(device),
                include_last_offset=True,
            )
        else:
            summed = _WeightedBag.apply(self.table, X, self._place)
        return summed.view(-1, groups, width).transpose(0, 1) + self.bias


class Encoder(nn.Module):
    """G independent trunks of the same shape: feature bag, then ReLU and dense hidden layers; [N, F] → [G, N, H]."""

    def __init__(self, n_features: int, hidden: Sequence[int], seeds: Sequence[int]) -> None:
        """One trunk for each seed; a trunk depends on its own seed alone."""
        super().__init__()
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.bag = FeatureBag(n_features, hidden[0], generators)
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for fan_in, fan_out in itertools.pairwise(hidden):
            bound = (6.0 / fan_in) ** 0.5  # He et al. 2015
            stack = [torch.empty(fan_in, fan_out).uniform_(-bound, bound, generator=g) for g in generators]
            self.weights.append(nn.Parameter(torch.stack(stack)))
            self.biases.append(nn.Parameter(torch.zeros(len(seeds), 1, fan_out)))

    def forward(self, X: sp.csr_matrix) -> Tensor:
        """X CSR [N, n_features] → hidden [G, N, H], non-negative."""
        hidden = self.bag(X).relu()
        for weight, bias in zip(self.weights, self.biases, strict=True):
            hidden = torch.baddbmm(bias, hidden, weight).relu()
        return hidden


class Network(nn.Module):
    """Encoder and output layer, seen by the one training loop."""

    def __init__(self, encoder: Encoder, output: Any) -> None:
        super().__init__()
        self.encoder, self.output = encoder, output
        self.repeated = hasattr(output, "repetitions")

    def hidden(self, X: sp.csr_matrix) -> Tensor:
        """[N, H], or [G, N, H] for a layer with repetitions."""
        hidden = self.encoder(X)
        return hidden if self.repeated else hidden.squeeze(0)

    def loss(self, X: sp.csr_matrix, Y: sp.csr_matrix) -> Tensor:
        """Training loss of a batch, a scalar."""
        loss: Tensor = self.output.loss(self.hidden(X), Y)
        return loss


class _WeightedBag(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, X: sp.csr_matrix, place: npt.NDArray[np.int32]) -> Tensor:
        out = np.empty((X.shape[0], table.shape[1]), dtype=np.float32)
        _bag_forward(X.indptr, X.indices, X.data, table.detach().numpy(), out)
        ctx.X, ctx.place, ctx.size = X, place, table.shape
        return torch.from_numpy(out)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, None, None]:
        X = ctx.X
        indptr, points, values, features = _transpose_batch(X.indptr, X.indices, X.data, ctx.place)
        gradient = np.empty((len(features), ctx.size[1]), dtype=np.float32)
        strip = max(MIN_STRIP, ctx.size[1] // (4 * numba.get_num_threads()))
        _bag_backward(indptr, points, values, grad_outputs[0].contiguous().numpy(), gradient, strip)
        sparse = torch.sparse_coo_tensor(
            torch.from_numpy(features)[None],
            torch.from_numpy(gradient),
            ctx.size,
            is_coalesced=True,
            check_invariants=False,
        )
        return sparse, None, None


@numba.njit(parallel=True, cache=True)
def _bag_forward(indptr, indices, values, table, out):  # type: ignore[no-untyped-def]
    for n in numba.prange(out.shape[0]):
        out[n, :] = 0.0
        for at in range(indptr[n], indptr[n + 1]):
            feature, value = indices[at], values[at]
            for c in range(out.shape[1]):
                out[n, c] += value * table[feature, c]


@numba.njit(cache=True)
def _transpose_batch(indptr, indices, values, place):  # type: ignore[no-untyped-def]
    """The batch by feature, distinct features only: (indptr [U+1], points, values, features [U])."""
    first, last = indptr[0], indptr[-1]
    features = np.empty(last - first, dtype=np.int64)
    counts = np.zeros(last - first + 1, dtype=np.int64)
    distinct = 0
    for at in range(first, last):
        feature = indices[at]
        if place[feature] < 0:
            place[feature] = distinct
            features[distinct] = feature
            distinct += 1
        counts[place[feature] + 1] += 1
    ends = np.cumsum(counts[: distinct + 1])
    cursor = ends[:-1].copy()
    points = np.empty(last - first, dtype=np.int32)
    by_feature = np.empty(last - first, dtype=np.float32)
    for n in range(len(indptr) - 1):
        for at in range(indptr[n], indptr[n + 1]):
            slot = place[indices[at]]
            points[cursor[slot]] = n
            by_feature[cursor[slot]] = values[at]
            cursor[slot] += 1
    for u in range(distinct):
        place[features[u]] = -1
    return ends, points, by_feature, features[:distinct]


@numba.njit(parallel=True, cache=True)
def _bag_backward(indptr, points, values, grad_out, gradient, strip):  # type: ignore[no-untyped-def]
    # Threads split the columns, not the features: the most frequent feature may hold a tenth of the work.
    width = gradient.shape[1]
    for s in numba.prange((width + strip - 1) // strip):
        low, high = s * strip, min(width, (s + 1) * strip)
        for u in range(gradient.shape[0]):
            gradient[u, low:high] = 0.0
            for at in range(indptr[u], indptr[u + 1]):
                point, value = points[at], values[at]
                for c in range(low, high):
                    gradient[u, c] += value * grad_out[point, c]
