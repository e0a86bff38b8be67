"""The best k labels of a point, kept in order, and the median, for compiled loops."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True)
def insert(scores, labels, score, label):  # type: ignore[no-untyped-def]
    """Put a label into one list [k], after every entry that is at least as good; returns the last entry's score."""
    at = len(scores) - 1
    while at > 0 and (labels[at - 1] < 0 or scores[at - 1] < score):
        scores[at] = scores[at - 1]
        labels[at] = labels[at - 1]
        at -= 1
    scores[at] = score
    labels[at] = label
    return scores[len(scores) - 1]


@numba.njit(cache=True)
def place_anywhere(scores, labels, score, label):  # type: ignore[no-untyped-def]
    """Offer a label to one list [k] when labels come in no order: among equal scores the lower id goes first.

    Returns whether it is in the list now.
    """
    last = len(scores) - 1
    if labels[last] >= 0 and (score < scores[last] or (score == scores[last] and label > labels[last])):
        return False
    insert(scores, labels, score, label)
    for at in range(last, 0, -1):
        if labels[at] >= 0 and scores[at] == scores[at - 1] and labels[at] < labels[at - 1]:
            labels[at], labels[at - 1] = labels[at - 1], labels[at]
    return True


@numba.njit(cache=True)
def middle(values):  # type: ignore[no-untyped-def]
    """Median of float32 values [n], which are sorted in place; the mean of the middle two for an even n."""
    values.sort()
    half = len(values) // 2
    if len(values) % 2:
        return values[half]
    return (values[half - 1] + values[half]) * np.float32(0.5)
