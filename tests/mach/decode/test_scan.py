"""The scan of all labels: drained sums, half bytes, and a few points."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_decode import FAR, assert_same

from mach.decode.cpu.scan import LEADERS, first_of_fours
from mach.decode.cpu.simd.lanes import add_four
from mach.decode.cpu.simd.quantise import MOST
from mach.decode.cpu.simd.vectors import LINE
from mach.decode.cpu.tuner import BYTES_AFTER, FEW, HALF
from mach.decode.decoder import Decoder, top_k, top_k_prefixes
from mach.hashing.families import hash_labels


def drawn(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    if kind == "spikes":  # probabilities: nearly all next to nothing, a few near 1
        return np.where(rng.random(shape) < 0.003, rng.random(shape), 1e-4 * rng.random(shape)).astype(np.float32)
    if kind == "levels":  # sums are exact, ties are many, and bounds are on their steps
        return (rng.integers(0, 40, shape) / 8).astype(np.float32)
    if kind == "shifted":
        return (rng.normal(size=shape) + 1000.0).astype(np.float32)
    return getattr(rng, kind)(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    "kind",
    [
        "normal",
        "shifted",
        pytest.param("standard_cauchy", marks=pytest.mark.soak),
        *(pytest.param(kind, marks=pytest.mark.soak) for kind in ("exponential", "spikes", "levels")),
    ],
)
def test_drained_sums_equal_reference(kind: str) -> None:
    """Repetitions added in fours, with some left over, with and without copies of the lookup."""
    rng = np.random.default_rng(4)
    lookup = hash_labels(13_000, 90, 34)
    scores = drawn(kind, (LINE + 9, 34, 90), rng)
    for prefixes in ([34], [16, 32], [3, 31], [8, 9, 10, 34], list(range(1, 35))):
        decoder = Decoder(lookup, 90)
        plain = decoder.top_k_prefixes(scores, 6, prefixes, method="reference")
        assert_same(decoder.top_k_prefixes(scores, 6, prefixes, method="dense"), plain)
        assert "shuffled" not in vars(decoder._dense) or len(prefixes) > 5
        decoder.prepare()
        assert "shuffled" in vars(decoder._dense)
        assert_same(decoder.top_k_prefixes(scores, 6, prefixes, method="dense"), plain)


def test_first_repetitions_of_fours_between_prefixes() -> None:
    assert first_of_fours(np.array([4])) == [0]
    assert first_of_fours(np.array([3, 12])) == [3, 7]
    assert first_of_fours(np.array([1, 2, 3])) == []
    assert first_of_fours(np.array([8, 14])) == [0, 4, 8]


def test_a_drained_sum_is_a_bound() -> None:
    """By hand: 255 stays, nothing falls below 0, and the rest loses its drain after four lines."""
    table = aligned(np.tile(np.repeat(np.arange(6, dtype=np.uint8)[:, None] * 20, LINE, 1), (4, 1)))  # [4 · 6, 64]
    lookup = np.array([[0, 1, 5, 2], [0, 1, 5, 2], [0, 1, 5, 3], [1, 1, 5, 0]], dtype=np.uint16)
    total = aligned(np.zeros((4, LINE), dtype=np.uint8))
    drain = np.full(LINE, 30, dtype=np.uint8)
    drain[7] = 0
    add_in_fours(total.reshape(-1), table.reshape(-1), lookup.reshape(-1), 4, 6, drain)
    assert total[:, 0].tolist() == [0, 50, 255, 110]
    assert total[:, 7].tolist() == [20, 80, 255, 140]


def aligned(array: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A copy that starts at a cache line."""
    raw = np.empty(array.size + LINE, dtype=np.uint8)
    place = raw[-raw.ctypes.data % LINE :][: array.size].reshape(array.shape)
    place[:] = array
    return place


@numba.njit
def add_in_fours(total, table, lookup, width, B, drain):  # type: ignore[no-untyped-def]
    add_four(total, table, lookup, 0, width, width, 0, B, drain, 0)


def halves_used(decoder: Decoder) -> int:
    """Groups of 128 points that were scanned with half a byte per score."""
    return sum(seen.seen for (grain, *_), seen in decoder._dense.tuner._seconds.items() if grain == HALF)


