"""Blocks of points as flat arrays, the form in which sources pass data to the cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Int = NDArray[np.integer[Any]]
Float = NDArray[np.float32]
FLOAT32_LIMIT = 2.0**128 * (1 - 2.0**-25)  # the smallest double that single precision rounds to infinity


class Overflow(Exception):
    """Values of a feature that is given several times add up to more than single precision holds."""

    def __init__(self, point: int, feature: int) -> None:
        super().__init__(point, feature)
        self.point, self.feature = point, feature  # the point's place in the block


@dataclass(frozen=True)
class Block:
    """Some consecutive points. Lengths are per point [n]; indices and values are flat, in point order."""

    x_lengths: Int
    x_indices: Int
    x_values: Float
    y_lengths: Int
    y_indices: Int
    rising: bool = False  # True when it is known that ids rise strictly within each point

    def first(self, points: int) -> Block:
        """The first points of the block (views)."""
        x, y = int(self.x_lengths[:points].sum()), int(self.y_lengths[:points].sum())
        return Block(
            self.x_lengths[:points],
            self.x_indices[:x],
            self.x_values[:x],
            self.y_lengths[:points],
            self.y_indices[:y],
            self.rising,
        )

    def canonical(self) -> Block:
        """Ids rising within each point: duplicate features are summed (in float64), duplicate labels are dropped.

        Works on copies: the caller's arrays are never changed. Raises Overflow.
        """
        if self.rising:
            return self
        x_lengths, x_indices, x_values = _sorted_rows(self.x_lengths, self.x_indices, self.x_values)
        y_lengths, y_indices, _ = _sorted_rows(self.y_lengths, self.y_indices, None)
        assert x_values is not None
        return Block(x_lengths, x_indices, x_values, y_lengths, y_indices, rising=True)


def _sorted_rows(lengths: Int, indices: Int, values: Float | None) -> tuple[Int, Int, Float | None]:
    """Rows with strictly rising indices; duplicates are summed when there are values and dropped
    otherwise."""
    if len(indices) < 2:
        return lengths, indices, values
    ends = np.cumsum(lengths, dtype=np.int64)
    inside = np.ones(len(indices) - 1, dtype=bool)  # pairs (i, i+1) that belong to one row
    borders = ends[(ends > 0) & (ends < len(indices))]
    inside[borders - 1] = False
    if not (inside & (indices[1:] <= indices[:-1])).any():
        return lengths, indices, values
    rows = np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)
    order = np.lexsort((indices, rows))
    rows, sorted_indices = rows[order], indices[order]
    first = np.ones(len(order), dtype=bool)
    first[1:] = (rows[1:] != rows[:-1]) | (sorted_indices[1:] != sorted_indices[:-1])
    new_lengths = np.bincount(rows[first], minlength=len(lengths)).astype(lengths.dtype)
    if values is None:
        return new_lengths, sorted_indices[first], None
    sums = np.add.reduceat(values[order].astype(np.float64), np.flatnonzero(first))
    held = np.abs(sums) < FLOAT32_LIMIT
    if not held.all():
        at = int(np.argmin(held))
        raise Overflow(int(rows[first][at]), int(sorted_indices[first][at]))
    return new_lengths, sorted_indices[first], sums.astype(np.float32)
