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

import numba
import numpy as np
import numpy.typing as npt

from mach.lanes import (
    AT_ONCE,
    BLOCK,
    LINE,
    NOT_FINITE,
    add_four,
    add_one,
    first_bit,
    least_of_four,
    least_of_one,
    quantise,
    reaching,
)

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.integer]

SUM, MIN, MEDIAN = 0, 1, 2
COMBINATIONS = {"sum": SUM, "min": MIN, "median": MEDIAN}

SAMPLE = 256  # labels whose exact scores choose the units
SPREAD = 0.75  # scores more than this many standard deviations below a repetition's mean count 0
AIM_FIRST, AIM = 170, 210  # where in 1..255 the bar goes; the room above it is for a bar that still rises
FIRST_PART = 16  # 1/16 of the labels is ranked by bounds alone before the units are chosen for all
LEADERS = 8  # labels of that part that each task keeps for a point
NEAR_TILE, FAR_TILE = 8192, 65_536  # labels whose totals stay near while four repetitions are added
NEAR_BYTES = 2**21  # four repetitions' lines up to this size fit beside the totals in a core's own cache
TASKS_A_THREAD = 2
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
    """low [R, 64]: at or below it a score counts 0; per_unit [64]: units a score; largest [64]: bound of any |score|."""

    low: Floats
    per_unit: Floats
    largest: Floats


