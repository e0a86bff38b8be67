"""Exact top-k by looking at every label, 64 points at a time with one byte a score or 128 with half a byte.

A group of 64 points gets a table [R, B] of *lines*: 64 bytes, an upper bound of each point's score of that bucket in
units of the point's own. Adding up a label's R lines (saturating at 255; the least of them for ``min``) bounds its
score for 64 points at once. Labels whose bound reaches the k-th best score so far are scored again in float32, adding
repetitions in order, so scores and ties are those of the plain algorithm bit for bit.

Units are chosen so that a byte distinguishes the labels at the top: usual scores of a repetition count little or 0,
the sum of usual scores is subtracted on the way, and the k-th best score so far is near the upper end. A first part of
the labels is ranked by its bounds alone; the best of them, scored exactly, set a bar. Labels whose bound reaches the
bar are kept. In the end they are scored from the highest bound down, until no bound is left that reaches the k-th best.
A bad choice of units costs time and never changes the result.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from mach.decode.cpu.scan_arguments import Kept, LabelBuckets, Lines, Points
from mach.decode.cpu.scan_bounds import choose_cut, is_far
from mach.decode.cpu.scan_few import scan_few
from mach.decode.cpu.scan_kernels import find_leaders, raise_bar, scan_labels, score_the_rest
from mach.decode.cpu.scan_table import MEDIAN, MIN, SUM, moments, quantise_all, quantise_all_halves, sample_bar, turn
from mach.decode.cpu.simd.lanes import AT_ONCE
from mach.decode.cpu.simd.quantise import MOST, NOT_FINITE
from mach.decode.cpu.simd.vectors import BLOCK, LINE
from mach.decode.cpu.threshold_forecast import Forecast
from mach.decode.cpu.tuner import UNDRAINED, Grain, Tuner
from mach.kernels.excluded import Excluded

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.integer]

COMBINATIONS = {"sum": SUM, "min": MIN, "median": MEDIAN}

SAMPLE = 32  # labels, and 8k at least, whose exact scores choose the units
FIRST_PART = 32  # 1/32 of the labels is ranked by bounds alone before the units are chosen for all
LEADERS = 8  # labels of that part that each task keeps per point
NEAR_TILE, FAR_TILE = 8192, 81_920  # labels whose totals stay near while four repetitions are added
NEAR_TASKS = 2  # per thread; one where every task has to fetch a far table
# Random reads need fewer address translations in huge pages, which numpy requests from a certain size on.
HUGE_PAGE, HUGE_FROM = 2**21, 2**22
COPY_AFTER = 32  # groups and prefixes scanned before copies of the lookup, by label and shuffled, are made
NOT_SHUFFLED: npt.NDArray[np.int32] = np.empty(0, dtype=np.int32)  # the order of labels in that case
KEPT = 1024  # labels, and 2k at least, that a task keeps per point before it scores them


@dataclass
class _Lists:
    """Best k of each prefix and point so far, and the score that another label has to beat, which may be a forecast."""

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
    """How scores are counted in bytes."""

    low: Floats  # [R, Q]: a score at or below it counts 0
    per_unit: Floats  # [Q]: units per score
    drain: npt.NDArray[np.uint8]  # [R, Q]: units that a sum loses after the four repetitions that start at r
    largest: Floats  # [Q]: no |score| is larger
    highest: npt.NDArray[np.uint8]  # [R · Q]: a point's highest byte, or half of one, in the table

    @cached_property
    def grounds(self) -> npt.NDArray[np.float64]:
        """[R, Q]: the score that a sum of 0 units of the first 1..R repetitions stands for."""
        lost = np.cumsum(self.drain, 0, dtype=np.float64) / np.where(self.per_unit > 0, self.per_unit, 1.0)
        # A little more, for the rounding of the products behind the units that were lost.
        return np.asarray(np.cumsum(self.low, 0, dtype=np.float64) + lost * (1 + 1e-6))


class _TooWide(Exception):
    """Some score counts more units than half a byte can hold."""


@dataclass(frozen=True)
class _Call:
    """The points of a call of `DenseScan.top_k`, and the arrays that their rankings are written to."""

    scores: Floats  # [N · R · B]
    rows: npt.NDArray[np.int64]  # [n]: where the scores of each point start
    excluded: Excluded  # labels that each point may not get [n]
    prefixes: list[int]
    combine: str
    best: Floats  # [P, n, k]
    labels: npt.NDArray[np.int32]  # [P, n, k]


class _Query(NamedTuple):
    """What is searched for a group of points."""

    prefixes: npt.NDArray[np.int64]  # [P]
    kind: int  # SUM, MIN or MEDIAN
    k: int


class _Spread(NamedTuple):
    """Mean and standard deviation of a point's scores in each repetition, both [R, Q]."""

    mean: Floats
    deviation: Floats


