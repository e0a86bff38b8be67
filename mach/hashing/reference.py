"""The definitions of the hash families in plain Python, which the compiled loops of `mach.hashing.kernels` must equal.

Each takes the numbers that `mach.hashing.families` draws for (seed, r), and returns the list of all labels' buckets.
"""

from __future__ import annotations

from collections.abc import Iterator

MASK_32, MASK_64 = 2**32 - 1, 2**64 - 1


def universal(n_labels: int, B: int, a: int, b: int) -> list[int]:
    """((a·x + b) mod (2^31 − 1)) mod B: Carter and Wegman, Universal classes of hash functions, 1979."""
    return [(a * x + b) % (2**31 - 1) % B for x in range(n_labels)]


def murmur3(n_labels: int, B: int, seed: int) -> list[int]:
    """murmurhash3_32(x, seed) mod B as the MACH code takes it: hash read as signed, remainder in [0, B)."""
    return [signed_32(murmur3_32(x.to_bytes(4, "little"), seed)) % B for x in range(n_labels)]


def murmur3_32(four: bytes, seed: int) -> int:
    """MurmurHash3_x86_32 (Appleby, public domain) of four bytes, unsigned."""
    k = int.from_bytes(four, "little") * 0xCC9E2D51 & MASK_32
    h = seed ^ (rotated(k, 15) * 0x1B873593 & MASK_32)
    h = (rotated(h, 13) * 5 + 0xE6546B64 & MASK_32) ^ len(four)
    h = (h ^ h >> 16) * 0x85EBCA6B & MASK_32
    h = (h ^ h >> 13) * 0xC2B2AE35 & MASK_32
    return h ^ h >> 16


def rotated(value: int, by: int) -> int:
    """The 32 bits of ``value`` turned left."""
    return (value << by | value >> (32 - by)) & MASK_32


def signed_32(value: int) -> int:
    """32 bits read as a two's complement number."""
    return value - 2**32 if value >= 2**31 else value


def balanced(n_labels: int, B: int, state: int, block_bits: int) -> list[int]:
    """A random order of 0, 1, …, B − 1, 0, 1, …: entries thrown into 2^block_bits blocks, each block shuffled."""
    random = splitmix_64(state)
    blocks: list[list[int]] = [[] for _ in range(2**block_bits)]
    for i in range(n_labels):
        blocks[next(random) >> (32 - block_bits)].append(i % B)
    for block in blocks:
        for last in range(len(block) - 1, 0, -1):
            other = below(last + 1, random)
            block[other], block[last] = block[last], block[other]
    return [bucket for block in blocks for bucket in block]


def below(bound: int, random: Iterator[int]) -> int:
    """A fair number in [0, bound) from 32-bit numbers: those past the last whole multiple of bound are not used."""
    return next(drawn % bound for drawn in random if drawn < 2**32 - 2**32 % bound)


def splitmix_64(state: int) -> Iterator[int]:
    """The upper 32 bits of SplitMix64's numbers (Steele, Lea, Flood: Fast splittable generators, 2014)."""
    while True:
        state = state + 0x9E3779B97F4A7C15 & MASK_64
        z = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & MASK_64
        z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK_64
        yield (z ^ z >> 31) >> 32
