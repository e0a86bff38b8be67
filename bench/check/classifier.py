"""Checks of a method that is not a network: fit on feature and label matrices, and the rankings it gives."""

from __future__ import annotations

import numpy as np

from bench.check.outcome import DoesNotApply, expect
from bench.check.rankings import begins, same_scores, some_pairs, well_formed
from bench.check.subject import N_POINTS, TOP_K, Check, Subject, emptied
from bench.metrics.scorer import without
from bench.model.built_method import BuiltClassifier, takes_excluded


def fit(subject: Subject) -> str:
    """Fits read-only matrices in which some points have no features and some no labels."""
    n_points = subject.fitted and len(subject.data.fit)
    return f"{n_points:,} points, two without features, two without labels, read-only"


def topk(subject: Subject) -> str:
    """(scores, labels) of the right types and shapes, labels in range and once, best first; also without features."""
    X = emptied(subject.data.test.X[:N_POINTS], [3])
    well_formed(subject.fitted.topk(X, TOP_K), N_POINTS, TOP_K, subject.n_labels)
    return f"{N_POINTS} points, one without features, k = {TOP_K}"


def topk_of_one_point(subject: Subject) -> str:
    """A point by itself gets the scores that it gets among others."""
    X = subject.data.test.X[:N_POINTS]
    together = subject.fitted.topk(X, TOP_K)
    alone = well_formed(subject.fitted.topk(X[:1], TOP_K), 1, TOP_K, subject.n_labels)
    same_scores(alone, (together[0][:1], together[1][:1]), "for a point alone and among others")
    return "as in a batch"


def topk_of_all(subject: Subject) -> str:
    """A k above the number of labels is no error, and a smaller k gives the beginning of the same ranking."""
    k, X = subject.n_labels + 3, subject.data.test.X[:8]
    every = well_formed(subject.fitted.topk(X, k), 8, k, subject.n_labels)
    few = well_formed(subject.fitted.topk(X, 3), 8, 3, subject.n_labels)
    begins(few, every)
    return f"k = {k} of {subject.n_labels} labels: {every[0].shape[1]} columns"


def excluded(subject: Subject) -> str:
    """With ``takes_excluded``, topk without some labels is the ranking of all labels without them."""
    if not takes_excluded(subject.fitted):
        raise DoesNotApply("no takes_excluded")
    X = subject.data.test.X[:N_POINTS]
    every = subject.fitted.topk(X, subject.n_labels)
    pairs = some_pairs(every[1])
    found = well_formed(subject.fitted.topk(X, TOP_K, excluded=pairs), N_POINTS, TOP_K, subject.n_labels)
    expected = without(every, pairs, TOP_K)
    expect(
        np.array_equal(found[1], expected[1]), "topk without some labels and all without them apart", "the same ranking"
    )
    return f"{pairs.nnz} pairs of {N_POINTS} points are in no list"


def facts(subject: Subject) -> str:
    """``facts`` is a dict."""
    if (found := BuiltClassifier(subject.fitted).facts()) is None:
        raise DoesNotApply("no facts")
    expect(isinstance(found, dict), f"facts {found!r}", "a dict")
    return ", ".join(found) or "none"


CLASSIFIER_CHECKS: tuple[Check, ...] = (fit, topk, topk_of_one_point, topk_of_all, excluded, facts)
