"""Ranking metrics of extreme classification: P@k, nDCG@k, PSP@k, R@k and minP@k (formulae: docs/metrics.md).

Everything is computed from ranked label ids, never from scores, so that a score of zero or below is an
ordinary score. `bench.metrics.ranking_reference` has the same definitions as plain loops; tests compare the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from bench.common.errors import InputError

#: A points × labels matrix; a stored value other than zero says that the point has the label.
LabelMatrix = sparse.csr_matrix | sparse.csr_array
Floats = npt.NDArray[np.float64]


class Truth:
    """The labels of points, checked and sorted once for any number of rankings.

    ``sets``: CSR [N, n_labels], ids sorted and unique in each row; ``shape``: its shape.
    """

    def __init__(self, true: LabelMatrix) -> None:
        """InputError where the matrix is none of labels, or is empty."""
        self.sets = label_sets(true, "true labels")
        self.shape: tuple[int, int] = self.sets.shape
        self.n_labels_of_point = np.diff(self.sets.indptr).astype(np.int64)
        rows = np.arange(self.shape[0], dtype=np.int64)
        self._first_keys = rows * self.shape[1]
        self._keys = np.repeat(self._first_keys, np.diff(self.sets.indptr)) + self.sets.indices

    def hits(self, ranked: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """bool [N, k]: is the label one of the point's? Looked up among sorted keys row·n_labels + id."""
        if self._keys.size == 0:
            return np.zeros(ranked.shape, dtype=np.bool_)
        wanted = self._first_keys[:, None] + ranked
        found = np.minimum(np.searchsorted(self._keys, wanted), self._keys.size - 1)
        return np.asarray((self._keys[found] == wanted) & (ranked >= 0))


def evaluate(
    labels: npt.NDArray[np.integer[Any]],
    true: LabelMatrix | Truth,
    train_or_inverse_propensity: LabelMatrix | Floats | None = None,
    *,
    A: float = 0.55,
    B: float = 1.5,
    ks: Sequence[int] = (1, 3, 5),
) -> dict[str, float]:
    """Every metric at every k, as fractions averaged over all points: ``{"P@1": ..., "P@3": ..., ...}``.

    A point without labels counts 0 in every metric and stays in the mean; a missing prediction is wrong. The
    inputs are not modified.

    Args:
        labels: int [N, k], ranked label ids, best first; -1 where there is no prediction.
        true: [N, n_labels], the labels of the points; explicit zeros are no labels, duplicates count once. Where many
            rankings of the same points are evaluated, a `Truth` of it.
        train_or_inverse_propensity: label matrix of the train points [n_train, n_labels], or the weights 1/p
            themselves, float [n_labels]. Without it there is no PSP@k in the result.
        A, B: constants of the propensity model for a train label matrix; see `inverse_propensity`.
        ks: the cut-offs; predictions missing up to the largest are wrong.

    Raises:
        InputError: shapes, types or label ids do not fit, or a row names a label twice.
    """
    truth = _truth(true)
    if train_or_inverse_propensity is None:
        return evaluate_prepared(labels, truth, None, None, ks)
    weights = _weights(train_or_inverse_propensity, truth.shape[1], A, B)
    return evaluate_prepared(labels, truth, weights, None, ks)


def evaluate_prepared(
    labels: npt.NDArray[np.integer[Any]],
    truth: Truth,
    weights: Floats | None,
    best_sums: Floats | None = None,
    ks: Sequence[int] = (1, 3, 5),
) -> dict[str, float]:
    """As `evaluate`, from what is the same for all rankings of some points.

    ``weights``: 1/p of the labels, float64 [n_labels], positive and finite; None: no PSP@k. ``best_sums``: from
    `best_weight_sums` with max(ks); None: they are worked out.
    """
    counted = _count(labels, truth, ks)
    correct, gain, sizes = counted.correct, counted.gain, counted.at_least_one
    values: dict[str, float] = {}
    for k in ks:
        values[f"P@{k}"] = float(correct[:, k - 1].mean() / k)
    for k in ks:
        values[f"nDCG@{k}"] = float((gain[:, k - 1] / counted.ideal_gain[np.minimum(sizes, k) - 1]).mean())
    if weights is not None:
        # Id -1 is never found, so that it reads the last label's weight does not matter.
        reached = np.cumsum((counted.found * weights[counted.ranked]).sum(axis=0))
        best = _best_sums(counted.truth, weights, max(ks)) if best_sums is None else best_sums
        for k in ks:
            values[f"PSP@{k}"] = float(reached[k - 1] / best[k - 1]) if best[k - 1] > 0 else 0.0
    for k in ks:
        values[f"R@{k}"] = float((correct[:, k - 1] / sizes).mean())
    for k in ks:
        values[f"minP@{k}"] = float((correct[:, k - 1] / np.minimum(sizes, k)).mean())
    return values


