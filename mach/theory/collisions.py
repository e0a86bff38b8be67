"""The statements of the papers about MACH as functions: collisions, repetitions needed, variance and loads.

K labels are hashed into B buckets by each of R repetitions: R·B outputs give B^R codes that distinguish labels
(Huang, Wang, Medini, Shrivastava: arXiv 1810.04254, 2018; Medini, Huang, Wang, Mohan, Shrivastava: Extreme
Classification in Log Memory using Count-Min Sketch, NeurIPS 2019). docs/theory.md explains it. The cost model is in
`mach.theory.cost`; its names are here too.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from mach.theory.cost import cost as cost
from mach.theory.cost import cost_ratios as cost_ratios
from mach.theory.cost import full_softmax_cost as full_softmax_cost
from mach.theory.cost import parameters as parameters


def expected_unresolved_pairs(n_labels: int, B: int, R: int) -> float:
    """Expected number of label pairs that share their bucket in all R repetitions: K(K−1)/2 · B^−R.

    Exact when two labels collide with probability 1/B in a repetition, independently of the others; an upper
    bound for a family that only promises at most 1/B. With R = 0 every pair is unresolved.

    Raises:
        ValueError: ``n_labels`` or ``R`` is negative or ``B`` below 1.
    """
    if n_labels < 0 or B < 1 or R < 0:
        raise ValueError(f"found n_labels={n_labels}, B={B}, R={R}; expected n_labels >= 0, B >= 1, R >= 0")
    return n_labels * (n_labels - 1) / 2 * float(B) ** -R


def unresolved_pairs(lookup: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    """Number of label pairs that share their bucket in each of the first r repetitions, for r = 1 to R.

    Args:
        lookup: int [R, n_labels], the bucket of each label in each repetition.

    Returns:
        int64 [R], exact and never increasing; the last entry counts the pairs that no repetition separates.

    Raises:
        ValueError: ``lookup`` is not a two-dimensional array of integers, or a bucket is not in 0 … 2^31 − 1.
    """
    table = _checked(lookup, 2**31)
    pairs = np.zeros(len(table), dtype=np.int64)
    left = table.shape[1]
    if not len(table) or not left:
        return pairs
    packed = table[0].astype(
        np.int64
    )  # bucket above label; those first that still share all their buckets with another
    packed <<= 32
    packed |= np.arange(left, dtype=np.uint32)
    packed.sort()  # the one large sort; the kernel's own sorts get nearly sorted input
    opens = np.zeros(left, dtype=np.bool_)
    opens[0] = True
    for r, row in enumerate(table):
        pairs[r], left = _refine(packed, opens, left, np.ascontiguousarray(row))
        if not left:
            break
    return pairs


@njit(nogil=True, cache=True)
def _refine(packed: Any, opens: Any, left: int, row: Any) -> tuple[int, int]:
    """Split every group of labels by their buckets in ``row``; count the pairs that stay together.

    The first ``left`` entries of ``packed`` hold labels in their lower 32 bits, group after group, and ``opens``
    marks where a group begins. Labels alone in their group are dropped, in place. Returns (pairs, labels left).
    """
    pairs, kept, low = 0, 0, 0
    while low < left:
        high = low + 1
        while high < left and not opens[high]:
            high += 1
        for i in range(low, high):
            label = packed[i] & 0xFFFFFFFF
            packed[i] = (np.int64(row[label]) << 32) | label
        packed[low:high].sort()
        first = low
        for i in range(low + 1, high + 1):
            if i < high and packed[i] >> 32 == packed[first] >> 32:
                continue
            if i - first > 1:
                pairs += (i - first) * (i - first - 1) // 2
                for j in range(first, i):
                    packed[kept], opens[kept] = packed[j], j == first
                    kept += 1
            first = i
        low = high
    return pairs, kept


def repetitions_needed(n_labels: int, B: int, delta: float) -> float:
    """Repetitions that separate all pairs of labels with probability 1 − delta: 2·log(K/√delta) / log B.

    The union bound over fewer than K² pairs of B^−R each (arXiv 1810.04254); round up for a whole
    number. It is the number from which labels can be separated, not that from which they are predicted well.

    Raises:
        ValueError: ``n_labels`` below 1, ``B`` below 2, or ``delta`` not in (0, 1).
    """
    if n_labels < 1 or B < 2 or not 0 < delta < 1:
        raise ValueError(
            f"found n_labels={n_labels}, B={B}, delta={delta}; expected n_labels >= 1, B >= 2, 0 < delta < 1"
        )
    return float(2 * np.log(n_labels / np.sqrt(delta)) / np.log(B))


def estimator_variance(p: npt.ArrayLike, B: int, R: int) -> npt.NDArray[np.float64]:
    """Variance of MACH's estimate of each label's probability when the bucket probabilities are exact.

    The estimate p̂_k = B/(B−1) · (mean_r P_r[h_r(k)] − 1/B) is unbiased for single-label data when two labels
    collide with probability 1/B; where any three labels fall into buckets independently, its variance is
    Σ_{j≠k} p_j² / (R(B−1)). ``murmur3`` behaves so. ``universal`` does for labels whose ids are far apart at random,
    but for neighbouring ids its collisions come together and the variance is larger; ``balanced``, in which two labels
    collide less often, has a smaller one and a bias below zero while buckets hold few labels (docs/theory.md).

    Args:
        p: label probabilities, float [..., n_labels], summing to 1 along the last axis.
        B, R: buckets per repetition and repetitions.

    Returns:
        float64 of the shape of ``p``.

    Raises:
        ValueError: ``B`` below 2 or ``R`` below 1, or ``p`` is no distribution along its last axis.
    """
    if B < 2 or R < 1:
        raise ValueError(f"found B={B}, R={R}; expected B >= 2, R >= 1")
    probabilities = np.asarray(p, dtype=np.float64)
    if probabilities.ndim == 0 or not (
        (probabilities >= 0).all() and np.allclose(probabilities.sum(axis=-1), 1, rtol=0, atol=1e-6)
    ):
        raise ValueError("p: expected probabilities of 0 or more that sum to 1 along the last axis")
    squares = probabilities**2
    others = squares.sum(axis=-1, keepdims=True) - squares
    return np.asarray(np.maximum(others, 0.0) / (R * (B - 1)))


def bucket_loads(lookup: npt.NDArray[np.integer[Any]], B: int) -> npt.NDArray[np.int64]:
    """Labels in each bucket of each repetition: int64 [R, B], for ``lookup`` int [R, n_labels] with ids in [0, B).

    Raises:
        ValueError: ``lookup`` is not a two-dimensional array of integers, or a bucket is not in [0, B).
    """
    table = _checked(lookup, B)
    return np.array([np.bincount(row, minlength=B) for row in table], dtype=np.int64).reshape(len(table), B)


def expected_loads(n_labels: int, B: int, R: int = 1, delta: float = 0.01) -> dict[str, float]:
    """Statistics of `bucket_loads` when every label gets a random bucket: a binomial load, K tries of 1/B.

    Returns:
        ``mean`` K/B; ``sd`` √(K/B · (1 − 1/B)); and ``max_bound``, which with probability 1 − delta no bucket of R
        tables exceeds: mean + L/3 + √(L²/9 + 2·L·sd²), L = ln(R·B/delta) (Bernstein's inequality and the union
        bound). The mean holds for every family, the rest for independent labels: ``murmur3`` behaves so,
        ``balanced`` loads differ by at most one, ``universal`` ones are mostly flatter but at some draws less even.

    Raises:
        ValueError: ``n_labels`` below 0, ``B`` or ``R`` below 1, or ``delta`` not in (0, 1).
    """
    if n_labels < 0 or B < 1 or R < 1 or not 0 < delta < 1:
        raise ValueError(
            f"found n_labels={n_labels}, B={B}, R={R}, delta={delta}; "
            "expected n_labels >= 0, B >= 1, R >= 1, 0 < delta < 1"
        )
    mean = n_labels / B
    variance = mean * (1 - 1 / B)
    log = math.log(R * B / delta)
    bound = mean + log / 3 + math.sqrt(log**2 / 9 + 2 * log * variance)
    return {"mean": mean, "sd": math.sqrt(variance), "max_bound": bound}


def _checked(lookup: npt.NDArray[np.integer[Any]], B: int) -> npt.NDArray[np.integer[Any]]:
    table = np.asarray(lookup)
    if table.ndim != 2 or not np.issubdtype(table.dtype, np.integer):
        raise ValueError(f"lookup: found {table.dtype} {list(table.shape)}; expected integers [R, n_labels]")
    if table.size and (table.min() < 0 or table.max() >= B):
        raise ValueError(f"lookup: found buckets {table.min()} to {table.max()}; expected 0 to {B - 1:,}")
    return table
