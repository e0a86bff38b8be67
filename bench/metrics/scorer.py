"""Quality of rankings of one split of a dataset: what the data alone decide is worked out once for all rankings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from bench.columns import QUALITY
from bench.common.errors import InputError
from bench.data import Dataset, Split
from bench.data.passport import group_of_labels, label_counts
from bench.interface import Ranking
from bench.metrics.by_frequency import decile_columns, decile_of_labels, group_columns
from bench.metrics.ranking import (
    Floats,
    Truth,
    best_weight_sums,
    evaluate_points,
    evaluate_prepared,
    inverse_propensity,
)

KS = (1, 3, 5)
Labels = npt.NDArray[np.integer[Any]]  # [N, k], ranked ids, best first, −1 where there is none


@dataclass(frozen=True, slots=True)
class Score:
    """Quality of one ranking.

    Args:
        quality: the contract's metrics and those of head, torso and tail labels, as columns: fractions, None where the
            points have no label of a group.
        deciles: metrics by frequency decile; see `bench.metrics.by_frequency.deciles`.
    """

    quality: dict[str, float | None]
    deciles: dict[str, list[float | None]]


class Scorer:
    """Scores rankings of the points of a split, ``test`` or ``validation``.

    Label sets, propensities, frequency groups and deciles are worked out when they are first needed, and once.

    Attributes:
        points: the split.
        left_out: CSR [N, n_labels], pairs that may not be predicted (the field's filter files), such as a product for
            itself; None where the split has none.
    """

    def __init__(self, data: Dataset, on: str = "test") -> None:
        """InputError where the split has no points."""
        self._train = data.train.Y
        self._propensity = data.propensity
        self.points: Split = data.validation if on == "validation" else data.test
        if not len(self.points):
            raise InputError(f"dataset {data.name}: found no {on} points to measure quality on; expected at least one")
        self.left_out: sp.csr_matrix | None = data.left_out(on)

    def suffices(self, labels: Labels) -> bool:
        """Whether the metrics of ranked labels [N, k] are known without the pairs that are left out.

        They are not where some of a point's labels are left out, fewer than the largest k of the metrics remain, and
        further labels, which are not kept, would follow.
        """
        if self.left_out is None:
            return True
        forbidden, k = is_left_out(labels, self.left_out), min(max(KS), labels.shape[1])
        remaining = ((labels >= 0) & ~forbidden).sum(axis=1)
        is_complete = (labels < 0).any(axis=1) | (labels.shape[1] >= self.left_out.shape[1])
        return not (forbidden.any(axis=1) & (remaining < k) & ~is_complete).any()

    def _allowed(self, labels: Labels) -> Labels:
        return labels if self.left_out is None else allowed(labels, self.left_out)

    def __len__(self) -> int:
        return len(self.points)

    def score(self, labels: Labels) -> Score:
        """All metrics of ranked labels [N, k], without the pairs that are left out. InputError as
        `bench.metrics.evaluate`."""
        labels = self._allowed(labels)
        found = evaluate_prepared(labels, self.truth, self.inverse_propensity, self._best_sums, KS)
        quality: dict[str, float | None] = {name: found[name] for name in QUALITY}
        by_group = group_columns(labels, self.truth, self._group_of_label)
        return Score(quality | by_group, decile_columns(labels, self.truth, self._decile_of_label))

    def precision(self, labels: Labels) -> dict[str, float]:
        """P@1, P@3 and P@5 of ranked labels [N, k]; needs no train labels."""
        found = evaluate_prepared(self._allowed(labels), self.truth, None, ks=KS)
        return {f"P@{k}": found[f"P@{k}"] for k in KS}

    def score_points(self, labels: Labels) -> dict[str, Floats]:
        """By metric, what each point adds [N]; see `bench.metrics.ranking.evaluate_points`."""
        return evaluate_points(
            self._allowed(labels), self.truth, self.inverse_propensity, ks=KS, best_sums=self._best_sums
        )

    @cached_property
    def truth(self) -> Truth:
        """The labels of the points."""
        return Truth(self.points.Y)

    @cached_property
    def inverse_propensity(self) -> Floats:
        """Weights 1/p of the labels [n_labels], from the train points and the dataset's constants."""
        A, B = self._propensity
        return inverse_propensity(self._train, A, B)

    @cached_property
    def _best_sums(self) -> Floats:
        return best_weight_sums(self.truth, self.inverse_propensity, max(KS))

    @cached_property
    def _label_counts(self) -> npt.NDArray[np.int64]:
        return label_counts(self._train)

    @cached_property
    def _group_of_label(self) -> npt.NDArray[np.int64]:
        return group_of_labels(self._label_counts)

    @cached_property
    def _decile_of_label(self) -> npt.NDArray[np.int64]:
        return decile_of_labels(self._label_counts)


def is_left_out(labels: Labels, pairs: sp.csr_matrix) -> npt.NDArray[np.bool_]:
    """Where a ranking [N, k] names a label that ``pairs`` [N, n_labels] excludes for the point."""
    n_labels = pairs.shape[1]
    points = np.repeat(np.arange(pairs.shape[0], dtype=np.int64), np.diff(pairs.indptr))
    excluded = np.sort(points * n_labels + pairs.indices)
    ranked = np.arange(len(labels), dtype=np.int64)[:, None] * n_labels + labels
    if not len(excluded):
        return np.zeros(labels.shape, dtype=bool)
    at = np.minimum(np.searchsorted(excluded, ranked), len(excluded) - 1)
    found: npt.NDArray[np.bool_] = (excluded[at] == ranked) & (labels >= 0)
    return found


def allowed(labels: Labels, pairs: sp.csr_matrix) -> Labels:
    """A ranking [N, k] without its excluded pairs, order kept; −1 at the end of rows that become shorter."""
    excluded = is_left_out(labels, pairs)
    if not excluded.any():
        return labels
    order = np.argsort(excluded, axis=1, kind="stable")
    return np.take_along_axis(np.where(excluded, -1, labels), order, axis=1)


def without(ranking: Ranking, pairs: sp.csr_matrix, k: int) -> Ranking:
    """The best k of a ranking [N, more] without its forbidden pairs [N, n_labels], order kept."""
    scores, labels = ranking
    kept_scores = np.full((len(labels), k), -np.inf, dtype=np.float32)
    kept_labels = np.full((len(labels), k), -1, dtype=np.int32)
    for n in range(len(labels)):
        forbidden = pairs.indices[pairs.indptr[n] : pairs.indptr[n + 1]]
        keep = ~np.isin(labels[n], forbidden)
        best = np.flatnonzero(keep)[:k]
        kept_scores[n, : len(best)], kept_labels[n, : len(best)] = scores[n, best], labels[n, best]
    return kept_scores, kept_labels
