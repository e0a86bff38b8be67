"""The theory of MACH against plain counting, exhaustive enumeration and exact distributions."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mach.hashing.families import hash_labels
from mach.theory.collisions import (
    bucket_loads,
    estimator_variance,
    expected_loads,
    expected_unresolved_pairs,
    parameters,
    repetitions_needed,
    unresolved_pairs,
)


def unresolved_pairs_reference(lookup: np.ndarray) -> list[int]:
    """Compare every pair of labels over every prefix of repetitions."""
    R, n_labels = lookup.shape
    pairs = list(itertools.combinations(range(n_labels), 2))
    return [
        sum(all(lookup[r, i] == lookup[r, j] for r in range(prefix)) for i, j in pairs) for prefix in range(1, R + 1)
    ]


@settings(deadline=None)
@given(R=st.integers(0, 4), n_labels=st.integers(0, 12), B=st.integers(1, 5), seed=st.integers(0, 2**32 - 1))
def test_unresolved_pairs_equals_plain_counting(R: int, n_labels: int, B: int, seed: int) -> None:
    lookup = np.random.default_rng(seed).integers(0, B, (R, n_labels), dtype=np.int32)
    before = lookup.copy()
    found = unresolved_pairs(lookup)
    assert found.dtype == np.int64
    assert found.tolist() == unresolved_pairs_reference(lookup)
    np.testing.assert_array_equal(lookup, before)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_unresolved_pairs_of_any_table(dtype: type) -> None:
    """More labels and groups than a property test has, every width of integer, and tables that are views."""
    lookup = np.random.default_rng(1).integers(0, 6, (4, 300)).astype(dtype)
    expected = unresolved_pairs_reference(lookup)
    assert unresolved_pairs(lookup).tolist() == expected
    assert unresolved_pairs(np.asfortranarray(lookup)).tolist() == expected
    assert unresolved_pairs(np.repeat(lookup, 2, axis=1)[:, ::2]).tolist() == expected
    lookup.flags.writeable = False
    assert unresolved_pairs(lookup).tolist() == expected


def test_unresolved_pairs_by_hand() -> None:
    """{0,1,2} {3,4} share a bucket first: 3 + 1 pairs; then only 0 and 1 still do: 1; then nobody."""
    lookup = np.array([[0, 0, 0, 1, 1], [2, 2, 0, 1, 0], [0, 1, 0, 0, 0]])
    assert unresolved_pairs(lookup).tolist() == [4, 1, 0]
    assert unresolved_pairs(lookup[[2, 1, 0]]).tolist() == [6, 1, 0]


def test_unresolved_pairs_at_scale_stay_exact() -> None:
    """All labels in one bucket: K(K−1)/2 exceeds 32 bits; the last repetition sets every label apart."""
    n_labels = 200_000
    lookup = np.zeros((3, n_labels), dtype=np.int32)
    lookup[2] = np.arange(n_labels)
    everything = n_labels * (n_labels - 1) // 2
    assert unresolved_pairs(lookup).tolist() == [everything, everything, 0]


def test_measured_pairs_follow_the_expectation() -> None:
    """Independent uniform buckets: the count's standard deviation is about the root of its expectation."""
    K, B = 20_000, 64
    found = unresolved_pairs(np.random.default_rng(0).integers(0, B, (4, K)))
    for r in range(1, 5):
        expected = expected_unresolved_pairs(K, B, r)
        assert abs(found[r - 1] - expected) < 6 * math.sqrt(expected)


@pytest.mark.parametrize(
    "lookup", [np.zeros(3, dtype=int), np.zeros((2, 3)), np.array([[0, -1]]), np.array([[0, 2**31]])]
)
def test_unresolved_pairs_refuses(lookup: np.ndarray) -> None:
    with pytest.raises(ValueError, match="lookup"):
        unresolved_pairs(lookup)


def test_expected_pairs_by_hand() -> None:
    assert expected_unresolved_pairs(5, 3, 0) == 10
    assert expected_unresolved_pairs(5, 3, 2) == pytest.approx(10 / 9)
    assert expected_unresolved_pairs(1, 3, 2) == expected_unresolved_pairs(0, 3, 2) == 0


def test_expected_pairs_of_amazon_670k() -> None:
    """670,091 labels in 10,000 buckets: about 2.2e7, 2.2e3, 0.22 and 2e-5 pairs after 1 to 4 repetitions."""
    found = [expected_unresolved_pairs(670_091, 10_000, R) for R in (1, 2, 3, 4)]
    assert found == pytest.approx([2.245e7, 2.245e3, 0.2245, 2.245e-5], rel=1e-3)


def test_expectation_over_all_hash_functions() -> None:
    """The mean over every possible table of 4 labels, 2 buckets and 2 repetitions is exactly the formula."""
    tables = [np.array(cells).reshape(2, 4) for cells in itertools.product(range(2), repeat=8)]
    mean = np.mean([unresolved_pairs(table) for table in tables], axis=0)
    np.testing.assert_allclose(mean, [expected_unresolved_pairs(4, 2, r) for r in (1, 2)], rtol=1e-12)


