"""Scans that stop early: labels that cannot reach the bar any more, and bars that are only forecast."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_decode import FAR, assert_same, simulated

import mach.decode.cpu.scan
from mach.decode.cpu.scan import FIRST_PART, SAMPLE
from mach.decode.cpu.simd.vectors import LINE
from mach.decode.cpu.threshold_forecast import Forecast
from mach.decode.decoder import Decoder
from mach.hashing.families import hash_labels

N_LABELS = 4 * FIRST_PART * SAMPLE


def random_scores(n_points: int, R: int, B: int, levels: int, seed: int) -> npt.NDArray[np.float32]:
    """Some buckets of a few points stand out, as far as `levels` allows."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(-levels, levels, size=(n_points, R, B)).astype(np.float32)
    scores[::3] += rng.integers(0, 2 * levels, size=scores[::3].shape) * (rng.random(scores[::3].shape) < 0.05)
    return np.asarray(scores / np.float32(7))


@settings(max_examples=25, deadline=None)
@given(
    B=st.sampled_from([16, 40, FAR]),
    n_points=st.sampled_from([1, 5, LINE, 2 * LINE, 2 * LINE + 9]),
    R=st.sampled_from([2, 4, 6, 8, 14, 16, 20]),
    late=st.integers(0, 4),
    k=st.sampled_from([1, 5]),
    levels=st.sampled_from([1, 4, 1000]),
    seed=st.integers(0, 1000),
)
def test_every_cut_equals_reference(B: int, n_points: int, R: int, late: int, k: int, levels: int, seed: int) -> None:
    """Near and far tables, bytes and halves of bytes, and cuts from the fourth repetition to the last."""
    cuts = [*range(4, R, 4), *([R - 2] if R % 4 == 0 and R > 4 else []), R]
    cut = cuts[-1 - late % len(cuts)]
    scores = random_scores(n_points, R, B, levels, seed)
    decoder = Decoder(hash_labels(N_LABELS, B, R, seed=seed), B)
    expected = decoder.top_k(scores, k, method="reference")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mach.decode.cpu.scan, "choose_cut", lambda *_: cut)
        for _ in range(2):  # the second call has a forecast
            assert_same(decoder.top_k(scores, k, method="dense"), expected)


