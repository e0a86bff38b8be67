"""Metrics against other libraries' values, hand-worked cases, and the plain reference."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from bench.common.errors import InputError
from bench.metrics.ranking import best_weight_sums, evaluate, evaluate_points, hits, inverse_propensity
from bench.metrics.ranking_reference import evaluate_reference, inverse_propensity_reference

GOLDEN = Path(__file__).resolve().parents[2] / "data_golden"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
KS = (1, 2, 3, 4, 5)


def golden(case: str) -> tuple[np.ndarray, sparse.csr_matrix, sparse.csr_matrix]:
    """Ranked ids, true labels and train labels of a golden case."""
    with np.load(GOLDEN / f"{case}_topk.npz", allow_pickle=False) as archive:
        labels = archive["labels"]
    true = sparse.load_npz(GOLDEN / f"{case}_true_labels.npz")
    return labels, true, sparse.load_npz(GOLDEN / "train_labels.npz")


def csr(rows: list[set[int]], n_labels: int) -> sparse.csr_matrix:
    """A label matrix from a set of labels for each point."""
    indptr = np.cumsum([0, *map(len, rows)])
    indices = np.array([label for row in rows for label in sorted(row)], dtype=np.int32)
    return sparse.csr_matrix((np.ones(len(indices)), indices, indptr), shape=(len(rows), n_labels))


@pytest.mark.parametrize("case", sorted(EXPECTED))
def test_equals_other_libraries(case: str) -> None:
    labels, true, train = golden(case)
    expected = EXPECTED[case]
    found = evaluate(labels, true, train, A=expected["A"], B=expected["B"], ks=KS)
    for library in ("pyxclib", "napkinxc"):
        for metric in ("P", "nDCG", "PSP", "R"):
            ours = [found[f"{metric}@{k}"] for k in KS]
            np.testing.assert_allclose(ours, expected[library][f"{metric}@k"], rtol=0, atol=1e-6)
    ours = [found[f"minP@{k}"] for k in KS]
    np.testing.assert_allclose(ours, expected["min_normalised"]["P@k"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", sorted(EXPECTED))
def test_what_points_add_has_the_metrics_as_its_mean(case: str) -> None:
    """With denominators of PSP worked out beforehand, or not."""
    labels, true, train = golden(case)
    weights = inverse_propensity(train)
    expected = evaluate(labels, true, weights, ks=KS)
    for best in (None, best_weight_sums(true, weights, max(KS))):
        found = evaluate_points(labels, true, weights, ks=KS, best_sums=best)
        assert found.keys() == expected.keys()
        for name, values in found.items():
            assert values.shape == (len(labels),)
            assert values.mean() == pytest.approx(expected[name], abs=1e-12)
    doubled = evaluate_points(labels, true, weights, ks=KS, best_sums=2 * best_weight_sums(true, weights, max(KS)))
    assert doubled["PSP@5"].mean() == pytest.approx(expected["PSP@5"] / 2, abs=1e-12)


@pytest.mark.parametrize("case", sorted(EXPECTED))
def test_hits_are_what_precision_counts(case: str) -> None:
    labels, true, _ = golden(case)
    right = hits(labels, true)
    assert right.dtype == np.bool_
    assert right.shape == labels.shape
    found = evaluate(labels, true)
    assert right[:, :3].sum(axis=1).mean() / 3 == pytest.approx(found["P@3"], abs=1e-12)


def test_names_and_their_order() -> None:
    labels, true, train = golden("typical")
    names = [f"{metric}@{k}" for metric in ("P", "nDCG", "PSP", "R", "minP") for k in (1, 3, 5)]
    assert list(evaluate(labels, true, train)) == names
    assert all(type(value) is float for value in evaluate(labels, true, train).values())
    without = evaluate(labels, true)
    assert list(without) == [name for name in names if not name.startswith("PSP")]


@pytest.mark.parametrize("case", sorted(EXPECTED))
def test_at_one_the_two_normalisations_agree(case: str) -> None:
    labels, true, _ = golden(case)
    found = evaluate(labels, true)
    assert found["minP@1"] == found["P@1"] == found["nDCG@1"]
    assert found["minP@5"] > found["P@5"]


def test_worked_by_hand() -> None:
    """Three points: two labels of which one is found at rank 2; none; four labels found at ranks 1 and 3."""
    true = csr([{0, 5}, set(), {1, 2, 3, 4}], 6)
    labels = np.array([[3, 5, 1], [0, 1, 2], [1, 0, 4]])
    weights = np.array([10.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    found = evaluate(labels, true, weights, ks=(1, 3))
    at = [1 / math.log2(rank + 1) for rank in (1, 2, 3)]
    assert found["P@1"] == pytest.approx(1 / 3)
    assert found["P@3"] == pytest.approx((1 / 3 + 0 + 2 / 3) / 3)
    assert found["minP@3"] == pytest.approx((1 / 2 + 0 + 2 / 3) / 3)
    assert found["R@3"] == pytest.approx((1 / 2 + 0 + 2 / 4) / 3)
    assert found["nDCG@3"] == pytest.approx((at[1] / (at[0] + at[1]) + (at[0] + at[2]) / sum(at)) / 3)
    assert found["PSP@1"] == pytest.approx(1.0 / (10.0 + 4.0))
    assert found["PSP@3"] == pytest.approx((5.0 + 1.0 + 4.0) / (15.0 + 9.0))


def test_missing_predictions_are_wrong() -> None:
    true = csr([{0, 1}, {2}], 4)
    short = evaluate(np.array([[0], [2]]), true, np.ones(4), ks=(1, 3))
    padded = evaluate(np.array([[0, -1, -1], [2, -1, -1]]), true, np.ones(4), ks=(1, 3))
    assert short == padded
    assert short["P@3"] == pytest.approx(1 / 3)
    assert evaluate(np.array([[-1, 0], [-1, 2]]), true)["P@1"] == 0.0
    assert set(evaluate(np.empty((2, 0), dtype=np.int64), true, np.ones(4)).values()) == {0.0}


def test_no_prediction_never_reads_the_last_label() -> None:
    true = csr([{3}, {3}], 4)
    assert not hits(np.full((2, 2), -1), true).any()


def test_no_point_has_a_label() -> None:
    true = csr([set(), set()], 3)
    found = evaluate(np.array([[0, 1], [2, 1]]), true, np.ones(3))
    assert set(found.values()) == {0.0}


def test_fewer_labels_than_k() -> None:
    true = csr([{0, 1}], 2)
    found = evaluate(np.array([[1, 0]]), true, np.ones(2))
    assert found["P@5"] == pytest.approx(2 / 5)
    assert found["minP@5"] == found["nDCG@5"] == found["R@5"] == found["PSP@5"] == 1.0


def test_explicit_zeros_and_duplicates() -> None:
    """Row 0 mentions label 1 twice, as 1 and -1, and label 2 with the value 0: it has exactly label 1."""
    entries = (
        np.array([1.0, -1.0, 0.0]),
        np.array([1, 1, 2], dtype=np.int32),
        np.array([0, 3], dtype=np.int32),
    )
    untidy = sparse.csr_matrix(entries, shape=(1, 4))
    clean = csr([{1}], 4)
    labels = np.array([[2, 1, 3]])
    assert evaluate(labels, untidy, np.ones(4)) == evaluate(labels, clean, np.ones(4))
    assert hits(labels, untidy).tolist() == [[False, True, False]]
    thrice = sparse.vstack([untidy] * 3).tocsr()
    np.testing.assert_array_equal(inverse_propensity(thrice), inverse_propensity(csr([{1}] * 3, 4)))


def test_inputs_are_not_modified() -> None:
    entries = np.array([1.0, 1.0, 0.0, 1.0]), np.array([3, 1, 2, 1]), np.array([0, 4])
    matrix = sparse.csr_matrix(entries, shape=(1, 4))
    train = sparse.vstack([matrix] * 4).tocsr()
    labels, weights = np.array([[2, 1, 3]]), np.array([1.0, 2.0, 3.0, 4.0])
    before = [array.copy() for m in (matrix, train) for array in (m.data, m.indices, m.indptr)]
    evaluate(labels, matrix, train)
    evaluate(labels, matrix, weights)
    hits(labels, matrix)
    inverse_propensity(train)
    after = [array for m in (matrix, train) for array in (m.data, m.indices, m.indptr)]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)
        assert old.dtype == new.dtype
    assert labels.tolist() == [[2, 1, 3]]
    assert weights.tolist() == [1.0, 2.0, 3.0, 4.0]


def test_sparse_arrays_and_small_integers_are_welcome() -> None:
    labels, true, train = golden("typical")
    expected = evaluate(labels, true, train)
    assert evaluate(labels.astype(np.int16), sparse.csr_array(true), sparse.csr_array(train)) == expected
    assert evaluate(labels.astype(np.uint64), true.astype(np.bool_), train) == expected


GOOD = np.array([[0, 1], [2, 1]])
TRUE = csr([{0}, {1, 2}], 3)


def malformed() -> sparse.csr_matrix:
    """A label matrix whose last id lies outside, as scipy lets it be built."""
    matrix = csr([{0}, {1, 2}], 3)
    matrix.indices[-1] = 7
    return matrix


@pytest.mark.parametrize(
    ("labels", "true", "train", "message"),
    [
        (np.array([[0, 1], [2, 2]]), TRUE, None, "row 1: found label 2 more than once"),
        (np.array([[0, 1], [3, 1]]), TRUE, None, "row 1, column 0: found id 3; expected 0 to 2"),
        (np.array([[0, -2], [2, 1]]), TRUE, None, "row 0, column 1: found id -2"),
        (np.array([[0.0, 1.0], [2.0, 1.0]]), TRUE, None, "float64"),
        (np.array([[0, 1]]), TRUE, None, r"expected integers \[2, k\]"),
        (np.array([0, 1]), TRUE, None, "expected integers"),
        (GOOD, TRUE.toarray(), None, "expected a scipy CSR matrix"),
        (GOOD, TRUE.tocsc(), None, "expected a scipy CSR matrix"),
        (GOOD, malformed(), None, "true labels: found a malformed CSR matrix"),
        (np.empty((0, 2), dtype=int), sparse.csr_matrix((0, 3)), None, "at least one point"),
        (GOOD, TRUE, csr([{0}] * 4, 4), "found 4 labels; expected 3"),
        (GOOD, TRUE, csr([{0}] * 2, 3), "found 2 points; expected at least 3"),
        (GOOD, TRUE, np.ones(4), r"expected numbers \[3\]"),
        (GOOD, TRUE, np.array(["a", "b", "c"]), "expected numbers"),
        (GOOD, TRUE, np.array([1.0, np.nan, 1.0]), "of label 1: found nan"),
        (GOOD, TRUE, np.array([1.0, 1.0, 0.0]), "of label 2: found 0.0"),
    ],
)
def test_bad_input_is_named(labels: object, true: object, train: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(labels, true, train)  # type: ignore[arg-type]


@pytest.mark.parametrize("ks", [(), (0,), (1, -1), (1.0,), (True,)])
def test_bad_cut_offs(ks: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="cut-offs"):
        evaluate(GOOD, TRUE, ks=ks)


@pytest.mark.parametrize(("A", "B"), [(0.0, 1.5), (0.55, -1.0), (math.nan, 1.5), (0.55, math.inf)])
def test_bad_propensity_constants(A: float, B: float) -> None:
    with pytest.raises(InputError, match="propensity constants"):
        evaluate(GOOD, TRUE, csr([{0}] * 4, 3), A=A, B=B)


def test_propensity_is_larger_for_frequent_labels() -> None:
    weights = inverse_propensity(csr([{0, 1}, {0, 1}, {0, 2}, {0}], 4))
    assert weights.dtype == np.float64
    assert (np.diff(weights) > 0).tolist() == [True, True, True]  # seen 4, 2, 1 and 0 times
    assert (weights > 1).all()


@st.composite
def rankings(draw: st.DrawFn) -> tuple[np.ndarray, list[set[int]], int]:
    """Points with any number of labels, even none, and rows of distinct predictions with gaps anywhere."""
    n_points, n_labels, width = draw(st.integers(1, 5)), draw(st.integers(1, 7)), draw(st.integers(0, 7))
    label = st.integers(0, n_labels - 1)
    true = draw(st.lists(st.sets(label), min_size=n_points, max_size=n_points))
    rows = []
    for _ in range(n_points):
        ids = draw(st.permutations(range(n_labels)))[:width]
        kept = draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))
        row = [i if keep else -1 for i, keep in zip(ids, kept, strict=True)]
        rows.append(row + [-1] * (width - len(row)))
    return np.array(rows, dtype=np.int64).reshape(n_points, width), true, n_labels


@settings(deadline=None, max_examples=200)
@given(case=rankings(), seed=st.integers(0, 2**32 - 1))
def test_equals_the_plain_reference(case: tuple[np.ndarray, list[set[int]], int], seed: int) -> None:
    labels, true, n_labels = case
    # Few distinct weights, so that labels often weigh the same.
    weights = np.random.default_rng(seed).integers(1, 4, n_labels).astype(np.float64)
    found = evaluate(labels, csr(true, n_labels), weights, ks=(1, 2, 3, 5, 8))
    expected = evaluate_reference(labels.tolist(), true, weights.tolist(), ks=(1, 2, 3, 5, 8))
    assert found == pytest.approx(expected, rel=0, abs=1e-12)
    assert all(0.0 <= value <= 1.0 + 1e-12 for value in found.values())
    right = [[label in row for label in ranked] for ranked, row in zip(labels.tolist(), true, strict=True)]
    assert hits(labels, csr(true, n_labels)).tolist() == right


@settings(deadline=None)
@given(
    train=st.lists(st.sets(st.integers(0, 5)), min_size=3, max_size=12),
    A=st.floats(0.1, 1.0),
    B=st.floats(0.1, 5.0),
)
def test_propensity_equals_the_plain_reference(train: list[set[int]], A: float, B: float) -> None:
    expected = inverse_propensity_reference(train, 6, A, B)
    np.testing.assert_allclose(inverse_propensity(csr(train, 6), A, B), expected, rtol=1e-12)


def test_many_points_do_not_overflow() -> None:
    """Row times label exceeds 32 bits: the last point of 3,000 with 2,000,000 labels is still found."""
    n_points, n_labels = 3_000, 2_000_000
    ids = np.arange(n_points, dtype=np.int32)[::-1] * 600
    indptr = np.arange(n_points + 1, dtype=np.int32)
    true = sparse.csr_matrix((np.ones(n_points), ids, indptr), shape=(n_points, n_labels))
    assert evaluate(ids[:, None], true)["P@1"] == 1.0
    assert evaluate(ids[:, None] + 1, true)["P@1"] == 0.0


def test_cross_check_with_pyxclib() -> None:
    """Optional: fresh random rankings through the field's own evaluator, where it is installed."""
    xc_metrics = pytest.importorskip("xclib.evaluation.xc_metrics")
    rng = np.random.default_rng(0)
    true, train = (csr([set(rng.integers(0, 50, 4).tolist()) for _ in range(n)], 50) for n in (200, 500))
    labels = np.argsort(rng.random((200, 50)), axis=1)[:, :5]
    weights = xc_metrics.compute_inv_propesity(train, 0.55, 1.5)
    found = evaluate(labels, true, train, ks=KS)
    for name, theirs in {
        "P": xc_metrics.precision(labels, true, k=5, sorted=True),
        "nDCG": xc_metrics.ndcg(labels, true, k=5, sorted=True),
        "PSP": xc_metrics.psprecision(labels, true, weights, k=5, sorted=True),
        "R": xc_metrics.recall(labels, true, k=5, sorted=True),
    }.items():
        np.testing.assert_allclose([found[f"{name}@{k}"] for k in KS], theirs, rtol=0, atol=1e-6)


def test_imports_neither_torch_nor_pandas() -> None:
    code = "import sys, bench.metrics.ranking; sys.exit(bool({'torch', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
