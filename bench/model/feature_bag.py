"""The input layer: a bag of weighted features for G encoders at once, with a gradient that names only rows in use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from bench.model.prefetch import prefetch_row

INPUT_STD = 0.1

Lookup = npt.NDArray[np.integer]


@dataclass(frozen=True)
class RowGradient:
    """The gradient of some rows of a table, not yet added up: row ``rows[u]`` gets Σ values[at] · pull[points[at]].

    The sum is over ``at`` from indptr[u] to indptr[u + 1]; all other rows have none. An optimiser that adds up and
    updates row by row saves writing and reading the sums, which are as large as all the rows that a batch touches.
    """

    rows: npt.NDArray[np.int64]  # [U], each once
    indptr: npt.NDArray[np.int64]  # [U + 1]
    points: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32]
    pull: npt.NDArray[np.float32]  # [N, width], the gradient of the bag's output

    def added_up(self) -> Tensor:
        """The rows [U, width], by a plain sparse product."""
        by_row = sp.csr_matrix((self.values, self.points, self.indptr), shape=(len(self.rows), len(self.pull)))
        return torch.from_numpy(by_row @ self.pull)

    def to_sparse(self, n_rows: int) -> Tensor:
        """As autograd would give it: COO [n_rows, width]."""
        at, shape = torch.from_numpy(self.rows)[None], (n_rows, self.pull.shape[1])
        return torch.sparse_coo_tensor(at, self.added_up(), shape, is_coalesced=True, check_invariants=False)


class FeatureBag(nn.Module):
    """First layer of G encoders at once: z = X·W + b with X sparse.

    W is one table [n_features, G·H]. With ``lookup`` [G, n_features], ids below n_hashed, each encoder sees hashed
    features of its own, whose values add up, and the table is [G·n_hashed, H], encoder after encoder.

    On the CPU the backward pass leaves the table's gradient in ``gradients`` (replaced by the next backward pass, not
    added to it) for an optimiser that knows bags; on a GPU it is the table's ``grad``, sparse.
    """

    row_sparse = ("table",)

    def __init__(
        self,
        n_features: int,
        width: int,
        generators: Sequence[torch.Generator],
        lookup: Lookup | None = None,
        n_hashed: int = 0,
    ) -> None:
        super().__init__()
        groups = len(generators)
        n_rows = n_features if lookup is None else n_hashed
        shape = (n_rows, groups * width) if lookup is None else (groups * n_rows, width)
        # From numpy, which asks for large pages: rows are far apart, and each costs a page look-up.
        table = torch.from_numpy(np.empty(shape, dtype=np.float32))
        for g, generator in enumerate(generators):
            # Where points are l2-normalised, as most are, pre-activations have the table's standard deviation.
            drawn = torch.empty(n_rows, width).normal_(0.0, INPUT_STD, generator=generator)
            if lookup is None:
                table[:, g * width : (g + 1) * width] = drawn
            else:
                table[g * n_rows : (g + 1) * n_rows] = drawn
        self.table = nn.Parameter(table)
        self.bias = nn.Parameter(torch.zeros(groups, 1, width))
        self.groups, self.width, self.lookup, self.n_rows = groups, width, lookup, n_rows
        self.gradients: list[RowGradient] = []
        self._place = np.full(shape[0], -1, dtype=np.int32)  # scratch of the backward pass

    def table_of(self, g: int) -> Tensor:
        """The rows of encoder g [n_rows, width], a view."""
        if self.lookup is None:
            return self.table[:, g * self.width : (g + 1) * self.width]
        return self.table[g * self.n_rows : (g + 1) * self.n_rows]

    def forward(self, X: sp.csr_matrix) -> Tensor:
        """X CSR [N, n_features] → [G, N, H]."""
        indices = self._rows_of_table(X.indices)
        bag = self._torch_bag(X, indices) if self.table.is_cuda else _Bag.apply(self.table, X, indices, self)
        if self.lookup is None:
            bag = bag.view(-1, self.groups, self.width).transpose(0, 1)
        return _Shifted.apply(bag, self.bias)

    def _rows_of_table(self, features: Lookup) -> Lookup:
        """Rows [1, nnz], or [G, nnz] for hashed features, of the table."""
        if self.lookup is None:
            return features[None]
        starts = np.arange(self.groups, dtype=np.int64)[:, None] * self.n_rows
        rows: Lookup = self.lookup[:, features] + starts
        return rows

    def _torch_bag(self, X: sp.csr_matrix, indices: Lookup) -> Tensor:
        """The same through torch's operator, for GPUs."""
        device, blocks = self.table.device, len(indices)
        starts = np.arange(blocks)[:, None] * X.nnz + X.indptr[None, :-1]
        summed = torch.nn.functional.embedding_bag(
            torch.from_numpy(indices.ravel().astype(np.int64)).to(device),
            self.table,
            torch.from_numpy(starts.ravel()).to(device),
            mode="sum",
            sparse=True,
            per_sample_weights=torch.from_numpy(np.tile(X.data, blocks)).to(device),
        )
        return summed.view(blocks, X.shape[0], -1)


