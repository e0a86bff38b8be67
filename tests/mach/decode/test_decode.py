from __future__ import annotations

import copy

import numba
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mach.decode.cpu.pruned import LONGEST_REST, REMEMBERED, _Experience
from mach.decode.cpu.scan import KEPT, LEADERS, SAMPLE, first_of_fours
from mach.decode.cpu.simd.lanes import add_four
from mach.decode.cpu.simd.quantise import MOST
from mach.decode.cpu.simd.vectors import BLOCK, LINE
from mach.decode.cpu.tuner import AGAIN, BYTES_AFTER, FEW, HALF, WHOLE, Tuner
from mach.decode.decoder import METHODS, Decoder, top_k, top_k_prefixes
from mach.decode.estimators import ESTIMATORS, estimator_names
from mach.decode.reference import top_buckets_reference
from mach.hashing.families import hash_labels

EXACT = [name for name, how in ESTIMATORS.items() if how.exact]


def simulated(n_points: int, lookup: np.ndarray, B: int, seed: int, raised: int = 6) -> np.ndarray:
    """A noisy background and some labels a point whose buckets stand out, as in a trained model."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(-7.0, 1.0, size=(n_points, len(lookup), B)).astype(np.float32)
    for n in range(n_points):
        for label in rng.integers(0, lookup.shape[1], size=raised):
            scores[n, np.arange(len(lookup)), lookup[:, label]] += rng.normal(6, 1, len(lookup)).astype(np.float32)
    return scores


def assert_same(found: tuple[np.ndarray, np.ndarray], expected: tuple[np.ndarray, np.ndarray]) -> None:
    """Labels and scores bit for bit."""
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(found[0], expected[0])


@settings(max_examples=60, deadline=None)
@given(
    n_points=st.sampled_from([1, 2, BLOCK, BLOCK + 1, LINE, LINE + 3]),
    n_labels=st.sampled_from([1, 2, 5, SAMPLE - 1, SAMPLE, 3000, 20_000]),
    B=st.sampled_from([1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 40]),
    R=st.integers(1, 10),
    k=st.sampled_from([1, 5, LEADERS + 1]),
    levels=st.sampled_from([1, 2, 1000]),
    shift=st.sampled_from([0.0, -9.0, 1e6]),
    estimator=st.sampled_from(EXACT),
    seed=st.integers(0, 1000),
)
def test_dense_equals_reference(
    n_points: int, n_labels: int, B: int, R: int, k: int, levels: int, shift: float, estimator: str, seed: int
) -> None:
    """Random and heavily tied scores of any sign, fewer labels than k, one point, one bucket, several prefixes."""
    if estimator == "unbiased" and B == 1:
        B = 2
    rng = np.random.default_rng(seed)
    scores = (rng.integers(-levels, levels, size=(n_points, R, B)) / 7 + shift).astype(np.float32)
    lookup = hash_labels(n_labels, B, R, seed=seed)
    prefixes = sorted(set(rng.integers(1, R + 1, size=3).tolist()))
    fast = top_k_prefixes(scores, lookup, k, prefixes, estimator=estimator, method="dense")
    plain = top_k_prefixes(scores, lookup, k, prefixes, estimator=estimator, method="reference")
    assert_same(fast, plain)


@settings(max_examples=40, deadline=None)
@given(
    n_points=st.sampled_from([1, 3, 40]),
    n_labels=st.sampled_from([1, 5, 300, 30_000]),
    B=st.sampled_from([1, 7, 40, 300, 1003]),
    R=st.integers(1, 20),
    k=st.integers(1, 7),
    coarse=st.booleans(),
    raised=st.sampled_from([0, 1, 6]),
    seed=st.integers(0, 1000),
)
def test_pruned_and_auto_equal_reference(
    n_points: int, n_labels: int, B: int, R: int, k: int, coarse: bool, raised: int, seed: int
) -> None:
    lookup = hash_labels(n_labels, B, R, seed=seed)
    scores = simulated(n_points, lookup, B, seed, raised)
    if coarse:
        scores = np.round(scores)  # many labels tie
    decoder = Decoder(lookup, B)
    _ = decoder.index
    plain = decoder.top_k(scores, k, method="reference")
    for method in ("pruned", "auto"):
        assert_same(decoder.top_k(scores, k, method=method), plain)


def test_peaked_scores_are_pruned_and_flat_ones_scanned() -> None:
    """The proof succeeds where scores are peaked and is not claimed where they are flat."""
    lookup = hash_labels(30_000, 500, 16)
    peaked = simulated(20, lookup, 500, 0)
    flat = np.random.default_rng(0).normal(size=peaked.shape).astype(np.float32)
    decoder = Decoder(lookup, 500)
    room = np.full((20, 5), -np.inf, np.float32), np.full((20, 5), -1, np.int32)
    assert len(decoder._pruned._prune(peaked, 16, np.arange(20), *room)) == 0
    assert_same(room, decoder.top_k(peaked, 5, method="reference"))
    assert len(decoder._pruned._prune(flat, 16, np.arange(20), *room)) > 15


def test_more_labels_near_the_top_than_are_kept() -> None:
    """A model that tells hardly any labels apart: bounds that reach the bar overflow what a task can keep."""
    n_labels = 40 * KEPT
    lookup = hash_labels(n_labels, 3, 4, seed=2)
    scores = np.random.default_rng(1).normal(size=(5, 4, 3)).astype(np.float32)
    for estimator in ("logit_sum", "min", "median"):
        dense, plain = (top_k(scores, lookup, 7, estimator=estimator, method=m) for m in ("dense", "reference"))
        assert_same(dense, plain)


def test_the_best_labels_come_after_what_can_be_kept() -> None:
    """Every label beats those before it, so all reach the bar that the first ones set, and the last are the best."""
    n_labels, B = 40 * KEPT, 4000
    lookup = np.tile(np.arange(n_labels) * B // n_labels, (5, 1)).astype(np.uint16)
    scores = np.tile(np.linspace(0.0, 1.0, B, dtype=np.float32), (3, 5, 1))
    for estimator in ("logit_sum", "min", "median"):
        dense, plain = (top_k(scores, lookup, 15, estimator=estimator, method=m) for m in ("dense", "reference"))
        assert_same(dense, plain)


@pytest.mark.parametrize("B", [1024, 9000, 70_000])
def test_every_tile_and_table_width_equals_reference(B: int) -> None:
    """Tiles depend on B; above 65,536 buckets the lookup is int32."""
    rng = np.random.default_rng(B)
    scores = rng.normal(size=(37, 9, B)).astype(np.float32)
    lookup = hash_labels(7000, B, 9, seed=1)
    for method in ("dense", "pruned"):
        assert_same(top_k(scores, lookup, 5, method=method), top_k(scores, lookup, 5, method="reference"))


def test_equal_scores_everywhere() -> None:
    scores = np.zeros((3, 4, 6), dtype=np.float32)
    lookup = hash_labels(5000, 6, 4)
    for method in METHODS:
        assert top_k(scores, lookup, 3, method=method)[1].tolist() == [[0, 1, 2]] * 3


def test_ties_go_to_the_lowest_label() -> None:
    scores = np.array([[[0.0, 1.0]]], dtype=np.float32)
    lookup = np.array([[0, 1, 0, 1, 1]], dtype=np.uint16)
    for method in METHODS:
        assert top_k(scores, lookup, 4, method=method)[1].tolist() == [[1, 3, 4, 0]]


def test_fewer_labels_than_k_leave_room() -> None:
    found, labels = top_k(np.array([[[-3.0]]], dtype=np.float32), np.zeros((1, 2), dtype=np.uint16), 4)
    assert labels.tolist() == [[0, 1, -1, -1]]
    assert found.tolist() == [[-3.0, -3.0, -np.inf, -np.inf]]


def test_no_points() -> None:
    found, labels = top_k(np.zeros((0, 1, 2), dtype=np.float32), np.zeros((1, 2), dtype=np.uint16), 4)
    assert found.shape == labels.shape == (0, 4)


def test_a_prefix_equals_a_model_of_that_size() -> None:
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(70, 6, 50)).astype(np.float32)
    lookup = hash_labels(900, 50, 6)
    for estimator in EXACT:
        found = top_k_prefixes(scores, lookup, 5, [2, 6], estimator=estimator)
        alone = top_k(np.ascontiguousarray(scores[:, :2]), lookup[:2], 5, estimator=estimator)
        assert_same((found[0][0], found[1][0]), alone)


def test_estimators_by_hand() -> None:
    """One point, three repetitions of two buckets, and a label that lies in bucket 0, 1, 0 of them."""
    scores = np.array([[[0.5, 0.1], [0.2, 0.3], [0.4, 0.9]]], dtype=np.float32)
    lookup = np.array([[0], [1], [0]], dtype=np.uint16)
    found = {name: float(top_k(scores, lookup, 1, estimator=name)[0][0, 0]) for name in EXACT}
    assert found == pytest.approx(
        {"logit_sum": 1.2, "log_prob_sum": 1.2, "mean": 0.4, "unbiased": -0.2, "min": 0.3, "median": 0.4}
    )
    even = top_k_prefixes(scores, lookup, 1, [2], estimator="median")[0]
    assert float(even[0, 0, 0]) == pytest.approx(0.4)  # the middle two are 0.3 and 0.5


@settings(max_examples=12, deadline=None)
@given(
    n_labels=st.sampled_from([1, 40, 3000]),
    B=st.sampled_from([1, 9, 200]),
    R=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_top_buckets_equals_its_reference(n_labels: int, B: int, R: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = (rng.integers(-20, 20, size=(5, R, B)) / 4).astype(np.float32)  # sums are exact, ties are many
    lookup = hash_labels(n_labels, B, R, seed=seed)
    found = top_k(scores, lookup, 4, estimator="top_buckets")
    assert_same(found, top_buckets_reference(scores, lookup, 4, min(50, B), min(2, R)))


def test_top_buckets_misses_labels_that_the_exact_sum_ranks_high() -> None:
    """Approximate: with negative scores a label seen twice outranks one that is good everywhere (official code)."""
    lookup = np.array([[0, 1], [0, 1], [0, 2]])
    scores = np.full((1, 3, 60), -1.0, dtype=np.float32)
    scores[0, :, 0], scores[0, :2, 1], scores[0, 2, 2] = -0.5, -0.6, -9.0
    assert top_k(scores, lookup, 1)[1].tolist() == [[0]]
    assert top_k(scores, lookup, 1, estimator="top_buckets")[1].tolist() == [[1]]


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(3, 2, 40), (17, 2, 5), (64, 1, 33)])
def test_scores_that_are_not_finite_are_an_error(wrong: float, method: str, shape: tuple[int, int, int]) -> None:
    scores = np.zeros(shape, dtype=np.float32)
    scores[-1, -1, -1] = wrong
    lookup = hash_labels(4, shape[2], shape[1])
    with pytest.raises(ValueError, match="NaN or infinite"):
        top_k(scores, lookup, 1, method=method)


@pytest.mark.parametrize(
    "call",
    [
        lambda s, h: top_k(s, h, 0),
        lambda s, h: top_k(s, h[:1], 1),
        lambda s, h: top_k(s[0], h, 1),
        lambda s, h: top_k(s, h[0], 1),
        lambda s, h: top_k(s, h, 1, estimator="sum"),
        lambda s, h: top_k(s, h, 1, method="fast"),
        lambda s, h: top_k(s, h + 9, 1),
        lambda s, h: top_k(s, h.astype(int) - 1, 1),
        lambda s, h: top_k_prefixes(s, h, 1, []),
        lambda s, h: top_k_prefixes(s, h, 1, [2, 1]),
        lambda s, h: top_k_prefixes(s, h, 1, [3]),
        lambda s, h: top_k(s[:, :, :1], h * 0, 1, estimator="unbiased"),
    ],
)
def test_bad_arguments_are_refused(call: object) -> None:
    scores, lookup = np.zeros((2, 2, 4), dtype=np.float32), hash_labels(6, 4, 2)
    with pytest.raises(ValueError, match=r"must|found|fit|unknown|names|needs"):
        call(scores, lookup)  # type: ignore[operator]


def test_estimators_of_a_setting() -> None:
    assert estimator_names("logit_sum+mean") == ["logit_sum", "mean"]
    for wrong in ("mean+", "sum", "mean+mean"):
        with pytest.raises(ValueError, match="estimator"):
            estimator_names(wrong)


def test_the_index_is_built_when_it_pays() -> None:
    """A few points are scanned; once scanning has cost as much as sorting the labels, the index is there."""
    lookup = hash_labels(30_000, 500, 16)
    scores = simulated(4, lookup, 500, 1)
    decoder = Decoder(lookup, 500)
    decoder.top_k(scores, 5)
    assert "index" not in vars(decoder._pruned)
    decoder._pruned._experience[16].scanned = 1.0
    found = decoder.top_k(scores, 5)
    assert "index" in vars(decoder._pruned)
    assert_same(found, decoder.top_k(scores, 5, method="reference"))


def drawn(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    if kind == "spikes":  # probabilities: nearly all next to nothing, a few near 1
        return np.where(rng.random(shape) < 0.003, rng.random(shape), 1e-4 * rng.random(shape)).astype(np.float32)
    if kind == "levels":  # sums are exact, ties are many, and bounds lie on their steps
        return (rng.integers(0, 40, shape) / 8).astype(np.float32)
    if kind == "shifted":
        return (rng.normal(size=shape) + 1000.0).astype(np.float32)
    return getattr(rng, kind)(size=shape).astype(np.float32)


@pytest.mark.parametrize("kind", ["normal", "exponential", "standard_cauchy", "spikes", "levels", "shifted"])
def test_sums_that_lose_what_is_usual_equal_reference(kind: str) -> None:
    """Repetitions taken in fours, some of them left over, with and without copies of the lookup."""
    rng = np.random.default_rng(4)
    lookup = hash_labels(25_000, 90, 34)
    scores = drawn(kind, (LINE + 9, 34, 90), rng)
    for prefixes in ([34], [16, 32], [3, 31], [8, 9, 10, 34], list(range(1, 35))):
        decoder = Decoder(lookup, 90)
        plain = decoder.top_k_prefixes(scores, 6, prefixes, method="reference")
        assert_same(decoder.top_k_prefixes(scores, 6, prefixes, method="dense"), plain)
        assert "shuffled" not in vars(decoder._dense) or len(prefixes) > 5
        decoder.prepare()
        assert "shuffled" in vars(decoder._dense)
        assert_same(decoder.top_k_prefixes(scores, 6, prefixes, method="dense"), plain)


def test_repetitions_are_first_of_fours_between_prefixes() -> None:
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


FAR = 9000  # buckets whose lines no core's own cache holds


def halves_used(decoder: Decoder) -> int:
    """Groups of 128 points that were scanned with half a byte a score."""
    return sum(seen.seen for (grain, *_), seen in decoder._dense.tuner._seconds.items() if grain == HALF)


@settings(max_examples=12, deadline=None)
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
    scores[7, 3, 8] = 1e4  # one bucket counts far more units than half a byte can tell
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


@pytest.mark.parametrize("estimator", ["logit_sum", "min", "median"])
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


def test_effort_takes_what_was_measured_to_be_faster() -> None:
    effort = Tuner(n_labels=1000, B=FAR)

    def chosen() -> object:
        return effort.choose(300, "sum", 16, 1)[0]

    for grain, seconds in ((HALF, 1.0), (WHOLE, 0.1)):
        for _ in range(2):  # the first of each compiles and does not count
            assert chosen() == grain
            effort.learn((grain, 16, 1), 64, seconds)
    assert chosen() == WHOLE
    assert effort.expected_seconds(3 * LINE, 16) == pytest.approx(0.3)
    tried = []
    for _ in range(AGAIN):
        tried.append(chosen())
        effort.learn((tried[-1], 16, 1), 64, 0.1)  # half a byte has become faster
    assert HALF in tried
    assert effort.choose(LINE, "sum", 16, 1)[0] == WHOLE
    assert effort.choose(FEW, "sum", 16, 1)[0] is None
    assert Tuner(n_labels=1000, B=100).choose(300, "sum", 16, 1)[0] == WHOLE


def test_pruning_that_does_not_pay_is_tried_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    lookup = hash_labels(30_000, 500, 16)
    flat = np.random.default_rng(0).normal(size=(64, 16, 500)).astype(np.float32)
    decoder = Decoder(lookup, 500)
    decoder.prepare()
    tried = []
    search = decoder._pruned._prune
    call = -1

    def noted(*arguments: object) -> object:
        tried.append(call)
        return search(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(decoder._pruned, "_prune", noted)
    for call in range(40):  # noqa: B007 (noted reads it)
        assert_same(decoder.top_k(flat, 5), decoder.top_k(flat, 5, method="dense"))
    assert np.diff(sorted(set(tried)))[:5].tolist() == [2, 3, 5, 9, LONGEST_REST + 1]
    assert len(tried) == len(set(tried)) + 1  # one round, then it gave up; one more where the first compiled


def test_a_few_failures_do_not_end_what_may_pay() -> None:
    seen = _Experience()
    seen.add(tried=24, failed=9, seconds=1.0)
    assert seen.hoped_share() == pytest.approx(0.375 - (0.375 * 0.625 / 24 + 1 / 24**2) ** 0.5)
    seen.add(tried=400, failed=0, seconds=1.0)
    seen.learn(paid=True)  # earlier points fade
    assert seen.tried == REMEMBERED
    assert seen.failed / seen.tried == pytest.approx(9 / 424)
    slow = _Experience()
    slow.add(tried=10, failed=0, seconds=1.0)
    slow.add(tried=10, failed=0, seconds=50.0)  # something else ran meanwhile
    assert slow.seconds == 2.25
    every = _Experience()
    every.add(tried=4, failed=4, seconds=1.0)
    assert every.hoped_share() == 0.75


def test_where_pruning_paid_for_all_points_rounds_are_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds tell early that pruning does not pay, and cost something where it does."""
    lookup = hash_labels(100_000, 2000, 16)
    scores = simulated(5 * LINE, lookup, 2000, seed=4)
    decoder = Decoder(lookup, 2000)
    decoder.prepare()
    monkeypatch.setattr(decoder._dense.tuner, "expected_seconds", lambda n_points, _: 10.0 * n_points)
    rounds: list[int] = []
    search = decoder._pruned._prune
    monkeypatch.setattr(decoder._pruned, "_prune", lambda *some: rounds.append(len(some[2])) or search(*some))
    plain = decoder.top_k(scores, 5, method="reference")
    for expected in ([4, 8, 16, 32, 64, 128, 68], [64, 256]):
        rounds.clear()
        assert_same(decoder.top_k(scores, 5), plain)
        assert rounds == expected


