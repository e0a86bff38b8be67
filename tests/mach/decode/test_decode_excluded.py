"""Labels that a point may not get: every way to decode gives the ranking of the other labels, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from test_decode import EXACT, FAR, assert_same, simulated

from mach.decode.cpu.scan import LEADERS
from mach.decode.cpu.simd.vectors import LINE
from mach.decode.decoder import METHODS, Decoder, top_k, top_k_prefixes
from mach.decode.reference import top_buckets_reference
from mach.hashing.families import hash_labels
from mach.kernels.excluded import Excluded

Found = tuple[np.ndarray, np.ndarray]


def drawn(n_points: int, n_labels: int, kind: str, best: np.ndarray, rng: np.random.Generator) -> sp.csr_matrix:
    """Pairs of points and labels: of every third point none; of the others some or all labels, or the best ones."""
    chosen = np.zeros((n_points, n_labels), dtype=np.int8)
    for n in range(n_points):
        if kind == "all":
            chosen[n] = 1
        elif kind == "all but one":
            chosen[n] = 1
            chosen[n, rng.integers(n_labels)] = 0
        elif n % 3:
            labels = best[n][best[n] >= 0] if kind == "best" else rng.integers(0, n_labels, size=n_labels // 5 + 1)
            chosen[n, labels] = 1
    return sp.csr_matrix(chosen)


def dropped(found: Found, pairs: sp.csr_matrix, k: int) -> Found:
    """What is left of a longer ranking [P, N, more], k per point."""
    scores, labels = (np.full((*found[1].shape[:2], k), fill, kind) for fill, kind in ((-np.inf, "f4"), (-1, "i4")))
    for p, n in np.ndindex(*found[1].shape[:2]):
        keep = np.flatnonzero(~np.isin(found[1][p, n], pairs[n].indices))[:k]
        scores[p, n, : len(keep)], labels[p, n, : len(keep)] = found[0][p, n, keep], found[1][p, n, keep]
    return scores, labels


KINDS = ("some", "best", "all", "all but one")


@settings(max_examples=60, deadline=None)
@given(
    n_points=st.sampled_from([1, 5, LINE + 3]),
    n_labels=st.sampled_from([1, 7, 900, 12_000]),
    B=st.sampled_from([2, 17, 40, FAR]),
    R=st.integers(1, 9),
    k=st.sampled_from([1, 5, LEADERS + 1]),
    levels=st.sampled_from([1, 3, 1000]),
    kind=st.sampled_from(KINDS),
    estimator=st.sampled_from(EXACT),
    method=st.sampled_from(["auto", "dense", "pruned"]),
    seed=st.integers(0, 1000),
)
def test_every_method_equals_the_reference_and_a_longer_ranking(
    n_points: int, n_labels: int, B: int, R: int, k: int, levels: int, kind: str, estimator: str, method: str, seed: int
) -> None:
    """Ties, points without pairs, no label left, fewer left than k, several prefixes."""
    rng = np.random.default_rng(seed)
    if B == FAR:
        n_points, R = min(n_points, 5), min(R, 3)
    scores = (rng.integers(-levels, levels, size=(n_points, R, B)) / 7).astype(np.float32)
    decoder = Decoder(hash_labels(n_labels, B, R, seed=seed), B)
    prefixes = sorted(set(rng.integers(1, R + 1, size=2).tolist()))
    _, best = decoder.top_k(scores, 30, estimator=estimator, method="dense")
    pairs = drawn(n_points, n_labels, kind, best, rng)
    ask = {"estimator": estimator, "excluded": pairs}
    found = decoder.top_k_prefixes(scores, k, prefixes, method=method, **ask)
    assert_same(found, decoder.top_k_prefixes(scores, k, prefixes, method="reference", **ask))
    if n_labels <= 900:
        longer = k + int(np.diff(pairs.indptr).max(initial=0))
        unmasked = decoder.top_k_prefixes(scores, longer, prefixes, estimator=estimator, method="dense")
        assert_same(found, dropped(unmasked, pairs, k))


@settings(max_examples=30, deadline=None)
@given(
    B=st.sampled_from([40, 300, 1003]),
    k=st.integers(1, 7),
    raised=st.sampled_from([0, 6, 40]),
    kind=st.sampled_from(["some", "best"]),
    coarse=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_pruning_proves_the_ranking_of_the_other_labels(
    B: int, k: int, raised: int, kind: str, coarse: bool, seed: int
) -> None:
    """Peaked scores, whose best labels are those that may not be ranked."""
    lookup = hash_labels(30_000, B, 12, seed=seed)
    scores = simulated(20, lookup, B, seed, raised)
    scores = np.round(scores) if coarse else scores
    decoder = Decoder(lookup, B)
    _ = decoder.index
    pairs = drawn(20, 30_000, kind, decoder.top_k(scores, 30, method="dense")[1], np.random.default_rng(seed))
    plain = decoder.top_k(scores, k, method="reference", excluded=pairs)
    for method in ("pruned", "auto"):
        assert_same(decoder.top_k(scores, k, method=method, excluded=pairs), plain)


def test_a_forecast_that_pairs_make_too_high_is_corrected() -> None:
    """The first groups have no pairs; then the best hundreds of every point's labels may not be ranked."""
    lookup = hash_labels(40_000, 300, 8)
    scores = np.random.default_rng(2).normal(size=(3 * LINE, 8, 300)).astype(np.float32)
    decoder = Decoder(lookup, 300)
    _, best = decoder.top_k(scores, 400, method="reference")
    counts = np.where(np.arange(3 * LINE) < LINE, 0, 400)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    pairs = indptr, np.concatenate([np.sort(row)[:count] for row, count in zip(best, counts, strict=True)])
    assert_same(
        decoder.top_k(scores, 5, method="dense", excluded=pairs),
        decoder.top_k(scores, 5, method="reference", excluded=pairs),
    )


