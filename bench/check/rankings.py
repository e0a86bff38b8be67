"""What every ranking must be, whatever made it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from bench.check.outcome import expect
from bench.interface import Ranking


def well_formed(ranking: Any, n_points: int, k: int, n_labels: int) -> Ranking:
    """The (scores, labels) of N points, or Failed.

    float32 and int32 arrays [N, k], or [N, n_labels] where k is larger; labels in range, each once per point, and −1 at
    score −inf where there is none; best first, and among equal scores the lowest label id first.
    """
    expect(isinstance(ranking, tuple) and len(ranking) == 2, type(ranking).__name__, "a tuple (scores, labels)")
    for name, array, dtype in zip(("scores", "labels"), ranking, (np.float32, np.int32), strict=True):
        is_array = isinstance(array, np.ndarray)
        found = array.dtype if is_array else type(array).__name__
        expect(is_array and array.dtype == dtype, f"{name} of {found}", f"a numpy array of {np.dtype(dtype)}")
        allowed = [(n_points, width) for width in dict.fromkeys((k, min(k, n_labels)))]
        expect(array.shape in allowed, f"{name} of shape {array.shape} for k = {k}", " or ".join(map(str, allowed)))
    scores, labels = ranking
    expect(scores.shape == labels.shape, f"scores {scores.shape}, labels {labels.shape}", "equal shapes")
    expect(not np.isnan(scores).any(), "NaN among the scores", "numbers")
    outside = labels[(labels < -1) | (labels >= n_labels)]
    expect(not outside.size, f"label {outside[:1]}", f"0 to {n_labels - 1}, or -1 for none")
    none = labels == -1
    expect(bool((np.isneginf(scores) == none).all()), "label -1 and score -inf apart", "the two together")
    for row, missing in zip(labels, none, strict=True):
        kept = row[~missing]
        expect(len(np.unique(kept)) == len(kept), f"a label twice among {row.tolist()}", "each label once")
    later, earlier = scores[:, 1:], scores[:, :-1]
    at = np.argwhere(later > earlier)
    expect(not at.size, f"point {at[:1, :1].ravel()}: a worse score before a better one", "best first")
    ties = np.argwhere((later == earlier) & (labels[:, 1:] < labels[:, :-1]) & ~none[:, 1:])
    if ties.size:
        n, c = ties[0]
        pair = labels[n, c : c + 2].tolist()
        expect(False, f"labels {pair} in this order at equal scores", "ties by lowest label id")
    return scores, labels


def begins(shorter: Ranking, longer: Ranking) -> None:
    """Failed, unless the longer ranking begins with the shorter one."""
    k = shorter[1].shape[1]
    differ = np.argwhere(shorter[1] != longer[1][:, :k])
    if differ.size:
        n = differ[0, 0]
        found = f"top {k} {shorter[1][n].tolist()} and top {longer[1].shape[1]} {longer[1][n].tolist()} of one point"
        expect(False, found, "the first to begin the second; at equal scores the lowest label ids")


def some_pairs(labels: npt.NDArray[np.int32]) -> sp.csr_matrix:
    """Pairs [N, n_labels] of points and labels for rankings [N, n_labels] of all labels.

    None of every third point; of others every second of the best labels and some of the worst; all but three of one.
    """
    n_points, n_labels = labels.shape
    chosen = np.zeros((n_points, n_labels), dtype=bool)  # by place in the ranking
    chosen[:, : n_labels // 3 : 2] = chosen[:, -3:] = True
    chosen[1, 3:] = True
    chosen[::3] = False
    points, places = np.nonzero(chosen & (labels >= 0))
    ids = labels[points, places]
    return sp.csr_matrix((np.ones(len(ids), dtype=np.float32), (points, ids)), shape=(n_points, n_labels))


def same_scores(found: Ranking, expected: Ranking, what: str) -> None:
    """Failed, unless the scores agree to rounding."""
    a, b = found[0], expected[0]
    expect(a.shape == b.shape and np.allclose(a, b, rtol=1e-3, atol=1e-5), f"other scores {what}", "the same to 0.1 %")
