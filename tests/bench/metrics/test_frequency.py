"""Quality by label frequency against the plain reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from bench.columns import BY_GROUP
from bench.metrics.by_frequency import DECILES, by_label, decile_of_labels, deciles, quality_by_group
from bench.metrics.ranking import evaluate
from bench.metrics.ranking_reference import by_label_reference, decile_reference

Case = tuple[list[list[int]], list[set[int]], list[int]]


def csr(rows: list[set[int]], n_labels: int) -> sparse.csr_matrix:
    indptr = np.cumsum([0, *map(len, rows)])
    indices = np.array([label for row in rows for label in sorted(row)], dtype=np.int32)
    return sparse.csr_matrix((np.ones(len(indices)), indices, indptr), shape=(len(rows), n_labels))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Rankings, true labels and train counts; points without labels, missing predictions and unseen labels occur."""
    n_labels, n_points, k = draw(st.integers(1, 12)), draw(st.integers(1, 8)), draw(st.integers(1, 6))
    label = st.integers(0, n_labels - 1)
    ranked = [draw(st.lists(label, unique=True, max_size=min(k, n_labels))) for _ in range(n_points)]
    true = [draw(st.sets(label, max_size=6)) for _ in range(n_points)]
    counts = draw(st.lists(st.sampled_from([0, 0, 1, 1, 2, 5, 6, 100, 101, 400]), min_size=n_labels, max_size=n_labels))
    return [row + [-1] * (k - len(row)) for row in ranked], true, counts


@given(cases())
@settings(deadline=None)
def test_bins_equal_the_reference(case: Case) -> None:
    ranked, true, counts = case
    bins = decile_of_labels(np.array(counts))
    assert bins.tolist() == decile_reference(counts)
    found = by_label(np.array(ranked), csr(true, len(counts)), bins, DECILES + 1)
    for k in (1, 3, 5):
        precision, recall = by_label_reference(ranked, true, bins.tolist(), DECILES + 1, k)
        np.testing.assert_allclose(found[f"P@{k}"], precision, atol=1e-12)
        np.testing.assert_allclose(found[f"R@{k}"], recall, atol=1e-12, equal_nan=True)


@given(cases())
@settings(deadline=None)
def test_the_parts_add_up(case: Case) -> None:
    ranked, true, counts = case
    labels, truth = np.array(ranked), csr(true, len(counts))
    whole = evaluate(labels, truth)
    by_decile = deciles(labels, truth, np.array(counts))
    for name in ("P@1", "P@3", "P@5"):
        assert math.fsum(by_decile[name]) == pytest.approx(whole[name], abs=1e-12)  # type: ignore[arg-type]
    groups = quality_by_group(labels, truth, np.array(counts))
    assert tuple(groups) == BY_GROUP
    known = math.fsum(groups[f"P@5_{name}"] or 0.0 for name in ("head", "torso", "tail"))
    assert known + (by_decile["P@5"][0] or 0.0) == pytest.approx(whole["P@5"], abs=1e-12)


def test_head_torso_and_tail_by_hand() -> None:
    counts = np.array([101, 100, 6, 5, 1, 0])  # head, torso, torso, tail, tail, unseen
    true = csr([{0, 3}, {1, 2, 4}, set()], 6)
    found = quality_by_group(np.array([[0, 3, 5, 1, 2], [5, 4, 3, 1, 0], [0, 1, 2, 3, 4]]), true, counts)
    assert found["P@1_head"] == pytest.approx(1 / 3)
    assert found["P@1_torso"] == found["P@1_tail"] == 0.0
    assert found["P@5_head"] == pytest.approx(1 / 15)
    assert found["P@5_torso"] == pytest.approx(1 / 15)
    assert found["P@5_tail"] == pytest.approx(2 / 15)
    assert (found["R@5_head"], found["R@5_torso"], found["R@5_tail"]) == (1.0, 0.5, 1.0)


def test_a_group_without_pairs_has_no_recall() -> None:
    found = quality_by_group(np.array([[0]]), csr([{0}], 2), np.array([101, 3]))
    assert found["R@5_tail"] is None
    assert found["P@5_tail"] == 0.0


def test_deciles_hold_a_tenth_of_the_pairs_each() -> None:
    bins = decile_of_labels(np.ones(100, dtype=np.int64))
    assert np.bincount(bins).tolist() == [0] + [10] * 10
    assert bins.tolist() == sorted(bins.tolist())  # equals in order of id
    assert decile_of_labels(np.array([0, 0])).tolist() == [0, 0]
    assert decile_of_labels(np.array([1, 98, 1])).tolist() == [1, 6, 1]  # 98 of the 100 pairs, their middle the 51st
