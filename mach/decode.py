"""From bucket scores back to labels: exact top-k over all K labels, for one R or for every R at once.

A label's score is Σ_r s_r[h_r(label)]. The scores of points × labels never exist: labels are scanned one after the
other, a block of points rides along as SIMD lanes, and each point keeps its best k so far. Ties go to the lowest
label id, which a scan in label order gives for free: a later label must be strictly better to enter.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from mach.lanes import LANES, add_line, any_above

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.integer]

ESTIMATORS = ("logit_sum", "mean")
METHODS = ("scan", "reference")

TILE = 64  # labels whose running totals stay in the first-level cache while repetitions are added


def top_k(
    bucket_scores: Floats, lookup: Ints, k: int, *, estimator: str = "logit_sum", method: str = "scan"
) -> tuple[Floats, npt.NDArray[np.int32]]:
    """Exact top-k labels of each point.

    bucket_scores [N, R, B] float32; lookup [R, n_labels] bucket ids; returns (scores [N, k], labels [N, k]), best
    first, ties by lowest label id. With fewer than k labels the rest is label −1 at score −inf.
    ``logit_sum`` adds the scores over repetitions (official MACH code); ``mean`` divides the sum by R (paper, with
    probabilities as scores). Raises ValueError for wrong shapes, NaN or infinite scores.
    """
    R = lookup.shape[0]
    scores, labels = top_k_prefixes(bucket_scores, lookup, k, [R], estimator=estimator, method=method)
    return scores[0], labels[0]


def top_k_prefixes(
    bucket_scores: Floats,
    lookup: Ints,
    k: int,
    prefixes: list[int],
    *,
    estimator: str = "logit_sum",
    method: str = "scan",
) -> tuple[Floats, npt.NDArray[np.int32]]:
    """Exact top-k from the first R' repetitions, for every R' in ``prefixes`` (ascending), in one pass.

    Returns (scores [len(prefixes), N, k], labels [len(prefixes), N, k]); entry p equals `top_k` on the first
    prefixes[p] repetitions bit for bit, because the sum over repetitions runs in the same order.
    """
    _check(bucket_scores, lookup, k, prefixes, estimator, method)
    scan = _scan if method == "scan" else _reference
    scores, labels = scan(np.ascontiguousarray(bucket_scores, dtype=np.float32), lookup, k, prefixes)
    if estimator == "mean":
        scores = scores / np.asarray(prefixes, dtype=np.float32)[:, None, None]
    return scores, labels


def _check(bucket_scores: Floats, lookup: Ints, k: int, prefixes: list[int], estimator: str, method: str) -> None:
    if bucket_scores.ndim != 3 or lookup.ndim != 2 or bucket_scores.shape[1] != lookup.shape[0]:
        raise ValueError(
            f"bucket_scores [N, R, B] and lookup [R, n_labels] do not fit: {bucket_scores.shape}, {lookup.shape}"
        )
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if not prefixes or sorted(set(prefixes)) != list(prefixes) or not 1 <= prefixes[0] <= prefixes[-1] <= len(lookup):
        raise ValueError(f"prefixes must ascend within 1..{len(lookup)}, got {prefixes}")
    if estimator not in ESTIMATORS:
        raise ValueError(f"unknown estimator {estimator!r}; known: {', '.join(ESTIMATORS)}")
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    if lookup.size and int(lookup.max()) >= bucket_scores.shape[2]:
        raise ValueError(f"lookup names bucket {int(lookup.max())}, but there are {bucket_scores.shape[2]}")
    if not np.isfinite(bucket_scores).all():
        raise ValueError("bucket_scores hold NaN or infinite values")


def _reference(
    bucket_scores: Floats, lookup: Ints, k: int, prefixes: list[int]
) -> tuple[Floats, npt.NDArray[np.int32]]:
    """The algorithm as one reads it: a score for every label of a point, then a stable sort. For tests."""
    N, _, _ = bucket_scores.shape
    n_labels = lookup.shape[1]
    scores = np.full((len(prefixes), N, k), -np.inf, dtype=np.float32)
    labels = np.full((len(prefixes), N, k), -1, dtype=np.int32)
    kept = min(k, n_labels)
    for n in range(N):
        total = np.zeros(n_labels, dtype=np.float32)
        for r in range(prefixes[-1]):
            total = total + bucket_scores[n, r, lookup[r]]
            if r + 1 in prefixes:
                best = np.argsort(-total, kind="stable")[:kept]
                p = prefixes.index(r + 1)
                scores[p, n, :kept], labels[p, n, :kept] = total[best], best
    return scores, labels


def _scan(bucket_scores: Floats, lookup: Ints, k: int, prefixes: list[int]) -> tuple[Floats, npt.NDArray[np.int32]]:
    N, R = len(bucket_scores), prefixes[-1]
    # prefix_at[r]: which list to feed after repetition r, or −1
    prefix_at = np.full(R, -1, dtype=np.int64)
    prefix_at[np.asarray(prefixes) - 1] = np.arange(len(prefixes))
    scores = np.full((len(prefixes), N, k), -np.inf, dtype=np.float32)
    labels = np.full((len(prefixes), N, k), -1, dtype=np.int32)
    _scan_blocks(bucket_scores, np.ascontiguousarray(lookup[:R]), prefix_at, scores, labels)
    return scores, labels


@numba.njit(parallel=True, cache=True)
def _scan_blocks(bucket_scores, lookup, prefix_at, scores, labels):  # type: ignore[no-untyped-def]
    N, _, B = bucket_scores.shape
    R, n_labels = lookup.shape
    for block in numba.prange((N + LANES - 1) // LANES):
        first = block * LANES
        count = min(LANES, N - first)
        # Points innermost: one gathered line serves the whole block. Flat arrays: views in the loop cost more.
        table = np.zeros(R * B * LANES, dtype=np.float32)
        for q in range(count):
            for r in range(R):
                for b in range(B):
                    table[(r * B + b) * LANES + q] = bucket_scores[first + q, r, b]
        threshold = np.full(scores.shape[0] * LANES, -np.inf, dtype=np.float32)
        for p in range(scores.shape[0]):
            for q in range(count, LANES):  # lanes without a point
                threshold[p * LANES + q] = np.inf
        total = np.empty(TILE * LANES, dtype=np.float32)
        for tile in range(0, n_labels, TILE):
            width = min(TILE, n_labels - tile)
            total[:] = 0.0
            for r in range(R):
                for t in range(width):
                    add_line(total, t * LANES, table, (r * B + np.int64(lookup[r, tile + t])) * LANES)  # type: ignore[call-arg]
                p = prefix_at[r]
                if p < 0:
                    continue
                for t in range(width):
                    if any_above(total, t * LANES, threshold, p * LANES):  # type: ignore[call-arg]
                        for q in range(count):
                            score = total[t * LANES + q]
                            if score > threshold[p * LANES + q]:
                                threshold[p * LANES + q] = _insert(scores, labels, p, first + q, score, tile + t)


@numba.njit(cache=True)
def _insert(scores, labels, p, n, score, label):  # type: ignore[no-untyped-def]
    """Put a label behind every entry that is at least as good; returns the score that the next one has to beat."""
    at = scores.shape[2] - 1
    while at > 0 and (labels[p, n, at - 1] < 0 or scores[p, n, at - 1] < score):
        scores[p, n, at] = scores[p, n, at - 1]
        labels[p, n, at] = labels[p, n, at - 1]
        at -= 1
    scores[p, n, at] = score
    labels[p, n, at] = label
    return scores[p, n, scores.shape[2] - 1]
