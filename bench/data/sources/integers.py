"""Integer arithmetic of the generator: exact shares, permutations by stride, draws without repeats."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
PATTERN = 1000  # label counts of points repeat with this period, so that the position of any point can be computed
TRIES = 16  # rounds of drawing again; a row with too few possible columns stays short after them


def label_pattern(mean_x100: int) -> Ints:
    """Label counts [PATTERN], evenly spread from 1 to about twice the mean, with exactly that mean."""
    counts = 1 + np.arange(PATTERN, dtype=np.int64) * (2 * (mean_x100 - 100)) // (100 * PATTERN)
    missing = PATTERN * mean_x100 // 100 - int(counts.sum())
    counts += missing // PATTERN
    counts[: missing % PATTERN] += 1
    # 367 is prime to 1000: neighbours in rank differ in count
    return counts[np.arange(PATTERN) * 367 % PATTERN]


def running_shares(total: int, cumulative: Ints) -> Ints:
    """Running integer shares of ``total`` in proportion to cumulative weights; the last one is ``total``."""
    weight = int(cumulative[-1])
    high, low = divmod(total, weight)
    return high * cumulative + _scaled(low, cumulative, weight)


def _scaled(part: int, cumulative: Ints, whole: int) -> Ints:
    """floor(part * cumulative / whole), in steps that stay within 63 bits."""
    shift = max(part.bit_length() + whole.bit_length() - 62, 0)
    return (part >> shift) * cumulative // max(whole >> shift, 1) if shift else part * cumulative // whole


def strided(slot: Ints, width: Ints) -> Ints:
    """A permutation of 0..width-1: slot times a stride near width's golden section that is prime to it."""
    stride_of = {}
    for size in np.unique(width).tolist():
        stride = max(size * 618 // 1000, 1)
        while np.gcd(stride, size) != 1:
            stride += 1
        stride_of[size] = stride
    strides = np.array([stride_of[size] for size in width.tolist()], dtype=np.int64)
    return slot * strides % np.maximum(width, 1)


def distinct(
    rows: Ints, columns: Ints, n_columns: int, wanted: Ints, draw: Callable[[Ints, Ints], Ints]
) -> tuple[Ints, Ints]:
    """Distinct (row, column) pairs, sorted, with ``wanted`` [n_rows] of them in each row.

    Repeats among the given pairs are replaced by ``draw(row, number) -> column``, where number differs for
    each draw of a row (below 16 times the columns that the row wants).
    """
    pairs = np.unique(rows * n_columns + columns)
    for attempt in range(TRIES):
        missing = wanted - np.bincount(pairs // n_columns, minlength=len(wanted))
        if not missing.any():
            break
        row = np.repeat(np.arange(len(wanted)), missing)
        within = np.arange(len(row)) - np.repeat(np.cumsum(missing) - missing, missing)
        more = np.unique(row * n_columns + draw(row, within * TRIES + attempt))
        position = np.searchsorted(pairs, more)
        fresh = pairs[np.minimum(position, len(pairs) - 1)] != more
        pairs = np.insert(pairs, position[fresh], more[fresh])
    return pairs // n_columns, pairs % n_columns
