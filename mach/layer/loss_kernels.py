"""Loss and gradient of the buckets in one compiled pass over the logits of a repetition, in place."""

from __future__ import annotations

import numba
import numpy as np

from mach.kernels.exp_log import FAST, ONE, ZERO, exp_of_negative, softplus


@numba.njit(fastmath=FAST, error_model="numpy")
def _bce_row(row, columns, grad_bias, scale):  # type: ignore[no-untyped-def]
    total = 0.0
    for c in columns:
        total -= row[c]
    above = ZERO
    for b in range(len(row)):
        z = row[b]
        e = exp_of_negative(-abs(z))
        above += softplus(z, e)
        gradient = scale * (e if z < ZERO else ONE) / (ONE + e)
        row[b] = gradient
        grad_bias[b] += gradient
    for c in columns:
        row[c] -= scale
        grad_bias[c] -= scale
    return total + above


@numba.njit(fastmath=FAST, error_model="numpy")
def _softmax_row(row, columns, grad_bias, scale):  # type: ignore[no-untyped-def]
    if len(columns) == 0:
        row[:] = ZERO
        return 0.0
    share = ONE / np.float32(len(columns))
    positive = ZERO
    for c in columns:
        positive += row[c]
    highest = row[0]
    for b in range(len(row)):
        highest = row[b] if row[b] > highest else highest
    total = ZERO
    for b in range(len(row)):
        e = exp_of_negative(row[b] - highest)
        row[b] = e
        total += e
    factor = scale / total
    for b in range(len(row)):
        gradient = factor * row[b]
        row[b] = gradient
        grad_bias[b] += gradient
    for c in columns:
        row[c] -= scale * share
        grad_bias[c] -= scale * share
    return np.log(total) + highest - share * positive


@numba.njit(cache=True, nogil=True)
def loss_and_gradient(logits, indptr, columns, softmax, grad_bias):  # type: ignore[no-untyped-def]
    """Turn logits [N, B] into their gradient of the mean loss over points; fills grad_bias [B], returns the loss.

    Point n has the buckets columns[indptr[n] : indptr[n + 1]], each once.
    """
    grad_bias[:] = ZERO
    return _some_points(logits, indptr, columns, softmax, grad_bias, 0, len(logits)) / len(logits)


@numba.njit(parallel=True, cache=True)
def loss_and_gradient_shared(logits, indptr, columns, softmax, grad_bias, parts):  # type: ignore[no-untyped-def]
    """The same by all threads, with the points cut into ``parts``."""
    n_points = len(logits)
    losses = np.zeros(parts, dtype=np.float64)
    sums = np.zeros((parts, logits.shape[1]), dtype=np.float32)
    for part in numba.prange(parts):
        low, high = part * n_points // parts, (part + 1) * n_points // parts
        losses[part] = _some_points(logits, indptr, columns, softmax, sums[part], low, high)
    for b in range(logits.shape[1]):
        total = ZERO
        for part in range(parts):
            total += sums[part, b]
        grad_bias[b] = total
    return losses.sum() / n_points


@numba.njit(cache=True)
def _some_points(logits, indptr, columns, softmax, grad_bias, low, high):  # type: ignore[no-untyped-def]
    scale = np.float32(1.0 / len(logits))
    total = 0.0
    for n in range(low, high):
        mine = columns[indptr[n] : indptr[n + 1]]
        if softmax:
            total += _softmax_row(logits[n], mine, grad_bias, scale)
        else:
            total += _bce_row(logits[n], mine, grad_bias, scale)
    return total


@numba.njit(parallel=True, cache=True)
def distinct_buckets(indptr, indices, lookup, n_buckets):  # type: ignore[no-untyped-def]
    """For each repetition (row of lookup [G, n_labels]) the buckets of every point, each once, in order of labels.

    Returns (starts [G, N+1], columns [G, labels of all points]); columns from starts[g, N] on are not set.
    """
    repetitions, n_points = len(lookup), len(indptr) - 1
    starts = np.zeros((repetitions, n_points + 1), dtype=np.int64)
    columns = np.empty((repetitions, indptr[-1] - indptr[0]), dtype=np.int64)
    for g in numba.prange(repetitions):
        last_seen = np.full(n_buckets, -1, dtype=np.int32)
        kept = 0
        for n in range(n_points):
            for at in range(indptr[n], indptr[n + 1]):
                bucket = np.int64(lookup[g, indices[at]])
                if last_seen[bucket] != n:
                    last_seen[bucket] = n
                    columns[g, kept] = bucket
                    kept += 1
            starts[g, n + 1] = kept
    return starts, columns
