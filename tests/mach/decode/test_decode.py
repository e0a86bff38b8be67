from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mach.decode.cpu.scan import KEPT, LEADERS, SAMPLE
from mach.decode.cpu.simd.vectors import BLOCK, LINE
from mach.decode.decoder import METHODS, Decoder, top_k, top_k_prefixes
from mach.decode.estimators import ESTIMATORS, estimator_names
from mach.decode.reference import top_buckets_reference
from mach.hashing.families import hash_labels
from mach.kernels.excluded import Excluded

FAR = 9000  # buckets whose lines no core's own cache holds
EXACT = [name for name, how in ESTIMATORS.items() if how.exact]


def simulated(n_points: int, lookup: np.ndarray, B: int, seed: int, raised: int = 6) -> np.ndarray:
    """A noisy background and some labels per point whose buckets have high scores, as in a trained model."""
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
    none = Excluded.of(None, 20, 30_000)
    assert len(decoder._pruned._prune(peaked, none, 16, np.arange(20), *room)) == 0
    assert_same(room, decoder.top_k(peaked, 5, method="reference"))
    assert len(decoder._pruned._prune(flat, none, 16, np.arange(20), *room)) > 15


def test_more_labels_near_the_top_than_are_kept() -> None:
    """A model that hardly distinguishes labels: more bounds reach the bar than a task can keep."""
    n_labels = 40 * KEPT
    lookup = hash_labels(n_labels, 3, 4, seed=2)
    scores = np.random.default_rng(1).normal(size=(5, 4, 3)).astype(np.float32)
    for estimator in ("logit_sum", "min", "median"):
        dense, plain = (top_k(scores, lookup, 7, estimator=estimator, method=m) for m in ("dense", "reference"))
        assert_same(dense, plain)


def test_lists_longer_than_what_is_usually_kept() -> None:
    """A full list of labels is thinned out to the best k, and there must be room for more."""
    lookup = hash_labels(40 * KEPT, 3, 4, seed=2)
    scores = np.random.default_rng(1).normal(size=(5, 4, 3)).astype(np.float32)
    for estimator in ("logit_sum", "min", "median"):
        dense, plain = (top_k(scores, lookup, 3 * KEPT, estimator=estimator, method=m) for m in ("dense", "reference"))
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
    """One point, three repetitions of two buckets, and a label that has buckets 0, 1, 0 of them."""
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
    """A few points are scanned; once scans have taken as long as sorting the labels, the index is built."""
    lookup = hash_labels(30_000, 500, 16)
    scores = simulated(4, lookup, 500, 1)
    decoder = Decoder(lookup, 500)
    decoder.top_k(scores, 5)
    assert "index" not in vars(decoder._pruned)
    decoder._pruned._experience[16].scanned = 1.0
    found = decoder.top_k(scores, 5)
    assert "index" in vars(decoder._pruned)
    assert_same(found, decoder.top_k(scores, 5, method="reference"))


def test_a_copy_of_a_used_decoder_decodes() -> None:
    """Its scratch memory starts at a cache line again: a copy with the same bytes at another address would crash."""
    lookup = hash_labels(300, 16, 4, seed=1)
    scores = simulated(LINE + 3, lookup, 16, seed=2)
    decoder = Decoder(lookup, 16)
    expected = decoder.top_k(scores, 5, method="dense")
    again = copy.deepcopy(decoder)
    assert not again._dense._scratch
    assert_same(again.top_k(scores, 5, method="dense"), expected)
