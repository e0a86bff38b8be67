"""The scorer: what the data alone decide is worked out once, and every value is that of the plain functions."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from bench.columns import QUALITY
from bench.common.errors import InputError
from bench.data import Dataset, load_dataset
from bench.data.passport import label_counts
from bench.metrics import by_frequency, ranking, scorer
from bench.metrics.by_frequency import deciles, quality_by_group
from bench.metrics.ranking import evaluate, evaluate_points
from bench.metrics.scorer import Scorer, is_left_out


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset("tiny")


def rankings(n: int, n_points: int, n_labels: int) -> list[np.ndarray[Any, Any]]:
    """Random ones; some predictions are missing."""
    found = []
    for seed in range(n):
        draw = np.random.default_rng(seed)
        labels = np.array([draw.permutation(n_labels)[:5] for _ in range(n_points)], dtype=np.int32)
        labels[draw.random(n_points) < 0.1, -1] = -1
        found.append(labels)
    return found


@pytest.mark.parametrize("on", ["test", "validation"])
def test_values_are_those_of_the_plain_functions_bit_for_bit(data: Dataset, on: str) -> None:
    made = Scorer(data, on)
    points = data.validation if on == "validation" else data.test
    A, B = data.propensity
    counts = label_counts(data.train.Y)
    for labels in rankings(3, *points.Y.shape):
        plain = evaluate(labels, points.Y, data.train.Y, A=A, B=B)
        score = made.score(labels)
        assert score.quality == {name: plain[name] for name in QUALITY} | quality_by_group(labels, points.Y, counts)
        assert score.deciles == deciles(labels, points.Y, counts)
        without_train = evaluate(labels, points.Y)
        assert made.precision(labels) == {name: without_train[name] for name in ("P@1", "P@3", "P@5")}
        by_point = evaluate_points(labels, points.Y, data.train.Y, A=A, B=B)
        found = made.score_points(labels)
        assert found.keys() == by_point.keys()
        for name, values in by_point.items():
            np.testing.assert_array_equal(found[name], values)


def test_what_the_data_decide_is_worked_out_once_for_many_rankings(
    data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()

    def count(module: Any, name: str) -> None:
        plain = getattr(module, name)

        def counting(*arguments: Any, **more: Any) -> Any:
            calls[name] += 1
            return plain(*arguments, **more)

        monkeypatch.setattr(module, name, counting)

    for name in ("inverse_propensity", "label_counts", "group_of_labels", "decile_of_labels", "best_weight_sums"):
        count(scorer, name)
    count(ranking, "label_sets")
    count(ranking, "_best_weights")
    made = Scorer(data)
    assert not calls
    for labels in rankings(16, *data.test.Y.shape):
        made.score(labels)
        made.score_points(labels)
    assert calls.pop("label_sets") == 2  # of the points, and of the train points for the propensities
    assert set(calls.values()) == {1}
    assert len(calls) == 6
    assert by_frequency.decile_of_labels is not scorer.decile_of_labels  # it was counted


def test_pairs_that_are_left_out_belong_to_the_points(monkeypatch: pytest.MonkeyPatch) -> None:
    own = load_dataset("tiny")
    left_out = sp.csr_matrix(own.test.Y.shape, dtype=np.float32)
    vars(own)["test_filter"] = left_out  # in place of what it would read
    assert Scorer(own).left_out is left_out
    assert Scorer(own, "validation").left_out is None
    of_train = sp.random(*own.train.Y.shape, 0.05, "csr", random_state=np.random.default_rng(0))
    monkeypatch.setitem(vars(own), "train_filter", of_train)
    of_validation = Scorer(own, "validation").left_out
    assert of_validation is not None
    np.testing.assert_array_equal(of_validation.toarray(), of_train.toarray()[own.validation_rows])
    monkeypatch.setitem(vars(own), "validation", own.train.take(np.array([], dtype=np.int64)))
    with pytest.raises(InputError, match="found no validation points to measure quality on; expected at least one"):
        Scorer(own, "validation")


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 9), st.sampled_from([0.0, 0.2, 0.7, 1.0]))
def test_pairs_that_are_left_out_go_and_the_order_stays(seed: int, n: int, n_labels: int, share: float) -> None:
    draw = np.random.default_rng(seed)
    pairs = sp.csr_matrix((draw.random((n, n_labels)) < share).astype(np.float32))
    k = int(draw.integers(1, n_labels + 1))
    labels = np.array([draw.permutation(n_labels)[:k] for _ in range(n)], dtype=np.int32)
    labels[draw.random(n) < 0.3, -1] = -1
    excluded = pairs.toarray() > 0
    plain = [[label for label in row if label >= 0 and not excluded[at, label]] for at, row in enumerate(labels)]
    found = scorer.allowed(labels, pairs)
    assert found.tolist() == [row + [-1] * (k - len(row)) for row in plain]
    assert is_left_out(labels, pairs).tolist() == [
        [label >= 0 and bool(excluded[at, label]) for label in row] for at, row in enumerate(labels)
    ]


def test_kept_labels_suffice_where_the_metrics_are_those_of_a_longer_ranking(data: Dataset) -> None:
    """A point that loses labels needs five others, or all that there are."""
    made, n_labels = Scorer(data), data.test.Y.shape[1]
    longer = np.tile(np.arange(n_labels, dtype=np.int32), (len(data.test), 1))
    assert made.suffices(longer[:, :5])
    made.left_out = sp.csr_matrix(([1.0, 1.0], ([3, 3], [0, 2])), shape=data.test.Y.shape)
    right = made.score(longer[:, :10]).quality
    for k in range(1, 10):
        assert made.suffices(longer[:, :k]) == (k >= 7), k
        assert k < 7 or made.score(longer[:, :k]).quality == right
    assert made.suffices(longer)  # all labels are ranked
    short = longer[:, :6].copy()
    short[3, 4:] = -1  # the method has found no others
    assert made.suffices(short)
