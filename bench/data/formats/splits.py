"""Files of random splits: which points of a dataset are train in split 0, 1, 2, ...

Two forms are known. One line per split: its train points, counted from 0. One column per split, as in files of the XML
Repository (``delicious_trSplit.txt``): line i has the i-th train point of every split, counted from 1. The form is
recognised by the shape, because a split has more points than there are splits. All other points are test.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.common.errors import DataError, InputError
from bench.data.formats.csr_blocks import Block
from bench.data.formats.streams import data_lines

Rows = NDArray[np.int64]


def read_splits(path: Path, n_points: int) -> list[Rows]:
    """Train points of each split, rising, counted from 0. Plain text or packed like every other text file.

    Raises DataError naming file and line: no whole number, a point out of range or twice in a split, lines of unequal
    length in a file of columns, a split that leaves no point for train or none for test.
    """
    lines = [(number, line.split()) for number, line in data_lines(path)]
    if not lines:
        raise DataError(path, 1, "an empty file", "the train points of each split")
    if len(lines) > len(lines[0][1]):
        return _columns(path, lines, n_points)
    return [_split(path, [(number, field) for field in fields], 0, n_points) for number, fields in lines]


def train_mask(path: Path, split: int, n_points: int) -> NDArray[np.bool_]:
    """Which points are train in ``split`` [n_points]. InputError when the file has no such split."""
    splits = read_splits(path, n_points)
    if not 0 <= split < len(splits):
        raise InputError(f"split: found {split}; expected 0 to {len(splits) - 1}, the splits in {path}")
    mask = np.zeros(n_points, dtype=bool)
    mask[splits[split]] = True
    return mask


def divide(block: Block, train: NDArray[np.bool_]) -> Iterator[tuple[str, Block]]:
    """The points of a block that are train and those that are test, each in the block's order."""
    for name, chosen in (("train", train), ("test", ~train)):
        x, y = np.repeat(chosen, block.x_lengths), np.repeat(chosen, block.y_lengths)
        yield (
            name,
            Block(
                block.x_lengths[chosen],
                block.x_indices[x],
                block.x_values[x],
                block.y_lengths[chosen],
                block.y_indices[y],
                block.rising,
            ),
        )


def _columns(path: Path, lines: list[tuple[int, list[str]]], n_points: int) -> list[Rows]:
    width = len(lines[0][1])
    for number, fields in lines:
        if len(fields) != width:
            raise DataError(path, number, f"{len(fields)} numbers", f"{width}, a column per split as in line 1")
    return [_split(path, [(number, fields[at]) for number, fields in lines], 1, n_points) for at in range(width)]


def _split(path: Path, fields: list[tuple[int, str]], base: int, n_points: int) -> Rows:
    """One split from its (line, number) pairs, points counted from ``base`` in the file."""
    seen = np.zeros(n_points, dtype=bool)
    expected = f"points from {base} to {n_points - 1 + base}, each once"
    for line, field in fields:
        if not (field.isascii() and field.isdigit()):
            raise DataError(path, line, repr(field[:20]), expected)
        point = int(field[:20]) - base
        if not 0 <= point < n_points:
            raise DataError(path, line, f"point {field[:20]}", expected)
        if seen[point]:
            raise DataError(path, line, f"point {field} twice in one split", expected)
        seen[point] = True
    if seen.all():
        raise DataError(path, fields[-1][0], f"all {n_points} points in train", "some left for test")
    return np.flatnonzero(seen)