@dataclass
class DenseScan:
    """The scan over one lookup table [R, n_labels]; keeps scratch memory between groups of points."""

    lookup: Ints
    B: int
    _scratch: dict[str, npt.NDArray[np.uint8]] = field(default_factory=dict, repr=False)
    _groups: int = 0
    _forecast: Forecast = field(default_factory=Forecast, repr=False)
    _samples: dict[tuple[int, int], tuple[npt.NDArray[np.int64], Ints]] = field(default_factory=dict, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """The state of a copy: all but the scratch memory, which must start at a cache line and in a copy would not."""
        return self.__dict__ | {"_scratch": {}}

    @cached_property
    def tuner(self) -> Tuner:
        """How groups are scanned, and the time that they need."""
        return Tuner(self.lookup.shape[1], self.B)

    @cached_property
    def by_label(self) -> Ints:
        """The lookup with a label's buckets side by side, [n_labels, R]: scoring one label reads one or two lines."""
        by_label = np.empty(self.lookup.shape[::-1], dtype=self.lookup.dtype)
        turn(self.lookup, by_label)
        return by_label

    @cached_property
    def shuffled(self) -> tuple[Ints, npt.NDArray[np.int32]]:
        """The lookup with its labels in random order, and that order.

        Hashed by a·x + b mod p, neighbouring ids are an equal step apart. Processors that predict the next step then
        fetch lines that are not used, and adding up near lines takes a third longer (measured).
        """
        order = np.random.default_rng(0).permutation(self.lookup.shape[1]).astype(np.int32)
        return np.take(self.lookup, order, axis=1), order

    def prepare(self) -> None:
        """Make the copies of the lookup now that are otherwise made after many groups have been scanned."""
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
        excluded: Excluded | None = None,
    ) -> tuple[Floats, npt.NDArray[np.int32]]:
        """bucket_scores [N, R, B] float32, C-contiguous → (scores, labels) [P, N, k] for each R' in ``prefixes``.

        ``combine``: sum, min or median over repetitions. ``points``: only these rows, [n], instead of all N.
        ``excluded``: labels that each of the N points may not get. Raises ValueError when a score is NaN or infinite.
        """
        excluded = excluded or Excluded.of(None, len(bucket_scores), self.lookup.shape[1])
        points = np.arange(len(bucket_scores)) if points is None else points
        shape = len(prefixes), len(points), k
        found = np.full(shape, -np.inf, dtype=np.float32), np.full(shape, -1, dtype=np.int32)
        rows = points * (self.B * bucket_scores.shape[1])
        call = _Call(bucket_scores.reshape(-1), rows, excluded.take(points), prefixes, combine, *found)
        # Points for which the forecast was wrong are scanned again without one.
        again = self._rank(call, np.arange(len(points)), sure=False)
        self._rank(call, again, sure=True)
        return found

    def _rank(self, call: _Call, which: npt.NDArray[np.int64], sure: bool) -> npt.NDArray[np.int64]:
        """Write the rankings of the points numbered ``which``; returns those that must be scanned again.

        ``sure``: without a forecast, so that all rankings are final.
        """
        N, prefixes, kind = len(which), call.prefixes, COMBINATIONS[call.combine]
        # A median needs bytes of its own for every number of repetitions.
        passes = [[R] for R in prefixes] if kind == MEDIAN else [prefixes]
        again = np.zeros(N, dtype=bool)
        first = 0
        while first < N:
            started = time.perf_counter()
            work = grain, _, _ = self.tuner.choose(N - first, call.combine, prefixes[-1], len(prefixes))
            count = min(grain.points if grain else N, N - first)
            group = slice(first, first + count)
            # Lanes without a point repeat the last one, and their results are not used.
            lanes = which[np.minimum(np.arange(first, first + (grain.points if grain else count)), N - 1)]
            points = Points(call.scores, call.rows[lanes], count, call.excluded.take(lanes))
            try:
                for some in passes:
                    at = slice(prefixes.index(some[0]), prefixes.index(some[-1]) + 1)
                    query = _Query(np.asarray(some), kind, call.best.shape[2])
                    lists = self._group(points, query, grain, sure) if grain else self._one_by_one(points, query)
                    call.best[at, which[group]] = lists.scores[:, :count]
                    call.labels[at, which[group]] = lists.labels[:, :count]
                    again[group] |= ~(lists.scores[:, :count, -1] > lists.bar[:, :count]).all(0) & lists.forecast
            except _TooWide:
                self.tuner.too_wide()
                continue
            first += count
            if call.combine == "sum":
                self.tuner.learn(work, count, time.perf_counter() - started)
        return which[again]

    def _one_by_one(self, points: Points, query: _Query) -> _Lists:
        rows, prefixes = points.rows, query.prefixes
        lists = _Lists.empty(query.k, np.full((len(prefixes), len(rows)), -np.inf, dtype=np.float32))
        lookup, tasks = self.lookup.reshape(-1), max(1, min(numba.get_num_threads(), self.lookup.shape[1] // 1024))
        arguments = lookup, self.lookup.shape[1], prefixes, query.kind, tasks, lists.scores, lists.labels
        if not scan_few(points.scores, rows, points.excluded, self.B, *arguments):
            raise ValueError("bucket_scores hold NaN or infinite values")
        return lists

    def _group(self, points: Points, query: _Query, grain: Grain, sure: bool) -> _Lists:
        prefixes, kind, k = query
        n_labels, R = self.lookup.shape[1], int(prefixes[-1])
        fours = first_of_fours(prefixes) if kind == SUM and grain.drain else []
        if grain.drain and 4 * AT_ONCE * len(fours) < 3 * R:
            grain, fours = UNDRAINED, []
        spread = _Spread(*moments(*points[:3], self.B, R))
        likely, careful = self._forecast.bars(prefixes, k, *spread)
        present = slice(points.n_present)
        first = n_labels // FIRST_PART
        enough = first > max(SAMPLE, 8 * k)
        if not sure and enough and kind == SUM and np.isfinite(likely[:, present]).all():
            lists = _Lists.empty(k, careful, forecast=True)
            units = self._fill(points, R, _choose_units(spread, likely, kind, grain, grain.aim, fours))
        else:
            sampled = self._sample(R, min(max(SAMPLE, 8 * k), n_labels))
            # The k-th best of some labels belongs to the answer unless it is beaten, so a label may equal it.
            bar = sample_bar(*points, self.B, *sampled, k, prefixes, kind)
            lists = _Lists.empty(k, np.nextafter(bar, np.float32(-np.inf)))
            good = False
            if enough:
                units = self._fill(points, R, _choose_units(spread, lists.bar, kind, grain, grain.aim_first, fours))
                self._scan(points, query, units, lists, first, leaders=max(LEADERS, k))
                became = _units_of(lists.bar[-1, present], units, kind)
                good = bool(np.mean((became >= grain.good[0]) & (became <= grain.good[1])) > 0.75)
            if kind == MEDIAN or not good:
                units = self._fill(points, R, _choose_units(spread, lists.bar, kind, grain, grain.aim, fours))
        self._scan(points, query, units, lists, n_labels)
        if kind == SUM:
            best = lists.scores[:, present, -1]
            came_true = np.where(lists.forecast & (best <= lists.bar[:, present]), np.nan, best)
            self._forecast.learn(prefixes, k, spread.mean[:, present], spread.deviation[:, present], came_true)
        return lists

    def _sample(self, R: int, size: int) -> tuple[npt.NDArray[np.int64], Ints]:
        """Labels [size] spread over all ids, and their buckets [R, size]."""
        if (R, size) not in self._samples:
            labels = np.linspace(0, self.lookup.shape[1] - 1, size).astype(np.int64)
            self._samples[R, size] = labels, np.ascontiguousarray(self.lookup[:R, labels])
        return self._samples[R, size]

    def _memory(self, name: str, size: int) -> npt.NDArray[np.uint8]:
        """Scratch memory of at least ``size`` bytes in whole huge pages, kept for the next group."""
        if name not in self._scratch or len(self._scratch[name]) < size:
            size = -(-max(size, 1) // HUGE_PAGE) * HUGE_PAGE
            raw = np.empty(max(size + HUGE_PAGE, HUGE_FROM), dtype=np.uint8)
            self._scratch[name] = raw[-raw.ctypes.data % HUGE_PAGE :][:size]
        return self._scratch[name]

    def _often(self, n_prefixes: int) -> bool:
        """Whether copies of the lookup, by label and shuffled, exist or are worth making."""
        self._groups += n_prefixes
        return "by_label" in self.__dict__ or self._groups > COPY_AFTER

    def _fill(self, points: Points, R: int, units: _Units) -> _Units:
        """Write the table of the first R repetitions; returns the units with the largest |score| and highest byte."""
        scores, rows, count, _ = points
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

    def _scan(self, points: Points, query: _Query, units: _Units, lists: _Lists, end: int, leaders: int = 0) -> None:
        """Rank the labels 0..end; with ``leaders`` only raise the bar, by that many labels per task."""
        prefixes, kind, k = query
        tile, tasks = (NEAR_TILE, NEAR_TASKS) if not is_far(self.B) else (FAR_TILE, 1)
        tasks = 1 if leaders else tasks  # fewer lists, fewer labels to score
        tasks = max(1, min(tasks * numba.get_num_threads(), -(-end // 1024)))
        tile = min(tile, -(-end // tasks))
        P, Q = len(prefixes), len(points.rows)
        grounds = units.grounds[prefixes - 1]
        # Bound of the error of float32 sums: R additions, each rounded at a partial sum of at most R·largest.
        slack = prefixes[:, None] ** 2 * 2.0**-24 * units.largest[None].astype(np.float64)
        size = tasks * tile * Q
        totals = self._memory("totals", size)[:size].reshape(tasks, Q // LINE, tile * LINE)
        table, drain = self._memory("table", 0), units.drain.reshape(-1)
        lines = Lines(table, self.B, units.low[0], units.per_unit, grounds + slack, drain, units.highest)
        buckets = self._label_buckets(prefixes)
        labels = np.empty((tasks, P, Q, leaders or max(KEPT, 2 * k)), dtype=np.int32)
        if leaders:
            labels[:] = -1
            find_leaders(buckets, points.n_present, points.excluded, lines, totals, labels, end, kind)
            raise_bar(*points[:3], self.B, buckets, labels, lists.bar, k, kind)
            return
        kept = Kept(labels, np.empty(labels.shape, dtype=np.uint8), np.zeros((tasks, P, Q), dtype=np.int64))
        cut = 0
        if kind == SUM and P == 1:
            cut = choose_cut(buckets, points.n_present, lines, lists.bar, totals[0], end)
        scan_labels(*points, buckets, lines, kept, k, lists.bar, kind, totals, end, cut)
        score_the_rest(*points, buckets, lines, kept, lists.scores, lists.labels, kind)

    def _label_buckets(self, prefixes: npt.NDArray[np.int64]) -> LabelBuckets:
        """The lookup as the compiled loops need it: its copies by label and shuffled where they are worth making."""
        n_labels = self.lookup.shape[1]
        if not self._often(len(prefixes)):
            flat = self.lookup.reshape(-1)
            return LabelBuckets(flat, n_labels, prefixes, NOT_SHUFFLED, flat, 1, n_labels)
        rows, order = (self.lookup, NOT_SHUFFLED) if is_far(self.B) else self.shuffled
        by_label = self.by_label.reshape(-1)
        return LabelBuckets(rows.reshape(-1), n_labels, prefixes, order, by_label, len(self.lookup), 1)


def first_of_fours(prefixes: npt.NDArray[np.int64]) -> list[int]:
    """The first of every four repetitions that the scan adds at once, from prefix to prefix."""
    before = [0, *prefixes[:-1].tolist()]
    return [
        r for low, high in zip(before, prefixes.tolist(), strict=True) for r in range(low, high - AT_ONCE + 1, AT_ONCE)
    ]


def _choose_units(spread: _Spread, bar: Floats, kind: int, grain: Grain, aim: int, fours: list[int]) -> _Units:
    """Units in which the bar [P, Q] of all repetitions (sum) or the highest bar (min) is ``aim``, or finer units.

    fours: the first of every four repetitions after which a sum loses what usual scores have added to it.
    """
    mean, deviation = spread
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
    # For the least score, and for the number of high scores, only scores above the lowest bar matter.
    lowest = np.maximum(bar.min(0), np.finfo(np.float32).min)
    low = np.ascontiguousarray(np.broadcast_to(lowest, mean.shape))
    return _Units(low, _rate(bar.max(0) - lowest, aim) if kind == MIN else none, drain, none, nothing)


def _units_of(bar: Floats, units: _Units, kind: int) -> Floats:
    """The bar [n] of all repetitions in units."""
    ground = (units.grounds[-1] if kind == SUM else units.low[0])[: len(bar)]
    height = np.where(np.isfinite(bar), bar - ground, 0.0)
    return np.asarray(height * units.per_unit[: len(bar)])


def _rate(span: Floats, aim: int) -> Floats:
    usable = np.isfinite(span) & (span > 1e-30)
    return np.where(usable, aim / np.where(usable, span, 1.0), 1.0).astype(np.float32)
