"""Compiled updates of some rows of a table: from a gradient [U, width], or from one not yet added up (`RowGradient`).

All take the columns in strips and the rows in chunks, so that threads share the work however it is shaped; no result
depends on where the cuts are.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from bench.model.prefetch import prefetch_row

STRIP = 1024  # columns at a time: the batch's pull on them stays in a core's cache
FAST = {"contract"}  # multiplications may be fused into sums


def chunks_of(indptr: npt.NDArray[np.int64], parts: int) -> npt.NDArray[np.int64]:
    """Bounds [parts + 1] that cut rows into chunks of about equal work: a row counts as its entries and itself."""
    work = indptr + np.arange(len(indptr))
    return np.searchsorted(work, np.linspace(0, work[-1], parts + 1)).astype(np.int64)


@numba.njit(fastmath=FAST, inline="always")
def _add_up(gradient, indptr, points, values, pull, u, low):  # type: ignore[no-untyped-def]
    gradient[:] = np.float32(0.0)
    for at in range(indptr[u], indptr[u + 1]):
        value, line = values[at], pull[points[at], low : low + len(gradient)]
        for c in range(len(gradient)):
            gradient[c] += value * line[c]


@numba.njit(parallel=True, cache=True, fastmath=FAST)
def adam_bag(table, mean, square, rows, indptr, points, values, pull, bounds, strip, rate, b1, b2, c1, c2, eps):  # type: ignore[no-untyped-def]
    """Adam from a RowGradient; rate holds the corrections for the start, c1 and c2 are 1 − b1 and 1 − b2."""
    width, chunks = table.shape[1], len(bounds) - 1
    strips = (width + strip - 1) // strip
    for task in numba.prange(strips * chunks):
        low, chunk = task // chunks * strip, task % chunks
        high = min(width, low + strip)
        gradient = np.empty(high - low, dtype=np.float32)
        for u in range(bounds[chunk], bounds[chunk + 1]):
            if u + 1 < bounds[chunk + 1]:
                for array in (table, mean, square):
                    prefetch_row(array, rows[u + 1], low, high)
            _add_up(gradient, indptr, points, values, pull, u, low)
            row = rows[u]
            _adam(table[row, low:high], mean[row, low:high], square[row, low:high], gradient, rate, b1, b2, c1, c2, eps)


@numba.njit(parallel=True, cache=True, fastmath=FAST)
def adam_rows(table, mean, square, rows, gradient, rate, b1, b2, c1, c2, eps):  # type: ignore[no-untyped-def]
    """Adam from a gradient [U, width]."""
    for u in numba.prange(len(rows)):
        row = rows[u]
        _adam(table[row], mean[row], square[row], gradient[u], rate, b1, b2, c1, c2, eps)


@numba.njit(fastmath=FAST, inline="always", error_model="numpy")
def _adam(weight, mean, square, gradient, rate, b1, b2, c1, c2, eps):  # type: ignore[no-untyped-def]
    for c in range(len(gradient)):
        m = b1 * mean[c] + c1 * gradient[c]
        v = b2 * square[c] + c2 * gradient[c] * gradient[c]
        mean[c] = m
        square[c] = v
        weight[c] -= rate * m / (np.sqrt(v) + eps)


@numba.njit(parallel=True, cache=True, fastmath=FAST)
def adagrad_bag(table, square, rows, indptr, points, values, pull, bounds, strip, rate, eps):  # type: ignore[no-untyped-def]
    """Row-wise Adagrad from a RowGradient; square [n_rows, G] has a cell for each encoder's H columns of a row."""
    width, chunks, per = table.shape[1], len(bounds) - 1, table.shape[1] // square.shape[1]
    strip = max(1, strip // per) * per  # whole encoders
    strips = (width + strip - 1) // strip
    for task in numba.prange(strips * chunks):
        low, chunk = task // chunks * strip, task % chunks
        high = min(width, low + strip)
        gradient = np.empty(high - low, dtype=np.float32)
        for u in range(bounds[chunk], bounds[chunk + 1]):
            if u + 1 < bounds[chunk + 1]:
                prefetch_row(table, rows[u + 1], low, high)
            _add_up(gradient, indptr, points, values, pull, u, low)
            row = rows[u]
            _adagrad(table[row, low:high], square[row, low // per : high // per], gradient, rate, eps)


@numba.njit(parallel=True, cache=True, fastmath=FAST)
def adagrad_rows(table, square, rows, gradient, rate, eps):  # type: ignore[no-untyped-def]
    """Row-wise Adagrad from a gradient [U, width]."""
    for u in numba.prange(len(rows)):
        _adagrad(table[rows[u]], square[rows[u]], gradient[u], rate, eps)


@numba.njit(fastmath={"contract", "reassoc"}, inline="always", error_model="numpy")
def _adagrad(weight, square, gradient, rate, eps):  # type: ignore[no-untyped-def]
    per = len(weight) // len(square)
    for g in range(len(square)):
        mine = gradient[g * per : (g + 1) * per]
        total = np.float32(0.0)
        for c in range(per):
            total += mine[c] * mine[c]
        square[g] += total / np.float32(per)
        step = rate / (np.sqrt(square[g]) + eps)
        for c in range(per):
            weight[g * per + c] -= step * mine[c]
