"""Arguments of the scan's compiled loops that belong together. numba takes a NamedTuple apart at no cost.

A group has Q = 64 lanes, with a byte per point in each line, or Q = 128 with half a byte: then totals come in two
*sides* of 64. P is the number of prefixes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mach.kernels.excluded import Excluded

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.integer]


class Points(NamedTuple):
    """The points of a group."""

    scores: Floats  # of all points [N · R · B]
    rows: npt.NDArray[np.int64]  # [Q]: where the scores of each lane's point start
    n_present: int  # lanes that have a point; the others repeat the last one
    excluded: Excluded  # labels that each lane's point may not get [Q]


class LabelBuckets(NamedTuple):
    """The buckets of all labels, in columns for a pass over all labels, and by label for exact scores."""

    lookup: Ints  # [R · n_labels]
    n_labels: int
    prefixes: npt.NDArray[np.int64]  # [P]
    order: npt.NDArray[np.int32]  # [n_labels]: label in each column of lookup; empty where column i is label i
    of_label: Ints  # bucket of a label in repetition r: of_label[label · step + r · stride]
    step: int
    stride: int


class Lines(NamedTuple):
    """Upper bounds of all scores of a group in units, each point's own, and what the units stand for."""

    table: npt.NDArray[np.uint8]  # [R · B · 64]
    B: int
    low: Floats  # [Q]: a score at or below it counts 0, in the first repetition
    per_unit: Floats  # [Q]: units per score
    grounds: npt.NDArray[np.float64]  # [P, Q]: score that a total of 0 stands for
    drain: npt.NDArray[np.uint8]  # [R · 64]: units that a sum loses after the four repetitions that start at r
    highest: npt.NDArray[np.uint8]  # [R · Q]: a point's highest byte, or half of one, in each repetition


class Kept(NamedTuple):
    """Labels that each task has kept for each prefix and point, with the bounds of their scores."""

    labels: npt.NDArray[np.int32]  # [tasks, P, Q, n]
    bounds: npt.NDArray[np.uint8]  # [tasks, P, Q, n]
    counts: npt.NDArray[np.int64]  # [tasks, P, Q]
