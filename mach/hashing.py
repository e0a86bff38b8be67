"""Hash families that send K labels to B buckets, once for each of R repetitions.

Repetition r draws its function from (seed, r) alone, so a table for R repetitions is the first R rows of a
table for more: this is what lets one trained model be evaluated at every smaller R.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

MERSENNE_31 = 2**31 - 1  # prime, and small enough that a·x + b stays below 2^62

HashFamily = Callable[[int, int, np.random.Generator], npt.NDArray[np.int64]]


def universal(n_labels: int, B: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """h(x) = ((a·x + b) mod p) mod B with p = 2^31 − 1 (Carter and Wegman 1979); two labels meet with chance ≤ 1/B.

    Returns the bucket of every label, int64 [n_labels].
    """
    a = np.uint64(rng.integers(1, MERSENNE_31))
    b = np.uint64(rng.integers(0, MERSENNE_31))
    x = np.arange(n_labels, dtype=np.uint64)
    return ((a * x + b) % np.uint64(MERSENNE_31) % np.uint64(B)).astype(np.int64)


FAMILIES: dict[str, HashFamily] = {"universal": universal}


def hash_labels(
    n_labels: int, B: int, R: int, *, family: str = "universal", seed: int = 0
) -> npt.NDArray[np.uint16] | npt.NDArray[np.int32]:
    """Bucket of every label in every repetition.

    Returns an array [R, n_labels] of ids in [0, B): uint16 while B ≤ 65,536 (half the memory traffic of decoding),
    int32 above. Raises ValueError for sizes below one, more than 2^31 − 1 labels, or an unknown family.
    """
    if min(n_labels, B, R) < 1:
        raise ValueError(f"n_labels, B and R must be at least 1, got {n_labels}, {B}, {R}")
    if n_labels > MERSENNE_31:
        raise ValueError(f"the universal family covers {MERSENNE_31:,} labels, got {n_labels:,}")
    if family not in FAMILIES:
        raise ValueError(f"unknown hash family {family!r}; known: {', '.join(sorted(FAMILIES))}")
    lookup = np.empty((R, n_labels), dtype=np.uint16 if B <= 2**16 else np.int32)
    for r in range(R):
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, r])))
        lookup[r] = FAMILIES[family](n_labels, B, rng)
    return lookup
