"""Intervals and tests against scipy, exact enumeration and plain resampling."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bench.common.errors import InputError
from bench.metrics.significance import holm, paired_bootstrap, t_half_width
from bench.metrics.significance_reference import resampled_differences


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12))
@settings(deadline=None)
def test_t_interval_is_scipys(values: list[float]) -> None:
    half = t_half_width(values)
    sem = float(stats.sem(values))
    expected = stats.t.interval(0.95, len(values) - 1, loc=0.0, scale=sem)[1] if sem > 0 else 0.0
    assert half == pytest.approx(float(expected), abs=1e-9)


def test_one_seed_has_no_interval() -> None:
    assert t_half_width([0.5]) is None
    assert t_half_width([]) is None
    assert t_half_width([0.5, 0.5]) == 0.0


@given(st.lists(st.sampled_from([-1.0, -0.6, -0.2, 0.0, 0.2, 0.4, 0.8]), min_size=1, max_size=5))
@settings(deadline=None)
def test_small_cases_equal_the_enumeration_of_all_resamples(differences: list[float]) -> None:
    """n to the n resamples, all equally likely."""
    d, n = np.array(differences), len(differences)
    found = paired_bootstrap(np.zeros(n), d)
    sums = np.array([sum(draw) for draw in itertools.product(differences, repeat=n)])
    assert found.difference == pytest.approx(d.mean())
    assert (found.won, found.lost, found.tied) == ((d > 0).sum(), (d < 0).sum(), (d == 0).sum())
    if found.tied == n:
        assert (found.low, found.high, found.p) == (0.0, 0.0, 1.0)
        return
    for bound, tail in (
        (found.low, (sums < n * found.low - 1e-9).mean()),
        (found.high, (sums > n * found.high + 1e-9).mean()),
    ):
        assert tail <= 0.025 + 1e-9
        assert np.abs(sums - n * bound).min() < 1e-9  # a sum that can be
    assert (sums <= n * found.low + 1e-9).mean() >= 0.025 - 1e-9
    assert (sums >= n * found.high - 1e-9).mean() >= 0.025 - 1e-9
    if not set(differences) <= {-1.0, 0.0, 1.0}:
        p = 2 * min((sums <= 1e-9).mean(), (sums >= -1e-9).mean())
        assert found.p == pytest.approx(min(1.0, max(p, 2.0 ** (1 - found.won - found.lost))), abs=1e-9)


@pytest.mark.parametrize("kind", ["P@5", "mean of three seeds", "real numbers", "heavy tail"])
def test_equals_plain_resampling(kind: str) -> None:
    draw, n = np.random.default_rng(7), 400
    a, b = {
        "P@5": lambda: (draw.integers(0, 6, n) / 5, draw.integers(0, 6, n) / 5),
        "mean of three seeds": lambda: (draw.integers(0, 4, n) / 3, draw.integers(1, 4, n) / 3),
        "real numbers": lambda: (draw.random(n), draw.random(n) + 0.03),
        "heavy tail": lambda: (draw.pareto(1.5, n), draw.pareto(1.5, n)),
    }[kind]()
    found = paired_bootstrap(a, b)
    sampled = resampled_differences(a, b, 20_000, seed=1)
    width = found.high - found.low
    assert [found.low, found.high] == pytest.approx(np.quantile(sampled, [0.025, 0.975]).tolist(), abs=0.03 * width)
    assert found.p == pytest.approx(2 * min((sampled <= 0).mean(), (sampled >= 0).mean()), abs=0.02)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 20))
@settings(deadline=None)
def test_whole_differences_get_the_exact_sign_test(won: int, lost: int, tied: int) -> None:
    d = np.repeat([1.0, -1.0, 0.0], [won, lost, tied])
    if not len(d):
        return
    found = paired_bootstrap(np.zeros(len(d)), d)
    expected = stats.binomtest(won, won + lost).pvalue if won + lost else 1.0
    assert found.p == pytest.approx(float(expected))


def test_exchanging_the_two_turns_the_result_around() -> None:
    draw = np.random.default_rng(3)
    a, b = draw.random(300), draw.random(300)
    there, back = paired_bootstrap(a, b), paired_bootstrap(b, a)
    assert (there.difference, there.won, there.p) == pytest.approx((-back.difference, back.lost, back.p))
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-4)


def test_rare_and_lopsided_differences_stay_in_view() -> None:
    """One differing point among many: the resampled count of it is Poisson, far from normal."""
    b = np.zeros(100_000)
    b[0] = 0.5
    found = paired_bootstrap(np.zeros(100_000), b)
    assert found.low == 0.0
    assert found.high * 100_000 == pytest.approx(0.5 * stats.poisson.ppf(0.975, 1))
    assert found.p == 1.0  # one point decides nothing


def test_a_million_points_and_a_sharp_difference() -> None:
    draw = np.random.default_rng(0)
    a = draw.random(1_000_000)
    found = paired_bootstrap(a, a + 0.02 + 0.1 * (draw.random(1_000_000) - 0.5))
    assert found.p < 1e-12
    normal = 1.96 * 0.1 / 12**0.5 / 1000
    assert (found.low, found.high) == pytest.approx((found.difference - normal, found.difference + normal), rel=0.02)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_the_step_down_procedure_rejects(p: list[float]) -> None:
    adjusted = holm(p)
    rejected = set()
    for rank, at in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        if p[at] * (len(p) - rank) >= 0.05:
            break
        rejected.add(at)
    assert {i for i, value in enumerate(adjusted) if value < 0.05} == rejected
    assert all(own <= value <= 1.0 for own, value in zip(p, adjusted, strict=True))


def test_points_must_be_the_same() -> None:
    for a, b in ((3, 4), (0, 0)):
        with pytest.raises(InputError, match="the same points"):
            paired_bootstrap(np.zeros(a), np.zeros(b))