def evaluate_points(
    labels: npt.NDArray[np.integer[Any]],
    true: LabelMatrix | Truth,
    train_or_inverse_propensity: LabelMatrix | Floats | None = None,
    *,
    A: float = 0.55,
    B: float = 1.5,
    ks: Sequence[int] = (1, 3, 5),
    best_sums: Floats | None = None,
) -> dict[str, Floats]:
    """What each point adds: float64 [N] by metric, whose mean over the points is the value of `evaluate`.

    PSP@k is a ratio of sums over all points, so a point's value is its Σ h/p divided by the mean of the best sums;
    it may exceed 1. The denominator depends on the true labels alone and is the same for every method: where many
    rankings are evaluated it can be worked out once and given as ``best_sums``, from `best_weight_sums` with max(ks).

    Other arguments and errors: as `evaluate`.
    """
    counted = _count(labels, true, ks)
    correct, sizes = counted.correct, counted.at_least_one
    values: dict[str, Floats] = {}
    for k in ks:
        values[f"P@{k}"] = correct[:, k - 1] / k
        values[f"nDCG@{k}"] = counted.gain[:, k - 1] / counted.ideal_gain[np.minimum(sizes, k) - 1]
        values[f"R@{k}"] = correct[:, k - 1] / sizes
        values[f"minP@{k}"] = correct[:, k - 1] / np.minimum(sizes, k)
    if train_or_inverse_propensity is not None:
        weights = _weights(train_or_inverse_propensity, counted.truth.shape[1], A, B)
        reached = np.cumsum(counted.found * weights[counted.ranked], axis=1)
        sums = _best_sums(counted.truth, weights, max(ks)) if best_sums is None else best_sums
        best = sums / len(reached)
        for k in ks:
            values[f"PSP@{k}"] = reached[:, k - 1] / best[k - 1] if best[k - 1] > 0 else np.zeros(len(reached))
    return values


def best_weight_sums(true: LabelMatrix | Truth, weights: Floats, depth: int) -> Floats:
    """float64 [depth]: Σ 1/p over all points of the 1, 2, … heaviest labels that each has; weights 1/p [n_labels].

    Raises:
        InputError: as `evaluate`.
    """
    truth = _truth(true)
    return _best_sums(truth, _weights(weights, truth.shape[1], 1.0, 1.0), depth)


def hits(labels: npt.NDArray[np.integer[Any]], true: LabelMatrix | Truth) -> npt.NDArray[np.bool_]:
    """Whether each prediction is right: bool [N, k] for ranked ids [N, k], as `evaluate` takes them.

    Raises:
        InputError: as `evaluate`.
    """
    truth = _truth(true)
    return truth.hits(_ranked_ids(labels, truth.shape))


def _truth(true: LabelMatrix | Truth) -> Truth:
    return true if isinstance(true, Truth) else Truth(true)


def inverse_propensity(train: LabelMatrix, A: float = 0.55, B: float = 1.5) -> Floats:
    """Weights 1/p of the labels, float64 [n_labels], from the train labels [n_train, n_labels].

    1/p_l = 1 + C·(N_l + B)^−A with C = (ln N − 1)·(B + 1)^A, where N is the number of train points and N_l
    the number that have label l (Jain, Prabhu, Varma: Extreme Multi-label Loss Functions for Recommendation,
    Tagging, Ranking & Other Missing Label Applications, KDD 2016). Usual constants (A, B): (0.6, 2.6) for
    Amazon data, (0.5, 0.4) for Wikipedia data, (0.55, 1.5) otherwise.

    Raises:
        InputError: fewer than 3 train points (for ln N < 1 the model gives propensities above one), or A or B
            is not a positive finite number.
    """
    if not (np.isfinite(A) and np.isfinite(B) and A > 0 and B > 0):
        raise InputError(f"propensity constants: found A={A}, B={B}; expected positive finite numbers")
    labels = label_sets(train, "train labels")
    n_points, n_labels = labels.shape
    if n_points < 3:
        raise InputError(f"train labels: found {n_points} points; expected at least 3 for the propensity model")
    counts = np.bincount(labels.indices, minlength=n_labels)
    scale = (np.log(n_points) - 1.0) * (B + 1.0) ** A
    return np.asarray(1.0 + scale * (counts + B) ** -A, dtype=np.float64)


@dataclass(frozen=True)
class _Counted:
    """What the metrics count from, for N points and rankings cut or padded to ``depth``, the largest k."""

    truth: Truth
    ranked: npt.NDArray[np.int64]  # [N, depth]
    found: npt.NDArray[np.bool_]  # [N, depth], is the prediction right?
    correct: npt.NDArray[np.int64]  # [N, depth], right ones up to a rank
    gain: Floats  # [N, depth], discounted by rank
    ideal_gain: Floats  # [depth], of 1, 2, ... right ones at the top
    at_least_one: npt.NDArray[np.int64]  # [N], labels of a point; one without has no hit, so it counts 0 / 1 = 0