@pytest.mark.parametrize("method", ["auto", "dense", "pruned"])
def test_full_lists_are_thinned_out_without_excluded_labels(method: str) -> None:
    """More labels near the top than a task can keep, and the best of them may not be ranked."""
    lookup = hash_labels(40_960, 3, 4, seed=2)
    scores = np.random.default_rng(1).normal(size=(5, 4, 3)).astype(np.float32)
    best = top_k(scores, lookup, 3000)[1]
    pairs = sp.csr_matrix((np.ones(15_000), np.sort(best, 1).ravel(), np.arange(6) * 3000), shape=(5, 40_960))
    for estimator in ("logit_sum", "min", "median"):
        ask = {"estimator": estimator, "excluded": pairs}
        assert_same(top_k(scores, lookup, 7, method=method, **ask), top_k(scores, lookup, 7, method="reference", **ask))


@settings(max_examples=12, deadline=None)
@given(
    n_labels=st.sampled_from([1, 40, 3000]),
    B=st.sampled_from([1, 9, 200]),
    R=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_top_buckets_ranks_the_other_labels(n_labels: int, B: int, R: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = (rng.integers(-20, 20, size=(5, R, B)) / 4).astype(np.float32)
    lookup = hash_labels(n_labels, B, R, seed=seed)
    best = top_k(scores, lookup, 3, estimator="top_buckets")[1]
    pairs = drawn(5, n_labels, "best", best, rng)
    expected = top_buckets_reference(scores, lookup, 4, min(50, B), min(2, R), Excluded.of(pairs, 5, n_labels))
    assert_same(top_k(scores, lookup, 4, estimator="top_buckets", excluded=pairs), expected)


def test_pairs_by_hand() -> None:
    """As a matrix, also with ids out of order, and as its arrays; an entry that is 0 is a pair as well."""
    scores = np.array([[[0.0, 1.0]], [[1.0, 0.0]]], dtype=np.float32)
    lookup = np.array([[0, 1, 0, 1, 1]], dtype=np.uint16)
    disordered = sp.csr_matrix((np.array([1.0, 0.0, 1.0]), np.array([4, 1, 0]), np.array([0, 2, 3])), shape=(2, 5))
    arrays = np.array([0, 2, 3]), np.array([1, 4, 0])
    for pairs in (disordered, arrays, (arrays[0], np.array([4, 1, 0]))):
        for method in METHODS:
            assert top_k(scores, lookup, 4, method=method, excluded=pairs)[1].tolist() == [[3, 0, 2, -1], [2, 1, 3, 4]]
    assert disordered.indices.tolist() == [4, 1, 0]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (sp.csr_matrix((2, 4)), r"excluded: found shape \(2, 4\); expected \(2, 5\)"),
        (sp.csr_matrix((1, 5)), r"excluded: found shape \(1, 5\); expected \(2, 5\)"),
        ((np.array([0, 1]), np.array([0])), "expected CSR arrays of 2 points"),
        ((np.array([0, 2, 1]), np.array([0])), "expected CSR arrays of 2 points"),
        ((np.array([0, 0, 2]), np.array([0])), "expected CSR arrays of 2 points"),
        ((np.array([0, 0, 1]), np.array([5])), "found labels 5 to 5, but there are 5"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(pairs: object, message: str) -> None:
    scores, lookup = np.zeros((2, 1, 2), dtype=np.float32), np.zeros((1, 5), dtype=np.uint16)
    with pytest.raises(ValueError, match=message):
        top_k_prefixes(scores, lookup, 2, [1], excluded=pairs)  # type: ignore[arg-type]
