"""MACH's unbiased estimator over tables that the hash families really draw, from exact bucket probabilities.

Every test states its tolerance in standard errors of the mean or of the variance, estimated from the same draws; the
seeds are fixed, so a failure is a change and not bad luck.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from mach.hashing.families import hash_labels
from mach.theory.collisions import estimator_variance

Floats = npt.NDArray[np.float64]
DRAWS, R, B = 6_000, 2, 8
ERRORS = 4.5  # standard errors; 40 labels and two moments a test make 3 an everyday event


def probabilities(n_labels: int = 40) -> Floats:
    return np.random.default_rng(0).dirichlet(np.ones(n_labels))


def estimates(family: str, p: Floats, ids: npt.NDArray[np.int64]) -> Floats:
    """The estimate of each of ``p``, the probabilities of the labels ``ids``, from DRAWS tables: [DRAWS, len(ids)]."""
    lookup = hash_labels(int(ids.max()) + 1, B, R * DRAWS, family=family, seed=1)[:, ids]
    bucket = ((lookup[:, :, None] == np.arange(B)) * p[:, None]).sum(axis=1)  # the oracle: [R · DRAWS, B]
    mean = np.take_along_axis(bucket, lookup.astype(np.int64), axis=1).reshape(DRAWS, R, -1).mean(axis=1)
    return np.asarray(B / (B - 1) * (mean - 1 / B))


def away(found: Floats, mean: Floats, variance: Floats) -> tuple[Floats, Floats]:
    """How many standard errors the mean and the variance of ``found`` [draws, n] are from what is expected."""
    spread = found.var(axis=0, ddof=1)
    fourth = ((found - found.mean(axis=0)) ** 4).mean(axis=0)
    return (
        (found.mean(axis=0) - mean) / np.sqrt(spread / len(found)),
        (spread - variance) / np.sqrt((fourth - spread**2) / len(found)),
    )


def balanced_moments(p: Floats) -> tuple[Floats, Floats]:
    """Exact mean and variance of the estimate when the labels are all of a random permutation cut into B buckets."""
    K = len(p)
    sizes = np.bincount(np.arange(K) % B)
    two = (sizes * (sizes - 1)).sum() / (K * (K - 1))  # chance that two labels share a bucket
    three = (sizes * (sizes - 1) * (sizes - 2)).sum() / (K * (K - 1) * (K - 2))
    squares = (p**2).sum() - p**2
    mean = B / (B - 1) * (p + (1 - p) * two - 1 / B)
    variance = squares * two + ((1 - p) ** 2 - squares) * three - ((1 - p) * two) ** 2
    return mean, (B / (B - 1)) ** 2 / R * variance


def spread_ids(n: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(1).choice(5_000, n, replace=False)


@pytest.mark.parametrize("ids", [np.arange(40), spread_ids(40)], ids=["consecutive", "spread"])
@pytest.mark.parametrize("family", ["murmur3", "universal"])
def test_no_bias(family: str, ids: npt.NDArray[np.int64]) -> None:
    p = probabilities()
    bias, _ = away(estimates(family, p, ids), p, estimator_variance(p, B, R))
    assert np.abs(bias).max() < ERRORS


@pytest.mark.parametrize(
    ("family", "ids"), [("murmur3", np.arange(40)), ("murmur3", spread_ids(40)), ("universal", spread_ids(40))]
)
def test_variance_is_the_formula(family: str, ids: npt.NDArray[np.int64]) -> None:
    p = probabilities()
    _, excess = away(estimates(family, p, ids), p, estimator_variance(p, B, R))
    assert np.abs(excess).max() < ERRORS


def test_universal_varies_more_on_consecutive_ids() -> None:
    """If 1 and 2 share a bucket, 2 and 3 are likely to: the variance of every label is above the formula."""
    p = probabilities()
    _, excess = away(estimates("universal", p, np.arange(40)), p, estimator_variance(p, B, R))
    assert excess.min() > ERRORS


def test_balanced_has_its_own_exact_moments() -> None:
    """40 labels in buckets of 5: two labels meet with chance 4/39, not 1/8, which biases the estimate downwards."""
    p = probabilities()
    found = estimates("balanced", p, np.arange(40))
    bias, excess = away(found, *balanced_moments(p))
    assert np.abs(bias).max() < ERRORS
    assert np.abs(excess).max() < ERRORS
    naive, smaller = away(found, p, estimator_variance(p, B, R))
    assert naive.max() < -ERRORS
    assert smaller.max() < -ERRORS


def test_balanced_is_unbiased_where_buckets_hold_many_labels() -> None:
    """Five thousand labels in 8 buckets, forty with probability: the formulae hold."""
    p = probabilities()
    ids = np.append(spread_ids(40), 5_000 - 1)
    weights = np.append(p, 0.0)
    bias, excess = away(estimates("balanced", weights, ids), weights, estimator_variance(weights, B, R))
    assert np.abs(bias).max() < ERRORS
    assert np.abs(excess).max() < ERRORS