@pytest.mark.parametrize("R", [1, 2, 3])
def test_fewer_repetitions_than_are_added_at_once_are_not_tried(R: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four at once would read beyond the lookup, and give buckets that do not exist."""
    plain, untouched = mach.decode.cpu.scan.choose_cut, []

    def noted(*arguments: object) -> object:
        totals = arguments[4]
        assert isinstance(totals, np.ndarray)
        totals[:] = 7
        cut = plain(*arguments)
        untouched.append(bool((totals == 7).all()))
        return cut

    monkeypatch.setattr(mach.decode.cpu.scan, "choose_cut", noted)
    scores = random_scores(LINE, R, 16, 1000, seed=1)
    decoder = Decoder(hash_labels(N_LABELS, 16, R), 16)
    assert_same(decoder.top_k(scores, 5, method="dense"), decoder.top_k(scores, 5, method="reference"))
    assert untouched
    assert all(untouched)


def test_cuts_of_halves_count_coarse_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half bytes above `FINE` stand for several units each, and so does the highest of them, which the best labels
    have in all repetitions after the cut."""
    monkeypatch.setattr(mach.decode.cpu.scan, "choose_cut", lambda *_: 28)
    rng = np.random.default_rng(0)
    scores = rng.normal(scale=0.3, size=(2 * LINE, 32, FAR)).astype(np.float32)
    scores[:, 28:] = rng.choice([-1.0, 4.0], size=(2 * LINE, 4, FAR))
    decoder = Decoder(hash_labels(4 * N_LABELS, FAR, 32), FAR)
    expected = decoder.top_k(scores, 5, method="reference")
    for _ in range(2):
        decoder._dense.tuner._seconds.clear()  # half bytes are tried first
        assert_same(decoder.top_k(scores, 5, method="dense"), expected)
    assert decoder._dense.tuner._bytes_for == 0


@pytest.mark.parametrize("R", [1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 18, 32])
def test_any_number_of_repetitions_has_a_cut(R: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After fours, two before the last, or all; the cuts that the loops can use."""
    cuts = chosen_cuts(monkeypatch)
    lookup = hash_labels(N_LABELS, 300, R)
    scores = simulated(LINE, lookup, 300, seed=R)
    decoder = Decoder(lookup, 300)
    expected = decoder.top_k(scores, 5, method="reference")
    for _ in range(2):
        assert_same(decoder.top_k(scores, 5, method="dense"), expected)
    assert all(c % 4 == 0 or c == R or (c == R - 2 and R % 4 == 0) for c in cuts)
    assert 0 not in cuts or R % 2
    assert R not in cuts or R % 2 == 0


def chosen_cuts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The results of `choose_cut` from now on."""
    cuts: list[int] = []
    plain = mach.decode.cpu.scan.choose_cut
    monkeypatch.setattr(mach.decode.cpu.scan, "choose_cut", lambda *some: cuts.append(plain(*some)) or cuts[-1])
    return cuts


def test_peaked_scores_are_cut_early_and_flat_ones_late(monkeypatch: pytest.MonkeyPatch) -> None:
    cuts = chosen_cuts(monkeypatch)
    lookup = hash_labels(100_000, 500, 32)
    flat = np.random.default_rng(0).normal(size=(LINE, 32, 500)).astype(np.float32)
    for scores in (simulated(LINE, lookup, 500, seed=0), flat):
        decoder = Decoder(lookup, 500)
        for _ in range(2):  # the second time the bar is forecast
            decoder.top_k(scores, 5, method="dense")
    _, peaked, _, even = cuts
    assert peaked < 24
    assert even > 28


def test_once_points_have_been_seen_no_first_part_is_scanned(monkeypatch: pytest.MonkeyPatch) -> None:
    first_parts: list[int] = []
    plain = mach.decode.cpu.scan.find_leaders
    monkeypatch.setattr(mach.decode.cpu.scan, "find_leaders", lambda *some: first_parts.append(1) or plain(*some))
    lookup = hash_labels(N_LABELS, 300, 16)
    scores = np.random.default_rng(0).normal(size=(6 * LINE, 16, 300)).astype(np.float32)
    decoder = Decoder(lookup, 300)
    for prefixes in ([16], [4, 16]):
        first_parts.clear()
        found = decoder.top_k_prefixes(scores, 5, prefixes, method="dense")
        assert_same(found, decoder.top_k_prefixes(scores, 5, prefixes, method="reference"))
        assert len(first_parts) <= 2  # the first group, and perhaps one for what was missed


@pytest.mark.parametrize("B", [300, FAR])
@pytest.mark.parametrize("off_by", [-30.0, -1.0, 0.5, 2.0, 1e6])
def test_a_wrong_forecast_costs_time_and_no_label(off_by: float, B: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bars that are far too low, too high for some points, and too high for all."""
    plain = Forecast.bars

    def wrong(self: Forecast, *some: object) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        likely, careful = plain(self, *some)  # type: ignore[arg-type]
        return likely, careful + np.float32(off_by)

    monkeypatch.setattr(Forecast, "bars", wrong)
    lookup = hash_labels(N_LABELS, B, 8)
    scores = np.random.default_rng(1).normal(size=(3 * LINE, 8, B)).astype(np.float32)
    decoder = Decoder(lookup, B)
    expected = decoder.top_k_prefixes(scores, 5, [3, 8], method="reference")
    for _ in range(2):
        assert_same(decoder.top_k_prefixes(scores, 5, [3, 8], method="dense"), expected)


def test_a_point_whose_labels_equal_the_forecast_is_scanned_again() -> None:
    """With k labels exactly at the bar, others at it were left out: only what is above the bar counts as found."""
    lookup = hash_labels(N_LABELS, 300, 4)
    scores = np.zeros((LINE, 4, 300), dtype=np.float32)
    decoder = Decoder(lookup, 300)
    decoder._dense._forecast.learn(
        np.array([4]), 5, *(np.full((4, LINE), value, np.float32) for value in (0.0, 1.0)), np.zeros((1, LINE))
    )
    decoder._dense._forecast._heights[4, 5][:] = 0.05  # the careful bar is then 0, where all labels are
    assert_same(decoder.top_k(scores, 5, method="dense"), decoder.top_k(scores, 5, method="reference"))


def test_a_forecast_by_hand() -> None:
    """Two repetitions, mean 1 and 2, deviation 3 and 4: sums of both lie around 3 with deviation 5."""
    forecast = Forecast()
    prefixes = np.array([1, 2])
    mean, deviation = (np.repeat(np.array([some], np.float32).T, 3, axis=1) for some in ([1, 2], [3, 4]))
    assert np.isnan(forecast.bars(prefixes, 5, mean, deviation)).all()
    best = np.array([[4, 4, 4], [13, 13, -np.inf]], dtype=np.float32)  # one, and two, deviations above
    forecast.learn(prefixes, 5, mean, deviation, best)
    likely, careful = forecast.bars(prefixes, 5, mean, deviation)
    np.testing.assert_allclose(likely, [[4, 4, 4], [13, 13, 13]])
    np.testing.assert_allclose(careful, [[3.85] * 3, [12.75] * 3])
    forecast.learn(prefixes, 5, mean, 0 * deviation, best)  # scores that are all equal say nothing
    np.testing.assert_allclose(forecast.bars(prefixes, 5, mean, deviation)[0], likely)
    assert np.isnan(forecast.bars(prefixes, 6, mean, deviation)).all()
