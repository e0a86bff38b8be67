from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mach.decode import ESTIMATORS, TILE, top_k, top_k_prefixes
from mach.hashing import hash_labels


@settings(max_examples=60, deadline=None)
@given(
    n_points=st.integers(1, 40),
    n_labels=st.sampled_from([1, 2, 5, TILE - 1, TILE, TILE + 1, 300]),
    B=st.integers(1, 12),
    R=st.integers(1, 6),
    k=st.integers(1, 8),
    levels=st.sampled_from([1, 2, 1000]),
    seed=st.integers(0, 1000),
)
def test_scan_equals_reference(n_points: int, n_labels: int, B: int, R: int, k: int, levels: int, seed: int) -> None:
    """Random and heavily tied scores, fewer labels than k, one point, one bucket: scores and ids bit for bit."""
    rng = np.random.default_rng(seed)
    scores = (rng.integers(-levels, levels, size=(n_points, R, B)) / 7).astype(np.float32)
    lookup = hash_labels(n_labels, B, R, seed=seed)
    prefixes = sorted(set(rng.integers(1, R + 1, size=R).tolist()))
    fast = top_k_prefixes(scores, lookup, k, prefixes)
    plain = top_k_prefixes(scores, lookup, k, prefixes, method="reference")
    np.testing.assert_array_equal(fast[1], plain[1])
    np.testing.assert_array_equal(fast[0], plain[0])


@pytest.mark.parametrize("B", [1024, 3000, 20_000])
def test_every_block_width_equals_reference(B: int) -> None:
    """Larger tables ride with fewer points at a time; each width is a kernel of its own."""
    rng = np.random.default_rng(B)
    scores = rng.normal(size=(37, 40, B)).astype(np.float32)
    lookup = hash_labels(700, B, 40, seed=1)
    fast, plain = (top_k(scores, lookup, 5, method=method) for method in ("scan", "reference"))
    np.testing.assert_array_equal(fast[1], plain[1])
    np.testing.assert_array_equal(fast[0], plain[0])


def test_ties_go_to_the_lowest_label() -> None:
    scores = np.array([[[0.0, 1.0]]], dtype=np.float32)
    lookup = np.array([[0, 1, 0, 1, 1]], dtype=np.uint16)
    assert top_k(scores, lookup, 4)[1].tolist() == [[1, 3, 4, 0]]


def test_fewer_labels_than_k_leave_room() -> None:
    found, labels = top_k(np.array([[[-3.0]]], dtype=np.float32), np.zeros((1, 2), dtype=np.uint16), 4)
    assert labels.tolist() == [[0, 1, -1, -1]]
    assert found.tolist() == [[-3.0, -3.0, -np.inf, -np.inf]]


def test_prefix_equals_decoding_the_first_repetitions() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(20, 6, 16)).astype(np.float32)
    lookup = hash_labels(200, 16, 6)
    found, labels = top_k_prefixes(scores, lookup, 5, [1, 2, 3, 4, 5, 6])
    for R in range(1, 7):
        alone = top_k(scores[:, :R], lookup[:R], 5)
        np.testing.assert_array_equal(labels[R - 1], alone[1])
        np.testing.assert_array_equal(found[R - 1], alone[0])


def test_mean_divides_by_the_repetitions() -> None:
    scores = np.array([[[0.25, 0.5], [0.75, 0.0]]], dtype=np.float32)
    lookup = np.array([[0, 1], [0, 1]], dtype=np.uint16)
    found, labels = top_k(scores, lookup, 2, estimator="mean")
    assert labels.tolist() == [[0, 1]]
    assert found.tolist() == [[0.5, 0.25]]
    assert set(ESTIMATORS) >= {"logit_sum", "mean"}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_numbers_are_refused(bad: float) -> None:
    scores = np.zeros((2, 1, 3), dtype=np.float32)
    scores[1, 0, 2] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        top_k(scores, np.zeros((1, 4), dtype=np.uint16), 2)


def test_arguments_that_do_not_fit_are_refused() -> None:
    scores, lookup = np.zeros((2, 3, 4), dtype=np.float32), np.zeros((3, 9), dtype=np.uint16)
    for arguments, message in [
        ((scores, lookup[:2], 1), "do not fit"),
        ((scores, lookup, 0), "k must be"),
        ((scores, lookup + 4, 1), "names bucket 4"),
    ]:
        with pytest.raises(ValueError, match=message):
            top_k(*arguments)
    with pytest.raises(ValueError, match="prefixes"):
        top_k_prefixes(scores, lookup, 1, [3, 2])
    with pytest.raises(ValueError, match="unknown estimator"):
        top_k(scores, lookup, 1, estimator="max")