def test_where_pruning_paid_it_is_not_given_up_for_what_timings_err_by(monkeypatch: pytest.MonkeyPatch) -> None:
    lookup = hash_labels(100_000, 2000, 16)
    scores = simulated(5 * LINE, lookup, 2000, seed=4)
    decoder = Decoder(lookup, 2000)
    decoder.prepare()
    search = decoder._pruned
    per_point = {"scan": 10.0}
    monkeypatch.setattr(decoder._dense.tuner, "expected_seconds", lambda n, _: n * per_point["scan"])
    decoder.top_k(scores, 5)
    experience = search._experience[16]
    assert experience.all_tried
    monkeypatch.setattr(experience, "add", lambda *_, **__: None)  # what is known stays as it is
    experience.tried, experience.failed, experience.seconds = 100.0, 0.0, 100.0  # a second a point, none fails
    for scan, all_tried in ((0.95, True), (0.85, False), (0.95, False)):
        per_point["scan"], experience.rest = scan, 0
        decoder.top_k(scores, 5)
        assert experience.all_tried is all_tried


def test_a_copy_of_a_used_decoder_decodes() -> None:
    """Its scratch memory starts at a cache line again: a copy that kept the bytes but not their place would crash."""
    lookup = hash_labels(300, 16, 4, seed=1)
    scores = simulated(LINE + 3, lookup, 16, seed=2)
    decoder = Decoder(lookup, 16)
    expected = decoder.top_k(scores, 5, method="dense")
    again = copy.deepcopy(decoder)
    assert not again._dense._scratch
    assert_same(again.top_k(scores, 5, method="dense"), expected)