@settings(max_examples=8, deadline=None)
@given(
    n_points=st.sampled_from([LINE + 1, 2 * LINE, 2 * LINE + 1, 2 * LINE + FEW, 3 * LINE + 5]),
    n_labels=st.sampled_from([1, 4, 3000, 20_000]),
    R=st.integers(20, 40),
    k=st.sampled_from([1, 5, LEADERS + 1]),
    levels=st.sampled_from([1, 3, 1000]),
    shift=st.sampled_from([0.0, -9.0, 1e5]),
    prefixes=st.sampled_from([(), (3,), (2, 9)]),
    seed=st.integers(0, 1000),
)
def test_halves_of_bytes_equal_reference(
    n_points: int, n_labels: int, R: int, k: int, levels: int, shift: float, prefixes: tuple[int, ...], seed: int
) -> None:
    """Far tables with more points than a line of bytes holds: groups of 128, of 64, and points one by one."""
    rng = np.random.default_rng(seed)
    scores = (rng.integers(-levels, levels, size=(n_points, R, FAR)) / 7 + shift).astype(np.float32)
    decoder = Decoder(hash_labels(n_labels, FAR, R, seed=seed), FAR)
    wanted = [*prefixes, R]
    plain = decoder.top_k_prefixes(scores, k, wanted, method="reference")
    for _ in range(2):  # what was learnt from the first call changes how the second is done
        assert_same(decoder.top_k_prefixes(scores, k, wanted, method="dense"), plain)


def test_halves_of_bytes_are_used_and_given_up_where_scores_are_too_wide() -> None:
    lookup = hash_labels(20_000, FAR, 32)
    scores = np.random.default_rng(0).normal(size=(2 * LINE, 32, FAR)).astype(np.float32)
    decoder = Decoder(lookup, FAR)
    assert_same(decoder.top_k(scores, 5, method="dense"), decoder.top_k(scores, 5, method="reference"))
    assert halves_used(decoder) == 1
    scores[7, 3, 8] = 1e4  # one bucket counts far more units than half a byte can hold
    wide = Decoder(lookup, FAR)
    assert_same(wide.top_k(scores, 5, method="dense"), wide.top_k(scores, 5, method="reference"))
    assert halves_used(wide) == 0
    assert wide._dense.tuner._bytes_for == BYTES_AFTER - 2
    scores[-1, -1, -1] = np.nan
    for broken in (decoder, wide):
        with pytest.raises(ValueError, match="NaN"):
            broken.top_k(scores, 5, method="dense")


def test_half_a_byte_bounds_the_score() -> None:
    """Around every step of the scale: a label whose exact score equals the bar must not fall below it."""
    rng = np.random.default_rng(3)
    lookup = hash_labels(6000, FAR, 24)
    steps = np.concatenate([np.arange(MOST), np.nextafter(np.arange(1, MOST, dtype=np.float32), np.float32(0))])
    for scale in (1.0, 1 / 3, 0.07):
        scores = (rng.choice(steps, size=(2 * LINE, 24, FAR)) * scale).astype(np.float32)
        decoder = Decoder(lookup, FAR)
        assert_same(decoder.top_k(scores, 9, method="dense"), decoder.top_k(scores, 9, method="reference"))


@pytest.mark.parametrize("estimator", ["logit_sum", "min", pytest.param("median", marks=pytest.mark.soak)])
@pytest.mark.parametrize("n_points", [1, FEW])
def test_a_few_points_equal_reference(n_points: int, estimator: str) -> None:
    scores = np.random.default_rng(1).integers(-3, 3, size=(n_points, 7, FAR)).astype(np.float32)
    lookup = hash_labels(50_000, FAR, 7)
    fast, plain = (
        top_k_prefixes(scores, lookup, 6, [1, 4, 7], estimator=estimator, method=method)
        for method in ("dense", "reference")
    )
    assert_same(fast, plain)
    scores[-1, 2, 5] = np.inf
    with pytest.raises(ValueError, match="infinite"):
        top_k(scores, lookup, 6, estimator=estimator, method="dense")
