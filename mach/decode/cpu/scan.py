"""Exact top-k by looking at every label, 64 points at a time with one byte a score or 128 with half a byte.

A group of 64 points gets a table [R, B] of *lines*: 64 bytes, an upper bound of each point's score of that bucket in
units of the point's own. Adding up a label's R lines (saturating at 255; the least of them for ``min``) bounds its
score for 64 points at once. Labels whose bound reaches the k-th best score so far are scored again in float32, adding
repetitions in order, so scores and ties are those of the plain algorithm bit for bit.

Units are chosen so that a byte tells labels of the top apart: scores that are usual in a repetition count little or
0, sums lose on their way what usual labels add to them, and the k-th best so far lies near the upper end. A first
part of the labels is ranked by its bounds alone; the best of them, scored exactly, set a bar. Labels whose bound
reaches the bar are kept, and in the end scored from the highest bound down until no bound is left that reaches the
k-th best. A bad choice of units costs time, never a label.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from mach.decode.cpu.scan_bounds import choose_cut, is_far
from mach.decode.cpu.scan_few import scan_few
from mach.decode.cpu.scan_kernels import find_leaders, raise_bar, scan_labels, score_the_rest
from mach.decode.cpu.scan_table import MEDIAN, MIN, SUM, moments, quantise_all, quantise_all_halves, sample_bar, turn
from mach.decode.cpu.simd.lanes import AT_ONCE
from mach.decode.cpu.simd.quantise import MOST, NOT_FINITE
from mach.decode.cpu.simd.vectors import BLOCK, LINE
from mach.decode.cpu.threshold_forecast import Forecast
from mach.decode.cpu.tuner import UNDRAINED, Effort, Grain

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.integer]

COMBINATIONS = {"sum": SUM, "min": MIN, "median": MEDIAN}

SAMPLE = 32  # labels, and 8k at least, whose exact scores choose the units
FIRST_PART = 32  # 1/32 of the labels is ranked by bounds alone before the units are chosen for all
LEADERS = 8  # labels of that part that each task keeps for a point
NEAR_TILE, FAR_TILE = 8192, 81_920  # labels whose totals stay near while four repetitions are added
NEAR_TASKS = 2  # a thread; one where every task has to fetch a far table
# Random lines miss fewer translations of addresses in huge pages, which numpy asks the kernel for from a size on.
HUGE_PAGE, ASKED_FROM = 2**21, 2**22
COPY_AFTER = 32  # groups and prefixes scanned before copies of the lookup, by label and shuffled, are made
AS_THEY_ARE: npt.NDArray[np.int32] = np.empty(0, dtype=np.int32)  # the order of labels that are not shuffled
KEPT = 1024  # labels that a task keeps for a point before it scores them


@dataclass
class _Lists:
    """Best k of each prefix and point so far, and the score that a newcomer has to beat, which may be a forecast."""

    scores: Floats  # [P, Q, k]
    labels: npt.NDArray[np.int32]  # [P, Q, k]
    bar: Floats  # [P, Q]
    forecast: bool

    @classmethod
    def empty(cls, k: int, bar: Floats, *, forecast: bool = False) -> _Lists:
        shape = (*bar.shape, k)
        return cls(np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int32), bar, forecast)


@dataclass(frozen=True)
class _Units:
    """low [R, Q]: at or below it a score counts 0; per_unit [Q]: units a score; drain [R, Q]: units that a sum loses
    after the four repetitions that start there; largest [Q]: bound of a |score|; highest [R · Q]: a point's highest
    byte, or half of one, in the table."""

    low: Floats
    per_unit: Floats
    drain: npt.NDArray[np.uint8]
    largest: Floats
    highest: npt.NDArray[np.uint8]

    @cached_property
    def grounds(self) -> npt.NDArray[np.float64]:
        """[R, Q]: the score that a sum of 0 units of the first 1..R repetitions stands for."""
        lost = np.cumsum(self.drain, 0, dtype=np.float64) / np.where(self.per_unit > 0, self.per_unit, 1.0)
        # A little more, for what the products behind the units that were lost were rounded by.
        return np.asarray(np.cumsum(self.low, 0, dtype=np.float64) + lost * (1 + 1e-6))


class _TooWide(Exception):
    """Some score counts more units than half a byte can tell."""


# All scores float32 [N · R · B], where each lane's point starts [Q], and how many lanes have a point.
_Points = tuple[Floats, npt.NDArray[np.int64], int]


@dataclass
class DenseScan:
    """The scan over one lookup table [R, n_labels]; keeps scratch memory between groups of points."""

    lookup: Ints
    B: int
    _scratch: dict[str, npt.NDArray[np.uint8]] = field(default_factory=dict, repr=False)
    _groups: int = 0
    _forecast: Forecast = field(default_factory=Forecast, repr=False)
    _samples: dict[tuple[int, int], Ints] = field(default_factory=dict, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy is made of: all but the scratch memory, which must start at a cache line and would not."""
        return self.__dict__ | {"_scratch": {}}

    @cached_property
    def effort(self) -> Effort:
        """How groups are taken and what they cost."""
        return Effort(self.lookup.shape[1], self.B)

    @cached_property
    def by_label(self) -> Ints:
        """The lookup with a label's buckets side by side, [n_labels, R]: scoring one label reads one or two lines."""
        by_label = np.empty(self.lookup.shape[::-1], dtype=self.lookup.dtype)
        turn(self.lookup, by_label)
        return by_label

    @cached_property
    def shuffled(self) -> tuple[Ints, npt.NDArray[np.int32]]:
        """The lookup with its labels in random order, and that order.

        Neighbouring ids hashed by a·x + b mod p lie an equal step apart, and processors that guess the next step fetch
        lines that nobody needs, in place of others: measured, adding up near lines takes a third longer.
        """
        order = np.random.default_rng(0).permutation(self.lookup.shape[1]).astype(np.int32)
        return np.take(self.lookup, order, axis=1), order

    def prepare(self) -> None:
        """Make now the copies of the lookup that are otherwise made once many groups have been scanned."""
        _ = self.by_label
        if not is_far(self.B):
            _ = self.shuffled

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
        shape = len(prefixes), len(points), k
        found = np.full(shape, -np.inf, dtype=np.float32), np.full(shape, -1, dtype=np.int32)
        # What a forecast has not come true for is scanned again without one.
        again = self._take(bucket_scores, np.arange(len(points)), points, prefixes, combine, found, sure=False)
        self._take(bucket_scores, again, points, prefixes, combine, found, sure=True)
        return found

    def _take(
        self,
        bucket_scores: Floats,
        which: npt.NDArray[np.int64],
        points: npt.NDArray[np.int64],
        prefixes: list[int],
        combine: str,
        found: tuple[Floats, npt.NDArray[np.int32]],
        sure: bool,
    ) -> npt.NDArray[np.int64]:
        """Fill in what is found [P, N, k] for the points numbered ``which``; returns those to be done again."""
        N, k = len(which), found[0].shape[2]
        flat, kind = bucket_scores.reshape(-1), COMBINATIONS[combine]
        # A median needs bytes of its own for every number of repetitions.
        passes = [[R] for R in prefixes] if kind == MEDIAN else [prefixes]
        again = np.zeros(N, dtype=bool)
        first = 0
        while first < N:
            started = time.perf_counter()
            work = grain, _, _ = self.effort.choose(N - first, combine, prefixes[-1], len(prefixes))
            count = min(grain.points if grain else N, N - first)
            group = slice(first, first + count)
            # Lanes without a point repeat the last one and are not looked at.
            lanes = np.minimum(np.arange(first, first + (grain.points if grain else count)), N - 1)
            rows = points[which[lanes]] * (self.B * bucket_scores.shape[1])
            try:
                for some in passes:
                    at = slice(prefixes.index(some[0]), prefixes.index(some[-1]) + 1)
                    arguments = (flat, rows, count), k, np.asarray(some), kind
                    lists = self._group(*arguments, grain, sure) if grain else self._one_by_one(*arguments)
                    found[0][at, which[group]] = lists.scores[:, :count]
                    found[1][at, which[group]] = lists.labels[:, :count]
                    again[group] |= ~(lists.scores[:, :count, -1] > lists.bar[:, :count]).all(0) & lists.forecast
            except _TooWide:
                self.effort.too_wide()
                continue
            first += count
            if combine == "sum":
                self.effort.learn(work, count, time.perf_counter() - started)
        return which[again]

    def _one_by_one(self, points: _Points, k: int, prefixes: npt.NDArray[np.int64], kind: int) -> _Lists:
        scores, rows, _ = points
        lists = _Lists.empty(k, np.full((len(prefixes), len(rows)), -np.inf, dtype=np.float32))
        lookup, tasks = self.lookup.reshape(-1), max(1, min(numba.get_num_threads(), self.lookup.shape[1] // 1024))
        arguments = lookup, self.lookup.shape[1], prefixes, kind, tasks, lists.scores, lists.labels
        if not scan_few(scores, rows, self.B, *arguments):
            raise ValueError("bucket_scores hold NaN or infinite values")
        return lists

    def _group(
        self, points: _Points, k: int, prefixes: npt.NDArray[np.int64], kind: int, grain: Grain, sure: bool
    ) -> _Lists:
        n_labels, R = self.lookup.shape[1], int(prefixes[-1])
        fours = taken_in_fours(prefixes) if kind == SUM and grain.drain else []
        if grain.drain and 4 * AT_ONCE * len(fours) < 3 * R:
            grain, fours = UNDRAINED, []
        mean, deviation = moments(*points, self.B, R)
        likely, careful = self._forecast.bars(prefixes, k, mean, deviation)
        present = slice(points[2])
        first = n_labels // FIRST_PART
        enough = first > max(SAMPLE, 8 * k)
        if not sure and enough and kind == SUM and np.isfinite(likely[:, present]).all():
            lists = _Lists.empty(k, careful, forecast=True)
            units = self._fill(points, R, _choose_units(mean, deviation, likely, kind, grain, grain.aim, fours))
        else:
            sampled = self._sample(R, min(max(SAMPLE, 8 * k), n_labels))
            # The k-th best of some labels belongs to the answer unless it is beaten, so a label may equal it.
            bar = sample_bar(*points, self.B, sampled, k, prefixes, kind)
            lists = _Lists.empty(k, np.nextafter(bar, np.float32(-np.inf)))
            good = False
            if enough:
                units = self._fill(
                    points, R, _choose_units(mean, deviation, lists.bar, kind, grain, grain.aim_first, fours)
                )
                self._scan(points, prefixes, units, lists, first, kind, leaders=max(LEADERS, k))
                became = _place_of(lists.bar[-1, present], units, kind)
                good = bool(np.mean((became >= grain.good[0]) & (became <= grain.good[1])) > 0.75)
            if kind == MEDIAN or not good:
                units = self._fill(points, R, _choose_units(mean, deviation, lists.bar, kind, grain, grain.aim, fours))
        self._scan(points, prefixes, units, lists, n_labels, kind)
        if kind == SUM:
            best = lists.scores[:, present, -1]
            came_true = np.where(lists.forecast & (best <= lists.bar[:, present]), np.nan, best)
            self._forecast.learn(prefixes, k, mean[:, present], deviation[:, present], came_true)
        return lists

    def _sample(self, R: int, size: int) -> Ints:
        """Buckets [R, size] of labels spread over all ids."""
        if (R, size) not in self._samples:
            labels = np.linspace(0, self.lookup.shape[1] - 1, size).astype(np.int64)
            self._samples[R, size] = np.ascontiguousarray(self.lookup[:R, labels])
        return self._samples[R, size]

    def _memory(self, name: str, size: int) -> npt.NDArray[np.uint8]:
        """Scratch memory of at least ``size`` bytes in whole huge pages, kept for the next group."""
        if name not in self._scratch or len(self._scratch[name]) < size:
            size = -(-max(size, 1) // HUGE_PAGE) * HUGE_PAGE
            raw = np.empty(max(size + HUGE_PAGE, ASKED_FROM), dtype=np.uint8)
            self._scratch[name] = raw[-raw.ctypes.data % HUGE_PAGE :][:size]
        return self._scratch[name]

    def _often(self, n_prefixes: int) -> bool:
        """Whether copies of the lookup, by label and shuffled, are there or worth their making."""
        self._groups += n_prefixes
        return "by_label" in self.__dict__ or self._groups > COPY_AFTER

    def _fill(self, points: _Points, R: int, units: _Units) -> _Units:
        """Write the table of the first R repetitions; returns the units with the largest |score| noted."""
        scores, rows, count = points
        table = self._memory("table", R * self.B * LINE)
        largest = np.empty((R, LINE // BLOCK), dtype=np.uint32)
        highest = np.empty(R * len(rows), dtype=np.uint8)
        written = table, largest, highest
        most = np.float32(0.0)
        if len(rows) == LINE:
            quantise_all(scores, rows, count, self.B, units.low, units.per_unit, *written)
        else:
            most = quantise_all_halves(scores, rows, self.B, units.low, units.per_unit, *written)
        if largest.max() >= NOT_FINITE:
            raise ValueError("bucket_scores hold NaN or infinite values")
        if most >= MOST:
            raise _TooWide
        by_point = np.repeat(largest.max(0).view(np.float32), BLOCK)
        return replace(units, largest=np.tile(by_point, len(rows) // LINE), highest=highest)

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
        P, Q = len(prefixes), len(points[1])
        grounds = units.grounds[prefixes - 1]
        # Bound of what float32 sums are off by: R additions, each rounded at a partial sum of at most R·largest.
        slack = prefixes[:, None] ** 2 * 2.0**-24 * units.largest[None].astype(np.float64)
        size = tasks * tile * Q
        totals = self._memory("totals", size)[:size].reshape(tasks, Q // LINE, tile * LINE)
        table = (
            self._memory("table", 0),
            self.B,
            units.low[0],
            units.per_unit,
            grounds + slack,
            units.drain.reshape(-1),
            units.highest,
        )
        n_labels = self.lookup.shape[1]
        # Buckets of one label: (flat array, step to the next label, step to the next repetition).
        buckets, rows, order = (self.lookup.reshape(-1), 1, n_labels), self.lookup, AS_THEY_ARE
        if self._often(P):
            buckets = (self.by_label.reshape(-1), len(self.lookup), 1)
            if not is_far(self.B):
                rows, order = self.shuffled
        lookup = (rows.reshape(-1), n_labels, prefixes, order, *buckets)
        kept = leaders or KEPT
        labels = np.empty((tasks, P, Q, kept), dtype=np.int32)
        if leaders:
            labels[:] = -1
            find_leaders(lookup, points[2], table, totals, labels, end, kind)
            raise_bar(*points, self.B, lookup, labels, lists.bar, lists.scores.shape[2], kind)
            return
        bounds = np.empty((tasks, P, Q, kept), dtype=np.uint8)
        counts = np.zeros((tasks, P, Q), dtype=np.int64)
        cut = 0
        if kind == SUM and P == 1:
            cut = choose_cut(lookup, points[2], table, lists.bar, totals[0], end)
        kept_labels = labels, bounds, counts
        scan_labels(*points, lookup, table, kept_labels, lists.scores.shape[2], lists.bar, kind, totals, end, cut)
        score_the_rest(*points, lookup, table, *kept_labels, lists.scores, lists.labels, kind)


def taken_in_fours(prefixes: npt.NDArray[np.int64]) -> list[int]:
    """The repetitions at which the scan takes four at once, on its way from prefix to prefix."""
    before = [0, *prefixes[:-1].tolist()]
    return [
        r for low, high in zip(before, prefixes.tolist(), strict=True) for r in range(low, high - AT_ONCE + 1, AT_ONCE)
    ]


def _choose_units(
    mean: Floats, deviation: Floats, bar: Floats, kind: int, grain: Grain, aim: int, fours: list[int]
) -> _Units:
    """Units in which the bar of all repetitions (sum) or the highest bar (min) lies at ``aim``, or finer than that.

    mean, deviation [R, Q]; bar [P, Q]; fours: the repetitions after whose four a sum loses what usual scores add.
    """
    none, nothing = np.zeros(bar.shape[1], dtype=np.float32), np.empty(0, dtype=np.uint8)
    drain = np.zeros(mean.shape, dtype=np.uint8)
    if kind == SUM:
        usual = np.float32(grain.spread) * deviation
        low = mean - usual
        if not fours:
            return _Units(low, _rate(bar[-1] - low.sum(0), aim), drain, none, nothing)
        lost = np.stack([usual[r : r + AT_ONCE].sum(0) for r in fours])
        rate = _rate(bar[-1] - low.sum(0) - lost.sum(0), aim)
        rate = np.minimum(rate, grain.drain / np.maximum(lost.max(0), np.float32(1e-30))).astype(np.float32)
        drain[fours] = np.minimum(lost * rate, grain.drain)
        return _Units(low, rate, drain, none, nothing)
    # For the least score, and for how many scores are high, only those above the lowest bar matter.
    lowest = np.maximum(bar.min(0), np.finfo(np.float32).min)
    low = np.ascontiguousarray(np.broadcast_to(lowest, mean.shape))
    return _Units(low, _rate(bar.max(0) - lowest, aim) if kind == MIN else none, drain, none, nothing)


def _place_of(bar: Floats, units: _Units, kind: int) -> Floats:
    """Where in units the bar [n] of all repetitions lies."""
    ground = (units.grounds[-1] if kind == SUM else units.low[0])[: len(bar)]
    return np.asarray((bar - ground) * units.per_unit[: len(bar)])


def _rate(span: Floats, aim: int) -> Floats:
    usable = np.isfinite(span) & (span > 1e-30)
    return np.where(usable, aim / np.where(usable, span, 1.0), 1.0).astype(np.float32)
