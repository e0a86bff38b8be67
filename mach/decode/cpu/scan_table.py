"""The scan's table of bytes: the statistics from which its units are chosen, and how it is written."""

from __future__ import annotations

import numba
import numpy as np

from mach.decode.cpu.simd.lanes import prefetch
from mach.decode.cpu.simd.quantise import NOT_FINITE, quantise, quantise_halves
from mach.decode.cpu.simd.vectors import BLOCK, LINE
from mach.decode.cpu.topk_list import middle
from mach.kernels.excluded import is_excluded

SUM, MIN, MEDIAN = 0, 1, 2  # how repetitions combine
LOOKED_AT = 128  # buckets per repetition from which the mean and the deviation of its scores are estimated


@numba.njit(parallel=True, cache=True)
def moments(scores, rows, count, B, R):  # type: ignore[no-untyped-def]
    """Mean and deviation [R, Q] of a point's scores in each repetition, from the first buckets: hashing has shuffled
    the labels. 0 for lanes without a point; rows [Q]."""
    mean = np.zeros((R, len(rows)), dtype=np.float32)
    deviation = np.zeros((R, len(rows)), dtype=np.float32)
    for q in numba.prange(count):
        for r in range(R):
            first = rows[q] + r * B
            if r + 2 < R:  # prefetched meanwhile
                for b in range(0, min(B, LOOKED_AT), BLOCK):
                    prefetch(scores, first + 2 * B + b)
            mean[r, q], deviation[r, q] = _moments(scores[first : first + min(B, LOOKED_AT)])
    return mean, deviation


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
def sample_bar(scores, rows, count, excluded, B, labels, sampled, k, prefixes, kind):  # type: ignore[no-untyped-def]
    """The k-th best total of each prefix [P, Q] in a sample of labels [S], buckets [R, S]; −inf where it is too
    small."""
    R, S = sampled.shape
    bar = np.full((len(prefixes), len(rows)), -np.inf, dtype=np.float32)
    for q in numba.prange(count if k <= S else 0):
        total = np.zeros(S, dtype=np.float32)
        ranked = np.empty(S, dtype=np.float32)
        values = np.empty((R if kind == MEDIAN else 0, S), dtype=np.float32)
        p = 0
        for r in range(R):
            for s in range(S):
                value = scores[rows[q] + r * B + np.int64(sampled[r, s])]
                if kind == SUM:
                    total[s] += value
                elif kind == MIN:
                    total[s] = min(total[s], value) if r else value
                else:
                    values[r, s] = value
            if r + 1 == prefixes[p]:
                if kind == MEDIAN:
                    for s in range(S):
                        total[s] = middle(values[: r + 1, s].copy())
                for s in range(S):
                    ranked[s] = -np.inf if is_excluded(excluded, q, labels[s]) else total[s]
                bar[p, q] = np.partition(ranked, S - k)[S - k]
                p += 1
    return bar


@numba.njit(parallel=True, cache=True)
def quantise_all(scores, rows, count, B, low, per_unit, table, largest, highest):  # type: ignore[no-untyped-def]
    """Lines of all buckets; largest uint32 [R, 4]: bits of the largest |score| of 16 points each, highest uint8
    [R · 64]: the highest byte of a point."""
    R = len(largest)
    for r in numba.prange(R):
        largest[r] = 0
        highest[r * LINE : (r + 1) * LINE] = 0
        for block in range((count + BLOCK - 1) // BLOCK):
            point = block * BLOCK
            top = np.uint32(0)
            if B >= BLOCK:
                for at in range(0, B, BLOCK):
                    b = r * B + min(at, B - BLOCK)  # the last block may overlap its neighbour
                    to = table, b * LINE + point
                    found = quantise(scores, rows, b, *to, low[r], per_unit, point, highest, r)
                    top = max(top, found)
            else:
                top = _quantise_plainly(scores, rows, r, B, low[r], per_unit, table, point, highest)
            largest[r, block] = top


@numba.njit(parallel=True, cache=True)
def quantise_all_halves(scores, rows, B, low, per_unit, table, largest, highest):  # type: ignore[no-untyped-def]
    """The same for 128 points with half a byte each, B ≥ 16, highest [R · 128]; returns the most units of any score."""
    R = len(largest)
    most = np.zeros((R, 1), dtype=np.float32)
    for r in numba.prange(R):
        largest[r] = 0
        highest[2 * r * LINE : 2 * (r + 1) * LINE] = 0
        for block in range(LINE // BLOCK):
            point = block * BLOCK
            for at in range(0, B, BLOCK):
                b = r * B + min(at, B - BLOCK)
                to = table, b * LINE + point
                found = quantise_halves(scores, rows, b, *to, low[r], per_unit, point, highest, r, most[r])
                largest[r, block] = max(largest[r, block], found)
    return most.max()


@numba.njit(cache=True)
def _quantise_plainly(scores, rows, r, B, low, per_unit, table, point, highest):  # type: ignore[no-untyped-def]
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
            highest[r * LINE + q] = max(highest[r * LINE + q], byte)
    return np.array([largest], dtype=np.float32).view(np.uint32)[0]


@numba.njit(parallel=True, cache=True)
def turn(lookup, by_label):  # type: ignore[no-untyped-def]
    R, n_labels = lookup.shape
    tile = 512
    for task in numba.prange((n_labels + tile - 1) // tile):
        for r in range(R):
            for label in range(task * tile, min(n_labels, (task + 1) * tile)):
                by_label[label, r] = lookup[r, label]