@pytest.mark.parametrize("R", [2, 3, 4])
def test_linear_cost_exponential_resolution(R: int) -> None:
    """Three buckets and 2, 3, 4 repetitions: 6, 9, 12 outputs give 9, 27, 81 labels their own codes."""
    B, codes = 3, 3**R
    outputs = parameters(1, 1, B, R, codes)["params_output"] // 2  # a weight and a bias for each output
    assert (outputs, codes) == {2: (6, 9), 3: (9, 27), 4: (12, 81)}[R]
    digits = np.array([[label // B**r % B for label in range(codes)] for r in range(R)])
    left = unresolved_pairs(digits)
    assert left[-1] == 0
    assert (left[:-1] > 0).all()
    one_more = np.concatenate([digits, digits[:, :1]], axis=1)
    assert unresolved_pairs(one_more)[-1] == 1


def test_repetitions_needed_invert_the_union_bound() -> None:
    for K, B, delta in [(105_033, 32, 0.01), (670_091, 10_000, 0.01), (100, 3, 0.5)]:
        R = repetitions_needed(K, B, delta)
        assert math.isclose(K**2 * B**-R, delta, rel_tol=1e-9)
        assert expected_unresolved_pairs(K, B, math.ceil(R)) <= delta
    assert repetitions_needed(105_033, 32, 0.01) == pytest.approx(8.0, abs=0.05)
    assert repetitions_needed(670_091, 10_000, 0.01) == pytest.approx(3.4, abs=0.05)


@settings(deadline=None, max_examples=20)
@given(weights=st.lists(st.integers(0, 9), min_size=3, max_size=4).filter(any), B=st.integers(2, 3))
def test_estimator_over_all_hash_functions(weights: list[int], B: int) -> None:
    """Over every hash function the estimate is unbiased and has the stated variance, for R = 1 and R = 2."""
    p = np.array(weights) / sum(weights)
    single = []
    for buckets in itertools.product(range(B), repeat=len(p)):
        mass = np.bincount(buckets, weights=p, minlength=B)
        single.append(B / (B - 1) * (mass[list(buckets)] - 1 / B))
    estimates = np.array(single)
    np.testing.assert_allclose(estimates.mean(axis=0), p, atol=1e-12)
    np.testing.assert_allclose(estimates.var(axis=0), estimator_variance(p, B, 1), atol=1e-12)
    two = ((estimates[:, None] + estimates[None]) / 2).reshape(-1, len(p))
    np.testing.assert_allclose(two.var(axis=0), estimator_variance(p, B, 2), atol=1e-12)


def test_estimator_variance_shapes_and_edges() -> None:
    assert estimator_variance([1.0, 0.0], 2, 1).tolist() == [0.0, 1.0]
    p = np.random.default_rng(0).dirichlet(np.ones(6), size=(2, 3))
    found = estimator_variance(p, 8, 4)
    assert found.shape == (2, 3, 6)
    np.testing.assert_array_equal(found[1, 2], estimator_variance(p[1, 2], 8, 4))


def test_loads_by_hand_and_by_plain_counting() -> None:
    lookup = np.array([[0, 2, 2, 0, 2], [1, 1, 1, 1, 1]], dtype=np.uint16)
    assert bucket_loads(lookup, 3).tolist() == [[2, 0, 3], [0, 5, 0]]
    assert bucket_loads(lookup[:, :0], 3).tolist() == [[0, 0, 0], [0, 0, 0]]
    assert bucket_loads(lookup[:0], 3).shape == (0, 3)


@settings(deadline=None)
@given(K=st.integers(0, 3000), B=st.integers(1, 300), R=st.integers(1, 50), delta=st.floats(1e-6, 0.5))
def test_expected_loads_against_the_binomial(K: int, B: int, R: int, delta: float) -> None:
    """Mean and sd are the binomial's; its exact tail above the bound, times R·B buckets, stays within delta."""
    found = expected_loads(K, B, R, delta)
    load = stats.binom(K, 1 / B)
    assert found["mean"] == pytest.approx(load.mean())
    assert found["sd"] == pytest.approx(load.std(), abs=1e-9)
    assert R * B * load.sf(found["max_bound"]) <= delta


def test_measured_loads_follow_the_expectation() -> None:
    """Amazon-670K's labels in 10,000 buckets by murmur3, 8 tables: sd within 5 %, none above the bound."""
    loads = bucket_loads(hash_labels(670_091, 10_000, 8, family="murmur3"), 10_000)
    expected = expected_loads(670_091, 10_000, 8)
    assert (loads.sum(axis=1) == 670_091).all()
    np.testing.assert_allclose(loads.std(axis=1), expected["sd"], rtol=0.05)
    assert loads.max() <= expected["max_bound"] < 1.2 * loads.max()


@pytest.mark.parametrize("lookup", [np.zeros(3, dtype=int), np.zeros((2, 3)), np.array([[0, -1]]), np.array([[0, 4]])])
def test_loads_refuse(lookup: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"lookup: found .* expected"):
        bucket_loads(lookup, 4)


@pytest.mark.parametrize(
    "call",
    [
        lambda: expected_unresolved_pairs(-1, 3, 2),
        lambda: expected_unresolved_pairs(5, 0, 2),
        lambda: expected_unresolved_pairs(5, 3, -1),
        lambda: repetitions_needed(0, 3, 0.1),
        lambda: repetitions_needed(5, 1, 0.1),
        lambda: repetitions_needed(5, 3, 0.0),
        lambda: repetitions_needed(5, 3, 1.0),
        lambda: estimator_variance([0.5, 0.5], 1, 1),
        lambda: estimator_variance([0.5, 0.5], 2, 0),
        lambda: estimator_variance([0.5, 0.4], 2, 1),
        lambda: estimator_variance([1.5, -0.5], 2, 1),
        lambda: estimator_variance(1.0, 2, 1),
        lambda: expected_loads(-1, 4),
        lambda: expected_loads(5, 0),
        lambda: expected_loads(5, 4, 0),
        lambda: expected_loads(5, 4, 1, 0.0),
        lambda: expected_loads(5, 4, 1, 1.0),
    ],
)
def test_arguments_out_of_range(call: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        call()  # type: ignore[operator]


def test_imports_no_torch() -> None:
    code = "import sys, mach.theory.collisions; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
