"""Exact top-k by looking at every label, 64 points at a time, with one byte a score.

A group of 64 points gets a table [R, B] of *lines*: 64 bytes, an upper bound of each point's score of that bucket in
units of the point's own. Adding up a label's R lines (saturating at 255; the least of them for ``min``) bounds its
score for 64 points at once. Labels whose bound reaches the k-th best score so far are scored again in float32, adding
repetitions in order, so scores and ties are those of the plain algorithm bit for bit.

Units are chosen so that a byte tells labels of the top apart: scores that are usual in a repetition count little or
0, and the k-th best so far lies near the upper end. A first part of the labels is ranked by its bounds alone; the best
of them, scored exactly, set a bar. Labels whose bound reaches the bar are kept, and in the end scored from the highest
bound down until no bound is left that reaches the k-th best. A bad choice of units costs time, never a label.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from mach.dense_kernels import find_leaders, is_far, raise_bar, scan_labels, score_the_rest
from mach.dense_table import MEDIAN, MIN, SUM, look_around, quantise_all, turn
from mach.lanes import BLOCK, LINE, NOT_FINITE

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.integer]

COMBINATIONS = {"sum": SUM, "min": MIN, "median": MEDIAN}

SAMPLE = 32  # labels, and 8k at least, whose exact scores choose the units
SPREAD = 0.75  # scores more than this many standard deviations below a repetition's mean count 0
AIM = 210  # where in 1..255 the bar goes; the room above it is for a bar that still rises
AIM_FIRST = (30, 150)  # where the bar of a few labels goes; learnt within these from what became of it before
GOOD = (180, 245)  # with a bar from a first part of the labels in here, units are good enough to stay
FIRST_PART = 16  # 1/16 of the labels is ranked by bounds alone before the units are chosen for all
LEADERS = 8  # labels of that part that each task keeps for a point
NEAR_TILE, FAR_TILE = 8192, 81_920  # labels whose totals stay near while four repetitions are added
NEAR_TASKS = 2  # a thread; one where every task has to fetch a far table
HUGE_PAGES = 2**22  # numpy asks the kernel for huge pages from this size on; random lines then miss fewer of them
TURN_AFTER = 32  # groups and prefixes scanned before a second copy of the lookup, by label, is made
KEPT = 1024  # labels that a task keeps for a point before it scores them


@dataclass
class _Lists:
    """Best k of each prefix and point so far, and the score that a newcomer has to beat."""

    scores: Floats  # [P, 64, k]
    labels: npt.NDArray[np.int32]  # [P, 64, k]
    bar: Floats  # [P, 64]

    @classmethod
    def empty(cls, n_prefixes: int, k: int, bar: Floats) -> _Lists:
        shape = (n_prefixes, LINE, k)
        return cls(np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int32), bar)


@dataclass(frozen=True)
class _Units:
    """low [R, 64]: at or below it a score counts 0; per_unit [64]: units a score; largest [64]: bound of a |score|."""

    low: Floats
    per_unit: Floats
    largest: Floats


# All scores float32 [N · R · B], where each lane's point starts [64], and how many lanes have a point.
_Points = tuple[Floats, npt.NDArray[np.int64], int]


@dataclass
class DenseScan:
    """The scan over one lookup table [R, n_labels]; keeps scratch memory between groups of points."""

    lookup: Ints
    B: int
    _scratch: dict[str, npt.NDArray[np.uint8]] = field(default_factory=dict, repr=False)
    _groups: int = 0
    _aims: dict[int, int] = field(default_factory=dict, repr=False)
    _samples: dict[tuple[int, int], Ints] = field(default_factory=dict, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy is made of: all but the scratch memory, which must start at a cache line and would not."""
        return self.__dict__ | {"_scratch": {}}

    @cached_property
    def by_label(self) -> Ints:
        """The lookup with a label's buckets side by side, [n_labels, R]: scoring one label reads one or two lines."""
        by_label = np.empty(self.lookup.shape[::-1], dtype=self.lookup.dtype)
        turn(self.lookup, by_label)
        return by_label

    def top_k(
        self,
        bucket_scores: Floats,
        k: int,
        prefixes: list[int],
        combine: str,
        points: npt.NDArray[np.int64] | None = None,
    ) -> tuple[Floats, npt.NDArray[np.int32]]:
        """bucket_scores [N, R, B] float32, C-contiguous → (scores, labels) [P, N, k] for each R' in ``prefixes``.

        ``combine``: sum, min or median over repetitions. ``points``: only these rows, [n], in place of all N. Raises
        ValueError when a score is NaN or infinite.
        """
        points = np.arange(len(bucket_scores)) if points is None else points
        N = len(points)
        flat = bucket_scores.reshape(-1)
        kind = COMBINATIONS[combine]
        scores = np.full((len(prefixes), N, k), -np.inf, dtype=np.float32)
        labels = np.full((len(prefixes), N, k), -1, dtype=np.int32)
        # A median needs bytes of its own for every number of repetitions.
        passes = [[R] for R in prefixes] if kind == MEDIAN else [prefixes]
        for first in range(0, N, LINE):
            group = slice(first, min(first + LINE, N))
            count = group.stop - first
            # Lanes without a point repeat the last one and are not looked at.
            rows = points[np.minimum(np.arange(first, first + LINE), N - 1)] * (self.B * bucket_scores.shape[1])
            for some in passes:
                at = slice(prefixes.index(some[0]), prefixes.index(some[-1]) + 1)
                found = self._group((flat, rows, count), k, np.asarray(some), kind)
                scores[at, group], labels[at, group] = found.scores[:, :count], found.labels[:, :count]
        return scores, labels

    def _group(self, points: _Points, k: int, prefixes: npt.NDArray[np.int64], kind: int) -> _Lists:
        n_labels, R = self.lookup.shape[1], int(prefixes[-1])
        sampled = self._sample(R, min(max(SAMPLE, 8 * k), n_labels))
        mean, deviation, bar = look_around(*points, self.B, sampled, k, prefixes, kind)
        # The k-th best of some labels belongs to the answer unless it is beaten, so a label may equal it.
        lists = _Lists.empty(len(prefixes), k, np.nextafter(bar, np.float32(-np.inf)))
        first = n_labels // FIRST_PART
        if first > sampled.shape[1]:
            aim = self._aims.get(kind, AIM_FIRST[1])
            units = self._fill(points, R, _choose_units(mean, deviation, lists.bar, kind, aim))
            self._scan(points, prefixes, units, lists, first, kind, leaders=max(LEADERS, k))
            became = _place_of(lists.bar[-1, : points[2]], units, kind)
            # The bar of a few labels says how far that of many lies only for one kind of scores: learn it.
            scale = float(np.mean(GOOD)) / max(float(np.median(became)), 1.0)
            self._aims[kind] = int(np.clip(aim * scale, *AIM_FIRST))
            good = np.mean((became >= GOOD[0]) & (became <= GOOD[1])) > 0.75
        if first <= sampled.shape[1] or kind == MEDIAN or not good:
            units = self._fill(points, R, _choose_units(mean, deviation, lists.bar, kind, AIM))
        self._scan(points, prefixes, units, lists, n_labels, kind)
        return lists

    def _sample(self, R: int, size: int) -> Ints:
        """Buckets [R, size] of labels spread over all ids."""
        if (R, size) not in self._samples:
            labels = np.linspace(0, self.lookup.shape[1] - 1, size).astype(np.int64)
            self._samples[R, size] = np.ascontiguousarray(self.lookup[:R, labels])
        return self._samples[R, size]

    def _memory(self, name: str, size: int) -> npt.NDArray[np.uint8]:
        """Scratch memory of at least ``size`` bytes that starts at a cache line and is kept for the next group."""
        if name not in self._scratch or len(self._scratch[name]) < size:
            raw = np.empty(max(size, HUGE_PAGES) + LINE, dtype=np.uint8)
            self._scratch[name] = raw[-raw.ctypes.data % LINE :][: max(size, HUGE_PAGES)]
        return self._scratch[name]

    def _turns(self, n_prefixes: int) -> bool:
        """Whether a lookup by label is there, or worth its making: a copy of the table against many exact scores."""
        self._groups += n_prefixes
        return "by_label" in self.__dict__ or self._groups > TURN_AFTER

    def _fill(self, points: _Points, R: int, units: _Units) -> _Units:
        """Write the table of the first R repetitions; returns the units with the largest |score| noted."""
        table = self._memory("table", R * self.B * LINE)
        largest = np.empty((R, LINE // BLOCK), dtype=np.uint32)
        quantise_all(*points, self.B, units.low, units.per_unit, table, largest)
        if largest.max() >= NOT_FINITE:
            raise ValueError("bucket_scores hold NaN or infinite values")
        return replace(units, largest=np.repeat(largest.max(0).view(np.float32), BLOCK))

    def _scan(
        self,
        points: _Points,
        prefixes: npt.NDArray[np.int64],
        units: _Units,
        lists: _Lists,
        end: int,
        kind: int,
        leaders: int = 0,
    ) -> None:
        """Feed the labels 0..end to the lists; with ``leaders`` only raise the bar by that many labels a task."""
        tile, tasks = (NEAR_TILE, NEAR_TASKS) if not is_far(self.B) else (FAR_TILE, 1)
        tasks = 1 if leaders else tasks  # fewer lists, fewer labels to score
        tasks = max(1, min(tasks * numba.get_num_threads(), -(-end // 1024)))
        tile = min(tile, -(-end // tasks))
        P = len(prefixes)
        grounds = np.cumsum(units.low.astype(np.float64), 0)[prefixes - 1]
        # Bound of what float32 sums are off by: R additions, each rounded at a partial sum of at most R·largest.
        slack = prefixes[:, None] ** 2 * 2.0**-24 * units.largest[None].astype(np.float64)
        totals = self._memory("totals", tasks * tile * LINE)
        table = (self._memory("table", 0), self.B, units.low[0], units.per_unit, grounds + slack)
        n_labels = self.lookup.shape[1]
        # Buckets of one label: (flat array, step to the next label, step to the next repetition).
        buckets = (self.lookup.reshape(-1), 1, n_labels)
        if self._turns(P):
            buckets = (self.by_label.reshape(-1), len(self.lookup), 1)
        lookup = (self.lookup.reshape(-1), n_labels, prefixes, *buckets)
        kept = leaders or KEPT
        labels = np.empty((tasks, P, LINE, kept), dtype=np.int32)
        if leaders:
            labels[:] = -1
            find_leaders(lookup, points[2], table, totals, tile, labels, end, tasks, kind)
            raise_bar(*points, self.B, lookup, labels, lists.bar, lists.scores.shape[2], kind)
            return
        bounds = np.empty((tasks, P, LINE, kept), dtype=np.uint8)
        counts = np.zeros((tasks, P, LINE), dtype=np.int64)
        kept_labels = (lookup, table, labels, bounds, counts)
        scan_labels(*points, *kept_labels, lists.scores.shape[2], lists.bar, kind, totals, tile, end)
        score_the_rest(*points, *kept_labels, lists.scores, lists.labels, kind)


def _choose_units(mean: Floats, deviation: Floats, bar: Floats, kind: int, aim: int) -> _Units:
    """Units in which the bar of all repetitions (sum) or the highest bar (min) lies at ``aim``.

    mean, deviation [R, 64]; bar [P, 64].
    """
    none = np.zeros(LINE, dtype=np.float32)
    if kind == SUM:
        low = mean - np.float32(SPREAD) * deviation
        return _Units(low, _rate(bar[-1] - low.sum(0), aim), none)
    # For the least score, and for how many scores are high, only those above the lowest bar matter.
    lowest = np.maximum(bar.min(0), np.finfo(np.float32).min)
    low = np.ascontiguousarray(np.broadcast_to(lowest, mean.shape))
    return _Units(low, _rate(bar.max(0) - lowest, aim) if kind == MIN else none, none)


def _place_of(bar: Floats, units: _Units, kind: int) -> Floats:
    """Where in units the bar [n] of all repetitions lies."""
    ground = (units.low.astype(np.float64).sum(0) if kind == SUM else units.low[0])[: len(bar)]
    return np.asarray((bar - ground) * units.per_unit[: len(bar)])


def _rate(span: Floats, aim: int) -> Floats:
    usable = np.isfinite(span) & (span > 1e-30)
    return np.where(usable, aim / np.where(usable, span, 1.0), 1.0).astype(np.float32)