def _count(labels: npt.NDArray[np.integer[Any]], true: LabelMatrix | Truth, ks: Sequence[int]) -> _Counted:
    """Check the inputs of `evaluate` and count."""
    if not ks or any(isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1 for k in ks):
        raise InputError(f"cut-offs: found {list(ks)!r}; expected positive integers")
    truth = _truth(true)
    depth = max(ks)
    given = _ranked_ids(labels, truth.shape)[:, :depth]
    ranked = np.pad(given, ((0, 0), (0, depth - given.shape[1])), constant_values=-1)
    found = truth.hits(ranked)
    discount = 1.0 / np.log2(np.arange(depth) + 2.0)
    return _Counted(
        truth,
        ranked,
        found,
        correct=np.cumsum(found, axis=1),
        gain=np.cumsum(found * discount, axis=1),
        ideal_gain=np.cumsum(discount),
        at_least_one=np.maximum(truth.n_labels_of_point, 1),
    )


def label_sets(matrix: LabelMatrix, name: str) -> sparse.csr_array:
    """A checked copy of a label matrix: ids sorted and unique in each row; values mean nothing."""
    if not sparse.issparse(matrix) or matrix.format != "csr" or matrix.ndim != 2:
        raise InputError(f"{name}: found {type(matrix).__name__}; expected a scipy CSR matrix, points × labels")
    copy = sparse.csr_array(matrix, copy=True)
    try:
        copy.check_format(full_check=True)
    except ValueError as error:
        raise InputError(
            f"{name}: found a malformed CSR matrix ({error}); expected ids below {copy.shape[1]}"
        ) from error
    if copy.shape[0] == 0 or copy.shape[1] == 0:
        raise InputError(f"{name}: found shape {copy.shape}; expected at least one point and one label")
    copy.eliminate_zeros()  # before duplicates are summed: 1 and −1 are two mentions of a label, not none
    copy.sum_duplicates()
    return copy


def _ranked_ids(labels: npt.NDArray[np.integer[Any]], shape: tuple[int, int]) -> npt.NDArray[np.int64]:
    """The predictions as int64 [N, k], checked against ``shape`` (points, labels)."""
    given = np.asarray(labels)
    n_points, n_labels = shape
    if given.ndim != 2 or len(given) != n_points or not np.issubdtype(given.dtype, np.integer):
        raise InputError(
            f"predicted labels: found {given.dtype} {list(given.shape)}; expected integers [{n_points}, k], "
            "a row for each point of the true labels"
        )
    outside = (given < -1) | (given >= n_labels)
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise InputError(
            f"predicted labels, row {row}, column {column}: found id {given[row, column]}; "
            f"expected 0 to {n_labels - 1}, or -1 for no prediction"
        )
    ranked = given.astype(np.int64)
    ordered = np.sort(ranked, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if twice.any():
        row, column = np.argwhere(twice)[0]
        raise InputError(
            f"predicted labels, row {row}: found label {ordered[row, column]} more than once; expected distinct labels"
        )
    return ranked


def _weights(given: LabelMatrix | Floats, n_labels: int, A: float, B: float) -> Floats:
    """The labels' weights 1/p, float64 [n_labels], from train labels or as given."""
    if sparse.issparse(given):
        if given.shape[1] != n_labels:
            raise InputError(f"train labels: found {given.shape[1]} labels; expected {n_labels} as in the true labels")
        return inverse_propensity(given, A, B)
    weights = np.asarray(given)
    if weights.shape != (n_labels,) or weights.dtype.kind not in "fiu":
        raise InputError(
            f"inverse propensity: found {weights.dtype} {list(weights.shape)}; expected numbers [{n_labels}]"
        )
    wrong = ~(np.isfinite(weights) & (weights > 0))
    if wrong.any():
        label = int(np.flatnonzero(wrong)[0])
        raise InputError(
            f"inverse propensity of label {label}: found {weights[label]}; expected a positive finite number"
        )
    return weights.astype(np.float64)


def _best_sums(truth: Truth, weights: Floats, depth: int) -> Floats:
    sums: Floats = np.cumsum(_best_weights(truth.sets, weights, depth).sum(axis=0))
    return sums


def _best_weights(truth: sparse.csr_array, weights: Floats, depth: int) -> Floats:
    """float64 [N, depth]: the largest weights among each point's labels, descending, padded with zeros."""
    descending = np.argsort(-weights, kind="stable")
    rank = np.empty_like(descending)
    rank[descending] = np.arange(len(weights))
    # Renaming labels by descending weight turns "the heaviest labels of a row" into "the first ids of a row".
    renamed = sparse.csr_array((truth.data, rank[truth.indices], truth.indptr), shape=truth.shape)
    renamed.sort_indices()
    best = np.zeros((truth.shape[0], depth))
    start, stop = renamed.indptr[:-1].astype(np.int64), renamed.indptr[1:]
    for position in range(depth):
        present = start + position < stop
        best[present, position] = weights[descending[renamed.indices[start[present] + position]]]
    return best
