from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.parts.samplers import SAMPLERS, Draws, InBatch, Sampler, log_inclusion, make_sampler

N_LABELS = 40


def labels_of(n_points: int, seed: int = 0) -> sp.csr_matrix:
    """Frequent labels have high ids; the last label and the first point have nothing."""
    dense = np.random.default_rng(seed).random((n_points, N_LABELS)) < np.linspace(0.02, 0.4, N_LABELS)
    dense[0], dense[:, -1] = False, False
    return sp.csr_matrix(dense.astype(np.float32))


def sampler_of(name: str, labels: sp.csr_matrix, **changed: object) -> Sampler:
    arguments = {"n_samples": 30, "alpha": 0.7, "label_order": "frequency", "seed": 3} | changed
    return make_sampler(name, labels, **arguments)


@pytest.mark.parametrize("name", ["unigram", "uniform", "log_uniform"])
def test_inclusion_probability_is_that_of_the_draws(name: str) -> None:
    sampler = sampler_of(name, labels_of(50))
    seen = np.zeros(N_LABELS)
    for _ in range(4000):
        seen[sampler.sample(labels_of(1))] += 1
    expected = np.exp(sampler.log_inclusion(np.arange(N_LABELS), 1))
    spread = np.sqrt(expected * (1 - expected) / 4000)
    assert np.all(np.abs(seen / 4000 - expected) < 5 * spread + 1e-12)


@pytest.mark.parametrize("batch_size", [2, 7])
def test_inclusion_probability_is_that_of_a_batch(batch_size: int) -> None:
    """For point 0, which has no labels: how often the other points of its batch bring each label."""
    labels = labels_of(25)
    sampler, rng = sampler_of("in_batch", labels), np.random.default_rng(0)
    seen = np.zeros(N_LABELS)
    for _ in range(4000):
        others = rng.choice(np.arange(1, 25), batch_size - 1, replace=False)
        seen[sampler.sample(labels[np.append(0, others)])] += 1
    counts = np.bincount(labels.indices, minlength=N_LABELS)
    expected = np.exp(sampler.log_inclusion(np.arange(N_LABELS), batch_size))
    spread = np.sqrt(expected * (1 - expected) / 4000)
    assert np.all((np.abs(seen / 4000 - expected) < 5 * spread + 1e-12)[counts > 0])
    assert seen[-1] == 0
    assert expected[-1] == 1.0  # never a negative: nothing to correct


@settings(max_examples=40, deadline=None)
@given(n_train=st.integers(2, 60), batch_size=st.integers(2, 60), frequency=st.integers(1, 59))
def test_in_batch_is_hypergeometric(n_train: int, batch_size: int, frequency: int) -> None:
    batch_size, frequency = min(batch_size, n_train), min(frequency, n_train - 1)
    sampler = InBatch(np.array([frequency, n_train]), n_train)
    found = sampler.log_inclusion(np.array([0]), batch_size)[0]
    others, drawn = n_train - 1, batch_size - 1
    absent = math.comb(others - frequency, drawn) / math.comb(others, drawn)
    assert math.exp(found) == pytest.approx(1 - absent, rel=1e-9)


def test_a_batch_of_one_point_has_nothing_to_correct() -> None:
    assert InBatch(np.array([3, 0]), 10).log_inclusion(np.array([0, 1]), 1).tolist() == [0.0, 0.0]


def test_log_uniform_follows_the_order_of_its_setting() -> None:
    labels = labels_of(50)
    counts = np.bincount(labels.indices, minlength=N_LABELS)
    by_frequency = sampler_of("log_uniform", labels, n_samples=1).log_inclusion(np.arange(N_LABELS), 1)
    by_id = sampler_of("log_uniform", labels, n_samples=1, label_order="id").log_inclusion(np.arange(N_LABELS), 1)
    order = np.argsort(-counts, kind="stable")
    expected = [math.log(math.log((r + 2) / (r + 1)) / math.log(N_LABELS + 1)) for r in range(N_LABELS)]
    np.testing.assert_allclose(by_id, expected, rtol=1e-12)
    np.testing.assert_allclose(by_frequency[order], expected, rtol=1e-12)


def test_unigram_draws_by_train_frequency_to_a_power() -> None:
    labels = labels_of(50)
    weights = np.maximum(np.bincount(labels.indices, minlength=N_LABELS), 1) ** 0.7
    found = np.exp(sampler_of("unigram", labels, n_samples=1).log_inclusion(np.arange(N_LABELS), 1))
    np.testing.assert_allclose(found, weights / weights.sum(), rtol=1e-12)
    flat = sampler_of("unigram", labels, alpha=0.0).log_inclusion(np.arange(N_LABELS), 1)
    np.testing.assert_array_equal(flat, sampler_of("uniform", labels).log_inclusion(np.arange(N_LABELS), 1))


@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_are_distinct_ascending_and_the_same_for_the_same_seed(name: str) -> None:
    labels = labels_of(50)
    ours, theirs = sampler_of(name, labels), sampler_of(name, labels)
    for _ in range(5):
        found = ours.sample(labels[:9])
        assert found.dtype == np.int64
        assert (np.diff(found) > 0).all()
        np.testing.assert_array_equal(found, theirs.sample(labels[:9]))


@settings(max_examples=30, deadline=None)
@given(n_labels=st.integers(1, 30), n_samples=st.integers(1, 100), seed=st.integers(0, 20))
def test_sorted_draws_are_the_distinct_ones_of_plain_draws(n_labels: int, n_samples: int, seed: int) -> None:
    weights = np.random.default_rng(seed).random(n_labels) + 0.01
    probabilities = weights / weights.sum()
    numbers = np.random.Generator(np.random.PCG64(seed)).random(n_samples)
    plain = np.unique(np.minimum(np.searchsorted(np.cumsum(probabilities), numbers, side="right"), n_labels - 1))
    sampler = Draws(probabilities, n_samples, seed)
    np.testing.assert_array_equal(sampler.sample(sp.csr_matrix((1, n_labels))), plain)


def test_log_inclusion_is_accurate_for_rare_labels() -> None:
    assert np.exp(log_inclusion(np.array([1e-12]), 1000))[0] == pytest.approx(1e-9, rel=1e-6)


@pytest.mark.parametrize("wrong", [{"n_samples": 0}, {"label_order": "size"}, {"name": "zipf"}])
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"unknown|at least"):
        sampler_of(**{"name": "unigram", "labels": labels_of(4), **wrong})
