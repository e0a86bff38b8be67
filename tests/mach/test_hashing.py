from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mach.hashing import MERSENNE_31, hash_labels


@given(
    n_labels=st.integers(1, 2000),
    B=st.integers(1, 100_000),
    R=st.integers(1, 5),
    seed=st.integers(0, 2**31 - 1),
)
def test_buckets_are_in_range_and_reproducible(n_labels: int, B: int, R: int, seed: int) -> None:
    lookup = hash_labels(n_labels, B, R, seed=seed)
    assert lookup.shape == (R, n_labels)
    assert lookup.min() >= 0
    assert lookup.max() < B
    assert lookup.dtype == (np.uint16 if B <= 65_536 else np.int32)
    np.testing.assert_array_equal(lookup, hash_labels(n_labels, B, R, seed=seed))


def test_a_smaller_R_is_a_prefix() -> None:
    """What makes the R sweep one run: the table of 3 repetitions starts the table of 7."""
    np.testing.assert_array_equal(hash_labels(500, 64, 7, seed=3)[:3], hash_labels(500, 64, 3, seed=3))


def test_repetitions_and_seeds_differ() -> None:
    lookup = hash_labels(5000, 64, 3, seed=0)
    assert (lookup[0] != lookup[1]).mean() > 0.9
    assert (lookup != hash_labels(5000, 64, 3, seed=1)).mean() > 0.9


def test_universal_is_the_textbook_formula() -> None:
    """Python's unbounded integers against the uint64 arithmetic."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([11, 2])))
    a, b = int(rng.integers(1, MERSENNE_31)), int(rng.integers(0, MERSENNE_31))
    expected = [(a * x + b) % MERSENNE_31 % 97 for x in range(1000)]
    assert hash_labels(1000, 97, 3, seed=11)[2].tolist() == expected


def test_pairs_collide_with_chance_one_in_B() -> None:
    """2-universality over the draw of the function: 4,000 functions, 20 fixed pairs, B = 16."""
    rng = np.random.default_rng(0)
    pairs = np.array([rng.choice(1000, 2, replace=False) for _ in range(20)])
    lookup = hash_labels(1000, 16, 4000, seed=5)
    rate = (lookup[:, pairs[:, 0]] == lookup[:, pairs[:, 1]]).mean(0)
    spread = np.sqrt(1 / 16 * 15 / 16 / 4000)
    assert np.all(np.abs(rate - 1 / 16) < 5 * spread)


@pytest.mark.parametrize(("n_labels", "B", "R"), [(0, 4, 1), (4, 0, 1), (4, 4, 0), (2**31, 4, 1)])
def test_impossible_sizes_are_refused(n_labels: int, B: int, R: int) -> None:
    with pytest.raises(ValueError, match=r"at least 1|covers"):
        hash_labels(n_labels, B, R)


def test_unknown_family_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown hash family 'md5'; known: universal"):
        hash_labels(4, 4, 1, family="md5")
