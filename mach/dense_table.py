"""The table of bytes behind `mach.dense`: what its units are chosen from, and how it is written."""

from __future__ import annotations

import numba
import numpy as np

from mach.lists import middle
from mach.quantise import NOT_FINITE, quantise, quantise_halves
from mach.vectors import BLOCK, LINE

SUM, MIN, MEDIAN = 0, 1, 2  # how repetitions combine


@numba.njit(parallel=True, cache=True)
def look_around(scores, rows, count, B, sampled, k, prefixes, kind):  # type: ignore[no-untyped-def]
    """Of a sample of labels, buckets [R, S]: mean and deviation of their scores in each repetition [R, Q], and the
    k-th best total of each prefix [P, Q], −inf where the sample is too small; rows [Q]."""
    R, S = sampled.shape
    mean = np.zeros((R, len(rows)), dtype=np.float32)
    deviation = np.zeros((R, len(rows)), dtype=np.float32)
    bar = np.full((len(prefixes), len(rows)), -np.inf, dtype=np.float32)
    for q in numba.prange(count):
        total = np.zeros(S, dtype=np.float32)
        value = np.empty(S, dtype=np.float32)
        values = np.empty((R if kind == MEDIAN else 0, S), dtype=np.float32)
        p = 0
        for r in range(R):
            for s in range(S):
                value[s] = scores[rows[q] + r * B + np.int64(sampled[r, s])]
            mean[r, q], deviation[r, q] = _moments(value)
            if kind == SUM:
                total += value
            elif kind == MIN:
                for s in range(S):
                    total[s] = min(total[s], value[s]) if r else value[s]
            else:
                values[r] = value
            if r + 1 == prefixes[p]:
                if k <= S:
                    if kind == MEDIAN:
                        for s in range(S):
                            total[s] = middle(values[: r + 1, s].copy())
                    bar[p, q] = np.partition(total, S - k)[S - k]
                p += 1
    return mean, deviation, bar


@numba.njit(fastmath={"reassoc", "contract"}, cache=True)
def _moments(values):  # type: ignore[no-untyped-def]
    first = second = np.float32(0.0)
    for value in values:
        first += value
    mean = first / np.float32(len(values))
    for value in values:
        second += (value - mean) * (value - mean)
    return mean, np.sqrt(second / np.float32(len(values)))


@numba.njit(parallel=True, cache=True)
def quantise_all(scores, rows, count, B, low, per_unit, table, largest):  # type: ignore[no-untyped-def]
    """Lines of all buckets; largest uint32 [R, 4]: bits of the largest |score| of 16 points each."""
    R = len(largest)
    for r in numba.prange(R):
        largest[r] = 0
        for block in range((count + BLOCK - 1) // BLOCK):
            point = block * BLOCK
            top = np.uint32(0)
            if B >= BLOCK:
                for at in range(0, B, BLOCK):
                    b = r * B + min(at, B - BLOCK)  # the last block may overlap its neighbour
                    found = quantise(scores, rows, b, table, b * LINE + point, low[r], per_unit, point)
                    top = max(top, found)
            else:
                top = _quantise_plainly(scores, rows, r, B, low[r], per_unit, table, point)
            largest[r, block] = top


@numba.njit(parallel=True, cache=True)
def quantise_all_halves(scores, rows, B, low, per_unit, table, largest):  # type: ignore[no-untyped-def]
    """The same for 128 points with half a byte each, B ≥ 16; returns the most units that any score counts."""
    R = len(largest)
    most = np.zeros((R, 1), dtype=np.float32)
    for r in numba.prange(R):
        largest[r] = 0
        for block in range(LINE // BLOCK):
            point = block * BLOCK
            for at in range(0, B, BLOCK):
                b = r * B + min(at, B - BLOCK)
                found = quantise_halves(scores, rows, b, table, b * LINE + point, low[r], per_unit, point, most[r])
                largest[r, block] = max(largest[r, block], found)
    return most.max()


@numba.njit(cache=True)
def _quantise_plainly(scores, rows, r, B, low, per_unit, table, point):  # type: ignore[no-untyped-def]
    """The same for 16 points and fewer than 16 buckets."""
    largest = np.float32(0.0)
    for q in range(point, point + BLOCK):
        for b in range(B):
            byte = 0
            score = scores[rows[q] + r * B + b]
            if not np.isfinite(score):
                return np.uint32(NOT_FINITE)
            largest = max(largest, abs(score))
            if score > low[q]:
                byte = int(min((score - low[q]) * per_unit[q], np.float32(254.0))) + 1
            table[(r * B + b) * LINE + q] = byte
    return np.array([largest], dtype=np.float32).view(np.uint32)[0]


@numba.njit(parallel=True, cache=True)
def turn(lookup, by_label):  # type: ignore[no-untyped-def]
    R, n_labels = lookup.shape
    tile = 512
    for task in numba.prange((n_labels + tile - 1) // tile):
        for r in range(R):
            for label in range(task * tile, min(n_labels, (task + 1) * tile)):
                by_label[label, r] = lookup[r, label]
