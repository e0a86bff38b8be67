"""Counter-based random integers: draw number i of stream s is a pure function of (seed, s, i).

Integers only, so the same bytes come out on every machine and numpy version, in chunks of any size and order.
The mixer is splitmix64's finaliser (Steele, Lea, Flood 2014); the permutation is a four-round Feistel
network with cycle walking (Black, Rogaway 2002).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def _mix(z: U64) -> U64:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class Draws:
    """Random integers for one seed; ``stream`` keeps uses apart."""

    def __init__(self, seed: int) -> None:
        self._base = np.array([seed % 2**64], dtype=np.uint64)

    def bits(self, stream: int, counter: NDArray[np.int64]) -> U64:
        """64 random bits for each counter (same shape)."""
        key = _mix(_mix(self._base * _GAMMA + np.uint64(1)) + np.array([stream], dtype=np.uint64) * _GAMMA)
        return _mix(_mix(key + counter.astype(np.uint64)) + _GAMMA)

    def below(self, stream: int, counter: NDArray[np.int64], bound: int | NDArray[np.int64]) -> NDArray[np.int64]:
        """Integers from 0 to ``bound - 1`` (bound below 2^32) for each counter."""
        high = self.bits(stream, counter) >> np.uint64(32)
        return ((high * np.asarray(bound).astype(np.uint64)) >> np.uint64(32)).astype(np.int64)

    def chance(self, stream: int, counter: NDArray[np.int64], part: int, of: int) -> NDArray[np.bool_]:
        """True with probability part/of, for each counter."""
        return self.below(stream, counter, of) < part

    def permute(self, stream: int, values: NDArray[np.int64], size: int) -> NDArray[np.int64]:
        """Image of each value under a random permutation of 0..size-1, without storing the permutation."""
        half = max((max(size - 1, 1).bit_length() + 1) // 2, 1)
        shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
        out = values.astype(np.uint64)
        todo = np.arange(out.size)
        while todo.size:
            left, right = out[todo] >> shift, out[todo] & mask
            for turn in range(4):
                mixed = self.bits(1024 + stream * 4 + turn, right.astype(np.int64)) & mask
                left, right = right, left ^ mixed
            out[todo] = (left << shift) | right
            todo = todo[out[todo] >= np.uint64(size)]
        return out.astype(np.int64)


def zipf_table(size: int, offset: int) -> NDArray[np.int64]:
    """Cumulative integer weights of Zipf-Mandelbrot's law 1/(rank + offset), rank from 1: [size]."""
    ranks = np.arange(1, size + 1, dtype=np.int64)
    return np.cumsum(np.int64(1 << 32) // (ranks + offset))