class _Bag(torch.autograd.Function):
    """[blocks, N, width] from the table; a block is the whole table, or one encoder's share of a hashed one."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, X: sp.csr_matrix, indices: Lookup, bag: FeatureBag) -> Tensor:
        out = np.empty((len(indices), X.shape[0], table.shape[1]), dtype=np.float32)
        for block, rows in enumerate(indices):
            _bag_forward(X.indptr, rows, X.data, table.detach().numpy(), out[block])
        ctx.X, ctx.indices, ctx.bag = X, indices, bag
        return torch.from_numpy(out)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[None, ...]:
        X, bag = ctx.X, ctx.bag
        bag.gradients = []
        for rows, pull in zip(ctx.indices, grad_outputs[0].contiguous().numpy(), strict=True):
            indptr, points, values, distinct = _transpose_batch(X.indptr, rows, X.data, bag._place)
            bag.gradients.append(RowGradient(distinct, indptr, points, values, pull))
        return None, None, None, None


class _Shifted(torch.autograd.Function):
    """[G, N, H] + [G, 1, H]; the gradient of each encoder's bias is added up alone, so that no other changes it."""

    @staticmethod
    def forward(ctx: Any, bag: Tensor, bias: Tensor) -> Tensor:
        del ctx
        return bag + bias

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        del ctx
        (pull,) = grad_outputs
        return pull, torch.stack([pull[g].contiguous().sum(0, keepdim=True) for g in range(len(pull))])


@numba.njit(parallel=True, cache=True, fastmath={"contract"})
def _bag_forward(indptr, indices, values, table, out):  # type: ignore[no-untyped-def]
    for n in numba.prange(out.shape[0]):
        out[n, :] = 0.0
        for at in range(indptr[n], indptr[n + 1]):
            feature, value = indices[at], values[at]
            if at + 1 < indptr[n + 1]:
                prefetch_row(table, indices[at + 1], 0, table.shape[1])
            for c in range(out.shape[1]):
                out[n, c] += value * table[feature, c]


@numba.njit(cache=True)
def _transpose_batch(indptr, indices, values, place):  # type: ignore[no-untyped-def]
    """The batch by row of the table, distinct rows only: (indptr [U+1], points, values, rows [U])."""
    first, last = indptr[0], indptr[-1]
    rows = np.empty(last - first, dtype=np.int64)
    counts = np.zeros(last - first + 1, dtype=np.int64)
    distinct = 0
    for at in range(first, last):
        row = indices[at]
        if place[row] < 0:
            place[row] = distinct
            rows[distinct] = row
            distinct += 1
        counts[place[row] + 1] += 1
    ends = np.cumsum(counts[: distinct + 1])
    cursor = ends[:-1].copy()
    points = np.empty(last - first, dtype=np.int32)
    by_row = np.empty(last - first, dtype=np.float32)
    for n in range(len(indptr) - 1):
        for at in range(indptr[n], indptr[n + 1]):
            slot = place[indices[at]]
            points[cursor[slot]] = n
            by_row[cursor[slot]] = values[at]
            cursor[slot] += 1
    for u in range(distinct):
        place[rows[u]] = -1
    return ends, points, by_row, rows[:distinct]
