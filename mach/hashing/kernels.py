"""The compiled loops of `mach.hashing.families`: each writes the buckets of consecutive ids and releases the GIL.

None needs a temporary array of the size of its output. The plain definitions that they must equal are in
`mach.hashing.reference`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

MERSENNE_31 = 2**31 - 1  # prime, and small enough that a·x + b stays below 2^62
GOLDEN, MIX_1, MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # SplitMix64 (Steele et al. 2014)


@njit(nogil=True, cache=True)
def _remainder(value: Any, B: Any, inverse: Any) -> Any:
    """value mod B in [0, B) for −2^31 ≤ value < 2^31, by the reciprocal: vector registers multiply but do not divide.

    The product with ``inverse`` = 1/B in double precision has an error below one, so one step up or down corrects it.
    """
    rest = value - np.int64(np.int32(np.float64(np.int32(value)) * inverse)) * B
    rest += B if rest < 0 else 0
    rest -= B if rest >= B else 0
    return rest


@njit(nogil=True, cache=True)
def universal(out: Any, first: int, a: int, b: int, B: int) -> None:
    """out[i] = ((a·(first + i) + b) mod (2^31 − 1)) mod B."""
    inverse = 1.0 / B
    for i in range(out.size):
        value = a * (first + i) + b
        value = (value & MERSENNE_31) + (value >> 31)  # 2^31 is 1 modulo the prime: below 2^32
        value = (value & MERSENNE_31) + (value >> 31)  # at most the prime
        value = 0 if value == MERSENNE_31 else value
        out[i] = _remainder(value, B, inverse)


@njit(nogil=True, cache=True)
def murmur3(out: Any, first: int, seed: int, B: int) -> None:
    """out[i] = MurmurHash3_x86_32 of the four bytes of first + i, read as a signed number, modulo B in [0, B)."""
    inverse = 1.0 / B
    for i in range(out.size):
        k = np.uint32(np.uint32(first + i) * np.uint32(0xCC9E2D51))
        k = np.uint32(np.uint32(k << np.uint32(15)) | (k >> np.uint32(17)))
        k = np.uint32(k * np.uint32(0x1B873593))
        h = np.uint32(np.uint32(seed) ^ k)
        h = np.uint32(np.uint32(h << np.uint32(13)) | (h >> np.uint32(19)))
        h = np.uint32(np.uint32(h * np.uint32(5)) + np.uint32(0xE6546B64))
        h = np.uint32(h ^ np.uint32(4))  # the length in bytes
        h = np.uint32(np.uint32(h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B))
        h = np.uint32(np.uint32(h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35))
        h = np.uint32(h ^ (h >> np.uint32(16)))
        out[i] = _remainder(np.int64(np.int32(h)), B, inverse)


@njit(nogil=True, cache=True)
def _random(state: Any) -> Any:
    """The upper 32 bits of SplitMix64's next number."""
    z = (state ^ (state >> np.uint64(30))) * np.uint64(MIX_1)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(MIX_2)
    return (z ^ (z >> np.uint64(31))) >> np.uint64(32)


@njit(nogil=True, cache=True)
def scatter_shuffle(out: Any, B: int, state: Any, block_bits: int) -> None:
    """out = a uniformly random order of i mod B for i = 0 … size − 1, drawn from SplitMix64 at ``state``.

    Every entry is thrown into one of 2^block_bits blocks, then each block is shuffled by itself (Rao 1961;
    Sandelius 1962): as random as one shuffle of the whole, and each block fits in the cache.
    """
    golden, shift = np.uint64(GOLDEN), np.uint64(32 - block_bits)
    start = state
    ends = np.zeros(2**block_bits + 1, dtype=np.int64)
    for _ in range(out.size):
        state += golden
        ends[np.int64(_random(state) >> shift) + 1] += 1
    for block in range(2**block_bits):
        ends[block + 1] += ends[block]
    fill = ends[:-1].copy()
    state, bucket = start, 0
    for _ in range(out.size):
        state += golden
        into = np.int64(_random(state) >> shift)
        out[fill[into]] = bucket
        fill[into] += 1
        bucket = 0 if bucket == B - 1 else bucket + 1
    for block in range(2**block_bits):
        low = ends[block]
        for size in range(ends[block + 1] - low, 1, -1):  # Fisher–Yates, from the end
            bound = np.uint64(size)
            fair = np.uint64(2**32) - np.uint64(2**32) % bound  # numbers from here on would favour the first entries
            state += golden
            drawn = _random(state)
            while drawn >= fair:
                state += golden
                drawn = _random(state)
            other, last = low + np.int64(drawn % bound), low + size - 1
            out[other], out[last] = out[last], out[other]
