"""Hash families: the compiled loops against their plain definitions, and what each family promises."""

from __future__ import annotations

import collections
import itertools
import math
import re
import tracemalloc

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mach.hashing import families, kernels, reference
from mach.hashing.families import FAMILIES, MERSENNE_31, hash_features, hash_labels
from mach.theory.collisions import expected_unresolved_pairs, unresolved_pairs

every_family = pytest.mark.parametrize("family", sorted(FAMILIES))


def plain(family: str, n_labels: int, B: int, seed: int, r: int) -> list[int]:
    if family == "universal":
        return reference.universal(n_labels, B, *families.universal_coefficients(seed, r))
    if family == "murmur3":
        return reference.murmur3(n_labels, B, families.murmur3_seed(seed, r))
    return reference.balanced(n_labels, B, families.balanced_state(seed, r), families.block_bits(n_labels))


@settings(deadline=None)
@given(
    family=st.sampled_from(sorted(FAMILIES)),
    n_labels=st.integers(1, 300),
    B=st.integers(1, 400) | st.integers(1, MERSENNE_31) | st.sampled_from([2**16, 2**16 + 1]),
    R=st.integers(1, 4),
    seed=st.just(0) | st.integers(0, 2**70),
    chunk=st.integers(1, 100),
    block=st.integers(1, 100),
)
def test_tables_equal_the_plain_definition(
    family: str, n_labels: int, B: int, R: int, seed: int, chunk: int, block: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(families, "CHUNK", chunk)
        patch.setattr(families, "BLOCK", block)
        lookup = hash_labels(n_labels, B, R, family=family, seed=seed)
        assert lookup.tolist() == [plain(family, n_labels, B, seed, r) for r in range(R)]
    assert lookup.dtype == (np.uint16 if B <= 65_536 else np.int32)
    assert lookup.flags.c_contiguous


@pytest.mark.parametrize("B", [1, 3, 20_000, 2**31 - 1])
def test_remainders_at_both_ends_of_the_range(B: int) -> None:
    """Ids up to 2^31 − 2, which no table of a test can reach from 0."""
    first, out = MERSENNE_31 - 1000, np.empty(1000, dtype=np.int32)
    a, b = MERSENNE_31 - 1, MERSENNE_31 - 2
    kernels.universal(out, first, a, b, B)
    assert out.tolist() == [(a * (first + i) + b) % MERSENNE_31 % B for i in range(1000)]
    kernels.murmur3(out, first, 2**32 - 1, B)
    hashed = [reference.murmur3_32((first + i).to_bytes(4, "little"), 2**32 - 1) for i in range(1000)]
    assert out.tolist() == [reference.signed_32(h) % B for h in hashed]


@pytest.mark.parametrize("B", [49, 98, 103])
def test_remainders_where_the_reciprocal_rounds_down(B: int) -> None:
    """1/49 · 49 is below 1 in double precision: multiples of B would get the bucket B, which does not exist."""
    assert 1 / B * B < 1
    out = np.empty(1000, dtype=np.int32)
    kernels.universal(out, 0, 1, 0, B)
    assert out.tolist() == [x % B for x in range(1000)]


@every_family
def test_a_table_of_several_chunks_and_blocks(family: str) -> None:
    n_labels = 2 * families.CHUNK + 5
    row = hash_labels(n_labels, 50_000, 1, family=family, seed=9)[0]
    if family == "balanced":
        counts = np.bincount(row, minlength=50_000)
        assert counts.max() - counts.min() == 1
        return
    some = [0, 1, families.CHUNK - 1, families.CHUNK, 2 * families.CHUNK, n_labels - 1]
    if family == "universal":
        a, b = families.universal_coefficients(9, 0)
        assert row[some].tolist() == [(a * x + b) % MERSENNE_31 % 50_000 for x in some]
    else:
        seed = families.murmur3_seed(9, 0)
        hashed = [reference.murmur3_32(x.to_bytes(4, "little"), seed) for x in some]
        assert row[some].tolist() == [reference.signed_32(h) % 50_000 for h in hashed]


@every_family
def test_a_smaller_R_is_a_prefix(family: str) -> None:
    """What makes the R sweep one run: the table of 3 repetitions starts the table of 7."""
    seven, three = (hash_labels(500, 64, R, family=family, seed=3) for R in (7, 3))
    np.testing.assert_array_equal(seven[:3], three)


@every_family
def test_the_number_of_threads_changes_nothing(family: str) -> None:
    threads = numba.get_num_threads()
    several = hash_labels(300_000, 64, 3, family=family)
    try:
        numba.set_num_threads(1)
        np.testing.assert_array_equal(several, hash_labels(300_000, 64, 3, family=family))
    finally:
        numba.set_num_threads(threads)


@every_family
def test_repetitions_and_seeds_differ(family: str) -> None:
    lookup = hash_labels(5000, 64, 3, family=family, seed=0)
    other = hash_labels(5000, 64, 3, family=family, seed=1)
    for (s, left), (t, right) in itertools.combinations([*enumerate(lookup), *enumerate(other, 3)], 2):
        assert (left != right).mean() > 0.9, (s, t)


@every_family
def test_nothing_as_long_as_a_row_is_kept_beside_the_table(family: str) -> None:
    hash_labels(10, 100, 1, family=family)  # compiled before memory is counted
    tracemalloc.start()
    lookup = hash_labels(500_000, 100, 4, family=family)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < lookup.nbytes + lookup.nbytes // 8


def test_universal_tables_stay_what_they_were() -> None:
    """Values of version 0.1.0: results with the same seed stay comparable."""
    assert hash_labels(6, 97, 3, seed=11).tolist() == [
        [55, 11, 64, 20, 73, 29],
        [95, 94, 93, 27, 26, 25],
        [75, 46, 82, 21, 57, 93],
    ]
    assert hash_labels(4, 100_000, 2).tolist() == [[64806, 82773, 740, 18707], [99504, 39651, 63445, 3592]]


def test_other_tables_stay_what_they_are() -> None:
    """Values of the first version: a change of the draws must say so in the changelog."""
    assert hash_labels(8, 3, 2, family="balanced", seed=1).tolist() == [
        [2, 1, 1, 0, 0, 1, 2, 0],
        [0, 1, 1, 0, 2, 2, 0, 1],
    ]
    assert hash_labels(4, 100, 2, family="murmur3", seed=1).tolist() == [[77, 80, 40, 72], [89, 47, 5, 77]]


def test_murmur3_of_known_values() -> None:
    """Values from scikit-learn's own test of murmurhash3_32: key 3 with seeds 0 and 42, read as signed."""
    assert reference.signed_32(reference.murmur3_32((3).to_bytes(4, "little"), 0)) == 847579505
    assert reference.signed_32(reference.murmur3_32((3).to_bytes(4, "little"), 42)) == -1823081949
    lookup = hash_labels(4, 10_000, 43, family="murmur3")
    assert lookup[0, 3] == 847579505 % 10_000
    assert lookup[42, 3] == 10_000 - 1823081949 % 10_000


def test_murmur3_at_seed_0_is_the_table_of_the_official_code() -> None:
    """murmurhash3_32(i, seed=r) % B label by label, then as an array at the size and B of Amazon-670K."""
    murmurhash3_32 = pytest.importorskip("sklearn.utils").murmurhash3_32
    lookup = hash_labels(500, 2_000, 32, family="murmur3")
    assert lookup.tolist() == [[murmurhash3_32(i, seed=r) % 2_000 for i in range(500)] for r in range(32)]
    lookup = hash_labels(670_091, 10_000, 32, family="murmur3")
    for r in (0, 31):
        np.testing.assert_array_equal(lookup[r], murmurhash3_32(np.arange(670_091, dtype=np.int32), seed=r) % 10_000)
    other = murmurhash3_32(np.arange(500, dtype=np.int32), seed=families.murmur3_seed(7, 2)) % 2_000
    np.testing.assert_array_equal(hash_labels(500, 2_000, 3, family="murmur3", seed=7)[2], other)


@settings(deadline=None)
@given(n_labels=st.integers(1, 500), B=st.integers(1, 600), seed=st.integers(0, 2**32))
def test_balanced_buckets_differ_by_at_most_one(n_labels: int, B: int, seed: int) -> None:
    for row in hash_labels(n_labels, B, 2, family="balanced", seed=seed):
        counts = np.bincount(row, minlength=B)
        assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("bits", [0, 1, 2])
def test_every_order_is_equally_likely(bits: int) -> None:
    """24,000 shuffles of four entries, in one block and in several: each permutation 1,000 times, within 5 sd."""
    row = np.empty(4, dtype=np.uint16)
    permutations: collections.Counter[tuple[int, ...]] = collections.Counter()
    for state in np.random.default_rng(0).integers(0, 2**64, 24_000, dtype=np.uint64):
        kernels.scatter_shuffle(row, 4, state, bits)
        permutations[tuple(row.tolist())] += 1
    assert len(permutations) == 24
    assert max(abs(n - 1000) for n in permutations.values()) < 5 * math.sqrt(1000)


def pair_chance(family: str, n_labels: int, B: int) -> float:
    """Chance that two labels share a bucket in one repetition: 1/B, or exactly that of a balanced cut."""
    if family != "balanced":
        return 1 / B
    sizes = np.bincount(np.arange(n_labels) % B)
    return float((sizes * (sizes - 1)).sum()) / (n_labels * (n_labels - 1))


@every_family
def test_pairs_collide_with_chance_one_in_B(family: str) -> None:
    """Over the draw of the function: 4,000 functions, 20 fixed pairs, B = 16, within 5 standard errors."""
    rng = np.random.default_rng(0)
    pairs = np.array([rng.choice(1000, 2, replace=False) for _ in range(20)])
    lookup = hash_labels(1000, 16, 4000, family=family, seed=5)
    rate = (lookup[:, pairs[:, 0]] == lookup[:, pairs[:, 1]]).mean(0)
    chance = pair_chance(family, 1000, 16)
    assert np.all(np.abs(rate - chance) < 5 * np.sqrt(chance * (1 - chance) / 4000))


def pairs_over_draws(family: str, K: int, B: int, R: int, draws: int) -> np.ndarray:
    """Label pairs not separated after 1 … R repetitions, for each of ``draws`` tables: [draws, R]."""
    return np.array([unresolved_pairs(hash_labels(K, B, R, family=family, seed=seed)) for seed in range(draws)])


@every_family
def test_unresolved_pairs_meet_the_expectation_on_average_over_draws(family: str) -> None:
    """300 labels, 8 buckets, 1 to 3 repetitions, 1,000 tables: the mean within 4 standard errors."""
    K, B, R, draws = 300, 8, 3, 1000
    found = pairs_over_draws(family, K, B, R, draws)
    expected = np.array([K * (K - 1) / 2 * pair_chance(family, K, B) ** r for r in range(1, R + 1)])
    if family != "balanced":
        np.testing.assert_allclose(expected, [expected_unresolved_pairs(K, B, r) for r in range(1, R + 1)])
    errors = found.std(axis=0, ddof=1) / math.sqrt(draws)
    assert np.all(np.abs(found.mean(axis=0) - expected) <= 4 * errors + 1e-9), (found.mean(axis=0), expected, errors)


def test_universal_scatters_more_than_random_buckets_at_one_draw() -> None:
    """What the module says of consecutive ids: with 2 repetitions the counts spread several times murmur3's."""
    spread = {family: pairs_over_draws(family, 300, 8, 2, 200)[:, 1].std() for family in ("universal", "murmur3")}
    assert spread["universal"] > 4 * spread["murmur3"], spread


def test_features_are_hashed_like_the_authors_do() -> None:
    """Amazon-3M: 337,067 features to 100,000, murmurhash3_32(i, seed=r) % 100,000; ids above 65,535 need int32."""
    table = hash_features(337_067, 100_000, 3)
    assert table.shape == (3, 337_067)
    assert table.dtype == np.int32
    assert table[:, :50].tolist() == [reference.murmur3(50, 100_000, r) for r in range(3)]
    np.testing.assert_array_equal(table, hash_labels(337_067, 100_000, 3, family="murmur3"))
    np.testing.assert_array_equal(
        hash_features(100, 10, 2, family="balanced", seed=4), hash_labels(100, 10, 2, family="balanced", seed=4)
    )


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 4, 1), "n_labels: found 0; expected a whole number of at least 1"),
        ((4, 0, 1), "B: found 0; expected a whole number of at least 1"),
        ((4, 4, 0), "R: found 0; expected a whole number of at least 1"),
        ((4, 2.0, 1), "B: found 2.0; expected a whole number"),
        ((True, 4, 1), "n_labels: found True; expected a whole number of at least 1"),
        ((2**31, 4, 1), "n_labels: found 2,147,483,648; the hash families cover up to 2,147,483,647"),
        ((4, 2**31, 1), "B: found 2,147,483,648; the hash families cover up to 2,147,483,647"),
    ],
)
def test_impossible_sizes_are_refused(sizes: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        hash_labels(*sizes)
    renamed = message.replace("n_labels", "n_features").replace("B:", "n_buckets:")
    with pytest.raises(ValueError, match=re.escape(renamed)):
        hash_features(*sizes)


def test_other_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match=r"unknown hash family 'md5'; known: balanced, murmur3, universal"):
        hash_labels(4, 4, 1, family="md5")
    with pytest.raises(ValueError, match="seed: found -1; expected a whole number of at least 0"):
        hash_labels(4, 4, 1, seed=-1)
    assert hash_labels(np.int64(4), np.int32(2), np.uint8(1)).shape == (1, 4)  # type: ignore[arg-type]
