"""Quality by label frequency: head, torso and tail, and ten bins of equal weight (formulae: docs/metrics.md).

`bench.metrics.ranking_reference` has the same definitions as plain loops; tests compare the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.columns import BY_GROUP, DECILES
from bench.data.passport import GROUPS, group_of_labels
from bench.metrics.ranking import Floats, LabelMatrix, Truth, hits

SHOWN = ("P@1", "P@3", "P@5", "R@5")  # kept for each decile


def quality_by_group(
    labels: npt.NDArray[np.integer[Any]], true: LabelMatrix | Truth, counts: npt.NDArray[np.int64]
) -> dict[str, float | None]:
    """The columns `BY_GROUP` of rankings [N, k]; ``counts`` [n_labels] are the labels' train points.

    ``P@k_head`` is what right predictions of head labels add to P@k; ``R@5_head`` the share of the points' head labels
    that are among the first five, None where the points have none.

    Raises InputError as `bench.metrics.evaluate`.
    """
    return group_columns(labels, true, group_of_labels(counts))


def group_columns(
    labels: npt.NDArray[np.integer[Any]], true: LabelMatrix | Truth, group_of: npt.NDArray[np.int64]
) -> dict[str, float | None]:
    """As `quality_by_group`, where the group of each label [n_labels] is known."""
    found = by_label(labels, true, group_of, len(GROUPS), ks=(1, 5))
    index = {name: at for at, (name, _) in enumerate(GROUPS)}
    values: dict[str, float | None] = {}
    for column in BY_GROUP:
        metric, group = column.split("_")
        value = float(found[metric][index[group]])
        values[column] = None if np.isnan(value) else value
    return values


def deciles(
    labels: npt.NDArray[np.integer[Any]], true: LabelMatrix | Truth, counts: npt.NDArray[np.int64]
) -> dict[str, list[float | None]]:
    """`SHOWN` by frequency decile: bin 0 holds the labels without a train point, bin 1 the rarest, bin 10 the most
    frequent. None where the points have no label of a bin. Arguments and errors as `quality_by_group`."""
    return decile_columns(labels, true, decile_of_labels(counts))


def decile_columns(
    labels: npt.NDArray[np.integer[Any]], true: LabelMatrix | Truth, decile_of: npt.NDArray[np.int64]
) -> dict[str, list[float | None]]:
    """As `deciles`, where the bin of each label [n_labels] is known."""
    found = by_label(labels, true, decile_of, DECILES + 1)
    return {name: [None if np.isnan(value) else float(value) for value in found[name]] for name in SHOWN}


def decile_of_labels(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Bin of each label [n_labels]: 0 without a train point, else 1 (rarest) to 10 (most frequent).

    Labels stand in order of their train points, the lowest id first among equals, and are cut into bins that hold
    a tenth of all train (point, label) pairs each; a label belongs to the bin that the middle of its pairs falls in. So
    beside a label with more pairs than a bin, bins may be empty.
    """
    order = np.argsort(counts, kind="stable")
    twice_the_middle = 2 * np.cumsum(counts[order]) - counts[order]
    bins = np.empty(len(counts), dtype=np.int64)
    bins[order] = np.minimum(twice_the_middle * DECILES // max(2 * int(counts.sum()), 1), DECILES - 1) + 1
    return np.where(counts > 0, bins, 0)


def by_label(
    labels: npt.NDArray[np.integer[Any]],
    true: LabelMatrix | Truth,
    bin_of: npt.NDArray[np.int64],
    n_bins: int,
    ks: Sequence[int] = (1, 3, 5),
) -> dict[str, Floats]:
    """P@k and R@k by bin of the label, float64 [n_bins] each, for rankings [N, k] and bins [n_labels].

    P@k of a bin is the part of P@k that its labels bring; the parts add up to P@k. R@k of a bin is a ratio of sums
    over all points, right predictions of the bin's labels to (point, label) pairs of the bin; NaN without a pair.
    """
    truth = true if isinstance(true, Truth) else Truth(true)
    right = hits(labels, truth)
    pairs = np.bincount(bin_of[truth.sets.indices], minlength=n_bins)
    values: dict[str, Floats] = {}
    for k in ks:
        found = np.bincount(bin_of[labels[:, :k][right[:, :k]]], minlength=n_bins)
        values[f"P@{k}"] = found / (k * len(labels))
        values[f"R@{k}"] = np.divide(found, pairs, out=np.full(n_bins, np.nan), where=pairs > 0)
    return values