@dataclass
class DenseScan:
    """The scan over one lookup table [R, n_labels]; keeps scratch memory between groups of points."""

    lookup: Ints
    B: int
    _table: npt.NDArray[np.uint8] | None = field(default=None, repr=False)

    def top_k(
        self, bucket_scores: Floats, k: int, prefixes: list[int], combine: str
    ) -> tuple[Floats, npt.NDArray[np.int32]]:
        """bucket_scores [N, R, B] float32, C-contiguous → (scores, labels) [P, N, k] for each R' in ``prefixes``.

        ``combine``: sum, min or median over repetitions. Raises ValueError when a score is NaN or infinite.
        """
        N = len(bucket_scores)
        kind = COMBINATIONS[combine]
        scores = np.full((len(prefixes), N, k), -np.inf, dtype=np.float32)
        labels = np.full((len(prefixes), N, k), -1, dtype=np.int32)
        # A median needs bytes of its own for every number of repetitions.
        passes = [[R] for R in prefixes] if kind == MEDIAN else [prefixes]
        for first in range(0, N, LINE):
            points = slice(first, min(first + LINE, N))
            for some in passes:
                at = slice(prefixes.index(some[0]), prefixes.index(some[-1]) + 1)
                found = self._group(bucket_scores[points], k, np.asarray(some), kind)
                count = points.stop - first
                scores[at, points], labels[at, points] = found.scores[:, :count], found.labels[:, :count]
        return scores, labels

    def _group(self, scores: Floats, k: int, prefixes: npt.NDArray[np.int64], kind: int) -> _Lists:
        n_labels, R = self.lookup.shape[1], int(prefixes[-1])
        sample = np.linspace(0, n_labels - 1, min(SAMPLE, n_labels)).astype(np.int64)
        sampled = np.ascontiguousarray(self.lookup[:R, sample])
        mean, deviation, bar = _look_around(scores, sampled, k, prefixes, kind)
        # The k-th best of some labels belongs to the answer unless it is beaten, so a label may equal it.
        lists = _Lists.empty(len(prefixes), k, np.nextafter(bar, np.float32(-np.inf)))
        first = n_labels // FIRST_PART
        if first > SAMPLE:
            units = self._fill(scores, R, _choose_units(mean, deviation, lists.bar, kind, AIM_FIRST))
            self._scan(scores, prefixes, units, lists, first, kind, leaders=max(LEADERS, k))
        units = self._fill(scores, R, _choose_units(mean, deviation, lists.bar, kind, AIM))
        self._scan(scores, prefixes, units, lists, n_labels, kind)
        return lists

    def _fill(self, scores: Floats, R: int, units: _Units) -> _Units:
        """Write the table of the first R repetitions; returns the units with the largest |score| noted."""
        needed = R * self.B * LINE
        if self._table is None or len(self._table) < needed:
            self._table = _aligned(needed)
        largest = np.empty((R, LINE // BLOCK), dtype=np.uint32)
        rows = scores.reshape(len(scores), -1)
        _quantise_all(rows, self.B, units.low, units.per_unit, self._table, largest)
        if largest.max() >= NOT_FINITE:
            raise ValueError("bucket_scores hold NaN or infinite values")
        return replace(units, largest=np.repeat(largest.max(0).view(np.float32), BLOCK))

    def _scan(
        self,
        scores: Floats,
        prefixes: npt.NDArray[np.int64],
        units: _Units,
        lists: _Lists,
        end: int,
        kind: int,
        leaders: int = 0,
    ) -> None:
        """Feed the labels 0..end to the lists; with ``leaders`` only raise the bar by that many labels a task."""
        tile = NEAR_TILE if AT_ONCE * self.B * LINE <= NEAR_BYTES else FAR_TILE
        tasks = max(1, min(TASKS_A_THREAD * numba.get_num_threads(), -(-end // 1024)))
        tile = min(tile, -(-end // tasks))
        P = len(prefixes)
        grounds = np.cumsum(units.low.astype(np.float64), 0)[prefixes - 1]
        # Bound of what float32 sums are off by: R additions, each rounded at a partial sum of at most R·largest.
        slack = prefixes[:, None] ** 2 * 2.0**-24 * units.largest[None].astype(np.float64)
        totals = _aligned(tasks * tile * LINE)
        table = (self._table, self.B, units.low[0], units.per_unit, grounds + slack)
        lookup = (self.lookup.reshape(-1), self.lookup.shape[1], prefixes)
        kept = leaders or KEPT
        labels = np.full((tasks, P, LINE, kept), -1, dtype=np.int32)
        if leaders:
            _find_leaders(lookup, len(scores), table, totals, tile, labels, end, tasks, kind)
            _raise_bar(scores, lookup, labels, lists.bar, lists.scores.shape[2], kind)
            return
        bounds = np.empty((tasks, P, LINE, kept), dtype=np.uint8)
        counts = np.zeros((tasks, P, LINE), dtype=np.int64)
        arguments = (lookup, table, labels, bounds, counts, lists.scores, lists.labels, lists.bar, kind)
        _scan_labels(scores, *arguments, totals, tile, end)
        _score_the_rest(scores, *arguments)


def _aligned(size: int) -> npt.NDArray[np.uint8]:
    """uint8 [size], not cleared, that starts at a cache line."""
    raw = np.empty(size + LINE, dtype=np.uint8)
    start = -raw.ctypes.data % LINE
    return raw[start : start + size]


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


def _rate(span: Floats, aim: int) -> Floats:
    usable = np.isfinite(span) & (span > 1e-30)
    return np.where(usable, aim / np.where(usable, span, 1.0), 1.0).astype(np.float32)


@numba.njit(parallel=True, cache=True)
def _look_around(scores, sampled, k, prefixes, kind):  # type: ignore[no-untyped-def]
    """Of a sample of labels, buckets [R, S]: mean and deviation of their scores in each repetition [R, 64], and the
    k-th best total of each prefix [P, 64], −inf where the sample is too small."""
    R, S = sampled.shape
    mean = np.zeros((R, LINE), dtype=np.float32)
    deviation = np.zeros((R, LINE), dtype=np.float32)
    bar = np.full((len(prefixes), LINE), -np.inf, dtype=np.float32)
    for q in numba.prange(len(scores)):
        total = np.zeros(S, dtype=np.float32)
        value = np.empty(S, dtype=np.float32)
        values = np.empty((R if kind == MEDIAN else 0, S), dtype=np.float32)
        p = 0
        for r in range(R):
            for s in range(S):
                value[s] = scores[q, r, sampled[r, s]]
            mean[r, q], deviation[r, q] = _moments(value)
            if kind == SUM:
                total += value
            elif kind == MIN:
                for s in range(S):
                    total[s] = min(total[s], value[s]) if r else value[s]
            else:
                values[r] = value
            if r + 1 == prefixes[p]:
                if S >= k:
                    if kind == MEDIAN:
                        for s in range(S):
                            total[s] = _middle(values[: r + 1, s].copy())
                    bar[p, q] = np.partition(total, S - k)[S - k]
                p += 1
    return mean, deviation, bar


@numba.njit(fastmath={"reassoc", "contract"}, cache=True)
def _moments(values):  # type: ignore[no-untyped-def]
    first = second = np.float32(0.0)
    for value in values:
        first += value
    mean = first / np.float32(len(values))
    for value in values:
        second += (value - mean) * (value - mean)
    return mean, np.sqrt(second / np.float32(len(values)))


@numba.njit(parallel=True, cache=True)
def _quantise_all(scores, B, low, per_unit, table, largest):  # type: ignore[no-untyped-def]
    """Lines of all buckets. scores [N, R·B]; largest uint32 [R, 4]: bits of the largest |score| of 16 points each."""
    count, stride = scores.shape
    R = len(largest)
    flat = scores.reshape(-1)
    for r in numba.prange(R):
        largest[r] = 0
        for block in range(LINE // BLOCK):
            point = block * BLOCK
            if point + BLOCK <= count and B >= BLOCK:
                top = np.uint32(0)
                for at in range(0, B, BLOCK):
                    b = min(at, B - BLOCK)  # the last block may overlap its neighbour
                    begin = point * stride + r * B + b
                    to = (r * B + b) * LINE + point
                    found = quantise(flat, begin, stride, table, to, low[r], per_unit, point)  # type: ignore[call-arg]
                    top = max(top, found)
                largest[r, block] = top
            else:
                largest[r, block] = _quantise_plainly(scores, r, B, low[r], per_unit, table, point, count)


@numba.njit(cache=True)
def _quantise_plainly(scores, r, B, low, per_unit, table, point, count):  # type: ignore[no-untyped-def]
    """The same for 16 lanes not all of which have a point, or fewer than 16 buckets."""
    largest = np.float32(0.0)
    for q in range(point, point + BLOCK):
        for b in range(B):
            byte = 0
            if q < count:
                score = scores[q, r * B + b]
                if not np.isfinite(score):
                    return np.uint32(NOT_FINITE)
                largest = max(largest, abs(score))
                if score > low[q]:
                    byte = int(min((score - low[q]) * per_unit[q], np.float32(254.0))) + 1
            table[(r * B + b) * LINE + q] = byte
    return np.array([largest], dtype=np.float32).view(np.uint32)[0]


@numba.njit(cache=True)
def _add(total, lookup, n_labels, at, width, table, B, done, until, kind):  # type: ignore[no-untyped-def]
    """Bring the totals of labels at..at + width from their first ``done`` repetitions to ``until``."""
    while done < until:
        if until - done >= AT_ONCE:
            if kind == MIN:
                least_of_four(total, table, lookup, at, width, n_labels, done, B)  # type: ignore[call-arg]
            else:
                add_four(total, table, lookup, at, width, n_labels, done, B)  # type: ignore[call-arg]
            done += AT_ONCE
        else:
            if kind == MIN:
                least_of_one(total, table, lookup, at, width, n_labels, done, B)  # type: ignore[call-arg]
            else:
                add_one(total, table, lookup, at, width, n_labels, done, B)  # type: ignore[call-arg]
            done += 1


@numba.njit(parallel=True, cache=True)
def _find_leaders(lookups, count, tables, totals, tile, found_labels, end, tasks, kind):  # type: ignore[no-untyped-def]
    """Of every task's share of the labels 0..end, those with the highest bounds, found_labels
    [tasks, P, 64, n]."""
    lookup, n_labels, prefixes = lookups
    table, B = tables[0], tables[1]
    P, kept = len(prefixes), found_labels.shape[3]
    present = _lanes(count)
    for task in numba.prange(tasks):
        total = totals[task * tile * LINE : (task + 1) * tile * LINE]
        bounds = np.full((P, LINE, kept), -1.0, dtype=np.float32)
        limit = np.zeros(P * LINE, dtype=np.uint8)
        for at in range(end * task // tasks, end * (task + 1) // tasks, tile):
            width = min(tile, end * (task + 1) // tasks - at)
            total[: width * LINE] = 255 if kind == MIN else 0
            done = 0
            for p in range(P):
                _add(total, lookup, n_labels, at, width, table, B, done, prefixes[p], kind)
                done = prefixes[p]
                for t in range(width):
                    hits = reaching(total, t * LINE, limit, p * LINE) & present  # type: ignore[call-arg]
                    while hits != 0:
                        q = first_bit(hits)  # type: ignore[call-arg]
                        hits &= hits - np.uint64(1)
                        bound = np.float32(total[t * LINE + q])
                        lowest = insert(bounds[p, q], found_labels[task, p, q], bound, at + t)
                        limit[p * LINE + q] = min(255, int(lowest) + 1)


@numba.njit(parallel=True, cache=True)
def _raise_bar(scores, lookups, leaders, bar, k, kind):  # type: ignore[no-untyped-def]
    """bar [P, 64]: just below the k-th best exact score of the leaders [tasks, P, 64, n], where that is higher."""
    lookup, n_labels, prefixes = lookups
    tasks, P, _, n = leaders.shape
    for q in numba.prange(len(scores)):
        column = np.empty(prefixes[-1], dtype=np.float32)
        for p in range(P):
            exact = np.full(tasks * n, -np.inf, dtype=np.float32)
            for task in range(tasks):
                for at in range(n):
                    label = leaders[task, p, q, at]
                    if label >= 0:
                        exact[task * n + at] = _exact(scores, lookup, n_labels, q, label, prefixes[p], kind, column)
            below = np.nextafter(np.partition(exact, tasks * n - k)[tasks * n - k], np.float32(-np.inf))
            bar[p, q] = max(bar[p, q], below)


@numba.njit(parallel=True, cache=True)
def _scan_labels(  # type: ignore[no-untyped-def]
    scores, lookups, tables, labels, bounds, counts, best, best_labels, bar, kind, totals, tile, end
):
    """Every task keeps the labels of its share of 0..end whose bound reaches the bar [P, 64].

    labels, bounds [tasks, P, 64, KEPT], counts [tasks, P, 64]. Where there is no more room, a task scores what it has
    into a list of its own and goes on with the few that are left.
    """
    lookup, n_labels, prefixes = lookups
    table, B, low, per_unit, grounds = tables
    count, P, k = len(scores), len(prefixes), best.shape[2]
    tasks, room = len(labels), labels.shape[3]
    present = _lanes(count)
    for task in numba.prange(tasks):
        total = totals[task * tile * LINE : (task + 1) * tile * LINE]
        limit = np.full(P * LINE, 255, dtype=np.uint8)
        for p in range(P):
            for q in range(count):
                limit[p * LINE + q] = _limit(bar[p, q], grounds[p, q], low[q], per_unit[q], prefixes[p], kind)
        for at in range(end * task // tasks, end * (task + 1) // tasks, tile):
            width = min(tile, end * (task + 1) // tasks - at)
            total[: width * LINE] = 255 if kind == MIN else 0
            done = 0
            for p in range(P):
                _add(total, lookup, n_labels, at, width, table, B, done, prefixes[p], kind)
                done = prefixes[p]
                for t in range(width):
                    hits = reaching(total, t * LINE, limit, p * LINE) & present  # type: ignore[call-arg]
                    while hits != 0:
                        q = first_bit(hits)  # type: ignore[call-arg]
                        hits &= hits - np.uint64(1)
                        place = counts[task, p, q]
                        labels[task, p, q, place] = at + t
                        bounds[task, p, q, place] = total[t * LINE + q]
                        counts[task, p, q] = place + 1
                        if place + 1 == room:
                            some = np.full(k, -np.inf, dtype=np.float32), np.full(k, -1, dtype=np.int32)
                            arguments = scores, lookups, q, done, labels[task, p, q], bounds[task, p, q], room
                            _score_down(*arguments, some[0], some[1], grounds[p, q], low[q], per_unit[q], kind)
                            # What is among the best of these labels waits for the others with the highest bound.
                            counts[task, p, q] = 0
                            for place in range(k):
                                if some[1][place] >= 0:
                                    labels[task, p, q, place] = some[1][place]
                                    bounds[task, p, q, place] = 255
                                    counts[task, p, q] = place + 1
                            if some[1][k - 1] >= 0:
                                below = np.nextafter(some[0][k - 1], np.float32(-np.inf))
                                reached = _limit(below, grounds[p, q], low[q], per_unit[q], done, kind)
                                limit[p * LINE + q] = max(limit[p * LINE + q], reached)


@numba.njit(parallel=True, cache=True)
def _score_the_rest(scores, lookups, tables, labels, bounds, counts, best, best_labels, bar, kind):  # type: ignore[no-untyped-def]
    """The best k [P, 64, k] among what the tasks have kept."""
    _, _, low, per_unit, grounds = tables
    tasks, P = counts.shape[:2]
    for q in numba.prange(len(scores)):
        for p in range(P):
            some = np.empty(counts[:, p, q].sum(), dtype=np.int32)
            reach = np.empty(len(some), dtype=np.uint8)
            at = 0
            for task in range(tasks):
                kept = counts[task, p, q]
                some[at : at + kept] = labels[task, p, q, :kept]
                reach[at : at + kept] = bounds[task, p, q, :kept]
                at += kept
            arguments = scores, lookups, q, lookups[2][p], some, reach, at, best[p, q], best_labels[p, q]
            _score_down(*arguments, grounds[p, q], low[q], per_unit[q], kind)


@numba.njit(cache=True)
def _score_down(  # type: ignore[no-untyped-def]
    scores, lookups, q, R, labels, bounds, count, best, best_labels, ground, low, per_unit, kind
):
    """Score labels exactly from the highest bound down, until the next bound cannot reach the k-th best."""
    lookup, n_labels, _ = lookups
    k = len(best)
    column = np.empty(R, dtype=np.float32)
    starts = np.zeros(257, dtype=np.int64)
    for at in range(count):
        starts[np.int64(bounds[at]) + 1] += 1
    for bound in range(256):
        starts[bound + 1] += starts[bound]
    order = np.empty(count, dtype=np.int64)
    for at in range(count):
        order[starts[bounds[at]]] = at
        starts[bounds[at]] += 1
    limit = 0
    for i in range(count - 1, -1, -1):
        if bounds[order[i]] < limit:
            break
        label = labels[order[i]]
        score = _exact(scores, lookup, n_labels, q, label, R, kind, column)
        if place_anywhere(best, best_labels, score, label) and best_labels[k - 1] >= 0:
            below = np.nextafter(best[k - 1], np.float32(-np.inf))  # an equal score may have a lower label id
            limit = _limit(below, ground, low, per_unit, R, kind)


@numba.njit(cache=True)
def _lanes(count):  # type: ignore[no-untyped-def]
    """The first ``count`` of 64 points as bits."""
    every = np.uint64(0xFFFFFFFFFFFFFFFF)
    return every if count == LINE else (np.uint64(1) << np.uint64(count)) - np.uint64(1)


@numba.njit(cache=True)
def _limit(bar, ground, low, per_unit, R, kind):  # type: ignore[no-untyped-def]
    """The least total that a label with a score above the bar can have, 0..255."""
    if kind == MEDIAN:
        return (R + 1) // 2  # the middle, or the upper one of two, and all above it are above the bar
    if bar == -np.inf:
        return 0
    units = (bar - ground if kind == SUM else np.float64(bar) - low) * per_unit
    if units < 0.0:
        return 0
    return int(min(units * (1.0 - 1e-5), 254.0)) + 1


@numba.njit(cache=True)
def _exact(scores, lookup, n_labels, q, label, R, kind, column):  # type: ignore[no-untyped-def]
    """A label's exact score of point q over the first R repetitions; column float32 [R or more] is scratch."""
    score = scores[q, 0, lookup[label]]
    if kind == SUM:
        for r in range(1, R):
            score += scores[q, r, lookup[r * n_labels + label]]
    elif kind == MIN:
        for r in range(1, R):
            score = min(score, scores[q, r, lookup[r * n_labels + label]])
    else:
        for r in range(R):
            column[r] = scores[q, r, lookup[r * n_labels + label]]
        score = _middle(column[:R].copy())
    return score


@numba.njit(cache=True)
def _middle(values):  # type: ignore[no-untyped-def]
    """Median of float32 values [n], which are sorted in place; the mean of the middle two for an even n."""
    values.sort()
    half = len(values) // 2
    if len(values) % 2:
        return values[half]
    return (values[half - 1] + values[half]) * np.float32(0.5)


@numba.njit(cache=True)
def insert(scores, labels, score, label):  # type: ignore[no-untyped-def]
    """Put a label into one list [k], behind every entry that is at least as good; returns the last entry's score."""
    at = len(scores) - 1
    while at > 0 and (labels[at - 1] < 0 or scores[at - 1] < score):
        scores[at] = scores[at - 1]
        labels[at] = labels[at - 1]
        at -= 1
    scores[at] = score
    labels[at] = label
    return scores[len(scores) - 1]


@numba.njit(cache=True)
def place_anywhere(scores, labels, score, label):  # type: ignore[no-untyped-def]
    """Offer a label to one list [k] when labels come in no order: among equal scores the lower id goes first.

    Returns whether it was taken.
    """
    last = len(scores) - 1
    if labels[last] >= 0 and (score < scores[last] or (score == scores[last] and label > labels[last])):
        return False
    insert(scores, labels, score, label)
    for at in range(last, 0, -1):
        if labels[at] >= 0 and scores[at] == scores[at - 1] and labels[at] < labels[at - 1]:
            labels[at], labels[at - 1] = labels[at - 1], labels[at]
    return True
