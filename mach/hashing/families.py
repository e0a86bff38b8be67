"""Hash families that send K labels to B buckets, once for each of R repetitions; and features likewise.

Repetition r draws its function from (seed, r) alone, so a table for R repetitions is the first R rows of a
table for more: this is what lets one trained model be evaluated at every smaller R.

* ``universal``: ((a·x + b) mod p) mod B, p = 2^31 − 1, a and b drawn (Carter and Wegman 1979). Over the draw, two
  labels share a bucket with probability 1/B (less a rounding of p/B). For one draw the labels are not distributed at
  random: consecutive ids step through the buckets at a fixed stride, so the label pairs that share their buckets
  vary widely around K(K−1)/2 · B^−R, their average over draws; and labels of neighbouring ids that collide do so
  together, which makes the estimator's variance larger than the formula (`mach.theory.collisions.estimator_variance`).
* ``murmur3``: murmurhash3_32(x, seed) mod B, what the authors' code does. Seed 0 gives exactly their tables (function r
  has MurmurHash3's seed r); any other seed draws the seed of function r from (seed, r). It behaves as random buckets.
* ``balanced``: a random permutation of the labels cut into B buckets whose sizes differ by at most one (the first
  K mod B buckets are the larger ones). Two labels share a bucket with probability a little below 1/B.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, cast

import numba
import numpy as np
import numpy.typing as npt

from mach.hashing import kernels
from mach.hashing.kernels import MERSENNE_31

CHUNK = 2**20  # ids that one thread hashes at a time
BLOCK = 2**17  # entries shuffled together: they stay within a core's cache

Lookup = npt.NDArray[np.uint16] | npt.NDArray[np.int32]
Task = Callable[[], None]


def _draws(seed: int, r: int) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, r])


def universal_coefficients(seed: int, r: int) -> tuple[int, int]:
    """The a in [1, p) and b in [0, p) of repetition r, p = 2^31 − 1."""
    rng = np.random.Generator(np.random.PCG64(_draws(seed, r)))
    return int(rng.integers(1, MERSENNE_31)), int(rng.integers(0, MERSENNE_31))


def murmur3_seed(seed: int, r: int) -> int:
    """MurmurHash3's 32-bit seed in repetition r: r itself for seed 0, as in the authors' code, else drawn."""
    return r if seed == 0 else int(_draws(seed, r).generate_state(1, np.uint32)[0])


def balanced_state(seed: int, r: int) -> int:
    """Initial state, 64 bits, of the generator of repetition r's random order."""
    return int(_draws(seed, r).generate_state(1, np.uint64)[0])


def block_bits(n_labels: int) -> int:
    """Base-2 logarithm of the number of blocks in which that many labels are shuffled."""
    return max(0, ((n_labels - 1) // BLOCK).bit_length())


def _universal(row: npt.NDArray[Any], B: int, seed: int, r: int) -> list[Task]:
    a, b = universal_coefficients(seed, r)
    return [partial(kernels.universal, part, first, a, b, B) for first, part in _chunks(row)]


def _murmur3(row: npt.NDArray[Any], B: int, seed: int, r: int) -> list[Task]:
    mixed = murmur3_seed(seed, r)
    return [partial(kernels.murmur3, part, first, mixed, B) for first, part in _chunks(row)]


def _balanced(row: npt.NDArray[Any], B: int, seed: int, r: int) -> list[Task]:
    state = np.uint64(balanced_state(seed, r))
    return [partial(kernels.scatter_shuffle, row, B, state, block_bits(row.size))]


def _chunks(row: npt.NDArray[Any]) -> list[tuple[int, npt.NDArray[Any]]]:
    return [(first, row[first : first + CHUNK]) for first in range(0, row.size, CHUNK)]


FAMILIES: dict[str, Callable[[npt.NDArray[Any], int, int, int], list[Task]]] = {
    "universal": _universal,
    "murmur3": _murmur3,
    "balanced": _balanced,
}


def hash_labels(n_labels: int, B: int, R: int, *, family: str = "universal", seed: int = 0, first: int = 0) -> Lookup:
    """Bucket of every label in every repetition.

    Args:
        n_labels: labels K, 1 to 2^31 − 1; they are hashed by their ids 0 … K − 1.
        B, R: buckets per repetition, 1 to 2^31 − 1, and repetitions, 1 or more.
        family: ``universal``, ``murmur3`` or ``balanced``; see the top of `mach.hashing.families`.
        seed: 0 or more. Repetition r depends on (family, n_labels, B, seed, r) alone, never on R; without n_labels too
            for ``universal`` and ``murmur3``, whose functions are the same for any number of labels.
        first: number of the first repetition: the table is the rows first … first + R − 1 of the one for all of them.

    Returns:
        An array [R, n_labels] of ids in [0, B): uint16 while B ≤ 65,536 (half the memory traffic of decoding),
        int32 above. It is filled in place by numba's number of threads.

    Raises:
        ValueError: a size is no whole number or out of range, the seed or ``first`` negative, or the family unknown.
    """
    return _table({"n_labels": n_labels, "B": B, "R": R}, family, seed, first)


def hash_features(
    n_features: int, n_buckets: int, R: int, *, family: str = "murmur3", seed: int = 0, first: int = 0
) -> Lookup:
    """Hashed id of every input feature in every repetition, to shrink each repetition's input layer.

    The authors' Amazon-3M recipe: ``murmur3`` at seed 0 sends its 337,067 features to 100,000, with the same function
    as the labels of that repetition. Features that share an id add up their values.

    Args, dtype and errors as `hash_labels`, with features for labels: an array [R, n_features] of ids in
    [0, n_buckets).
    """
    return _table({"n_features": n_features, "n_buckets": n_buckets, "R": R}, family, seed, first)


def _table(sizes: dict[str, int], family: str, seed: int, first: int) -> Lookup:
    """The table [R, ids] for ``sizes``: ids, buckets and R under the names of the caller's arguments."""
    ids, buckets, R = (_whole(name, value, 1) for name, value in sizes.items())
    seed, first = _whole("seed", seed, 0), _whole("first", first, 0)
    if max(ids, buckets) > MERSENNE_31:
        over = next(name for name, value in sizes.items() if value > MERSENNE_31)
        raise ValueError(f"{over}: found {sizes[over]:,}; the hash families cover up to {MERSENNE_31:,}")
    if family not in FAMILIES:
        raise ValueError(f"unknown hash family {family!r}; known: {', '.join(sorted(FAMILIES))}")
    lookup = np.empty((R, ids), dtype=np.uint16 if buckets <= 2**16 else np.int32)
    tasks = [task for r in range(R) for task in FAMILIES[family](lookup[r], buckets, seed, first + r)]
    with ThreadPoolExecutor(min(numba.get_num_threads(), len(tasks))) as pool:
        for done in [pool.submit(task) for task in tasks]:
            done.result()
    return cast(Lookup, lookup)


def _whole(name: str, value: int, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name}: found {value!r}; expected a whole number") from None
    if isinstance(value, bool) or number < least:
        raise ValueError(f"{name}: found {value!r}; expected a whole number of at least {least}")
    return number
