"""Exact top-k from a point's best buckets alone, with a proof for each point that no other label can be among them.

After the threshold algorithms of Fagin, Lotem and Naor (2003). Let θ be the k-th best score among a few good labels,
and c_r a cut in each repetition with Σ c_r = θ − M. A label's score is at most Σ c_r plus what the buckets above their
cut give it, Σ max(0, s_r − c_r); so a label whose buckets give less than the margin M scores below θ. Only buckets
above their cut are opened: their labels collect s − c (rounded up) in one byte each, and those that reach M are
scored exactly. No such θ, or too many labels: the point is *scanned* by `mach.dense` like any other.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cached_property

import numba
import numpy as np
import numpy.typing as npt

from mach.dense import DenseScan, place_anywhere
from mach.index import LabelIndex
from mach.lanes import BLOCK, LINE, above, first_bit

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.integer]

LISTED = 64  # buckets a repetition that may be opened, about; the rest are bounded by the best of them
LOOKED_AT = 1024  # buckets a repetition whose scores say where that bound is
SEED_BUCKETS = 2  # best buckets a repetition that give the first labels, and so θ
MARGIN_UNITS = 200  # the margin in a byte's units
CANDIDATES = 1 << 14  # more labels than this are cheaper to scan
WORTH_OF_ONE = 60  # scoring a label costs as much as passing this many labels of opened buckets

# First guesses in seconds of one core, replaced by what is measured as soon as something has run.
LINE_SECONDS, BYTE_SECONDS, SORT_SECONDS = 7e-10, 2e-10, 3e-9
PROBE_SHARE = 32  # one point in so many is tried before the others are decided
FEW = 8  # with no more points than this, trying costs nothing beside a scan


@dataclass
class Costs:
    """Seconds of wall clock for scanning a group of 64 points, and what scanning has cost in all."""

    scan_group: float
    spent: float = 0.0
    measured: bool = False

    def learn(self, seconds: float, groups: int) -> None:
        """Take a measured scan into account; a moving average, since machines are noisy."""
        self.spent += seconds
        rate = seconds / groups
        self.scan_group = 0.5 * (self.scan_group + rate) if self.measured else rate
        self.measured = True


class PrunedSearch:
    """Pruned search with a scan to fall back on, over one lookup table."""

    def __init__(self, lookup: Ints, B: int, scan: DenseScan) -> None:
        self._lookup, self._B, self._scan = lookup, B, scan
        self._costs: dict[int, Costs] = {}

    @cached_property
    def index(self) -> LabelIndex:
        return LabelIndex.of(self._lookup, self._B)

    def top_k(
        self, bucket_scores: Floats, R: int, k: int, *, always: bool
    ) -> tuple[Floats, npt.NDArray[np.int32]]:
        """bucket_scores [N, R_max, B] → (scores, labels) [N, k], sums of the first R repetitions.

        ``always``: try to prune every point; otherwise only where that is expected to be faster.
        """
        N = len(bucket_scores)
        scores = np.full((N, k), -np.inf, dtype=np.float32)
        labels = np.full((N, k), -1, dtype=np.int32)
        costs = self._costs.setdefault(R, Costs(self._guess(R)))
        left = np.arange(N)
        if always:
            left = self._prune(bucket_scores, R, left, scores, labels)
        elif self._has_index(N, costs):
            probe = left if N <= FEW else left[:: min(PROBE_SHARE, N // 2)]
            started = time.perf_counter()
            failed = self._prune(bucket_scores, R, probe, scores, labels)
            seconds = (time.perf_counter() - started) / len(probe)
            rest = np.setdiff1d(left, probe)
            unpruned = len(rest) * len(failed) / len(probe)
            scan = costs.scan_group
            if len(rest) * seconds + scan * np.ceil(unpruned / LINE) < scan * np.ceil(len(rest) / LINE):
                left = np.concatenate([failed, self._prune(bucket_scores, R, rest, scores, labels)])
            else:
                left = np.concatenate([failed, rest])
        if len(left):
            started = time.perf_counter()
            some = bucket_scores if len(left) == N else bucket_scores[np.sort(left)]
            found = self._scan.top_k(some, k, [R], "sum")
            scores[np.sort(left)], labels[np.sort(left)] = found[0][0], found[1][0]
            costs.learn(time.perf_counter() - started, -(-len(left) // LINE))
        return scores, labels

    def _guess(self, R: int) -> float:
        lines = self._lookup.shape[1] * R * LINE_SECONDS
        return (lines + R * self._B * LINE * BYTE_SECONDS) / numba.get_num_threads()

    def _has_index(self, N: int, costs: Costs) -> bool:
        """Whether the index is there, or scanning has cost and would cost as much as building it."""
        if "index" in self.__dict__:
            return True
        build = self._lookup.size * SORT_SECONDS / numba.get_num_threads()
        return costs.spent + costs.scan_group * -(-N // LINE) > build

    def _prune(
        self, bucket_scores: Floats, R: int, points: npt.NDArray[np.int64], scores: Floats, labels: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.int64]:
        """Fill in the points that can be pruned; returns the others. ValueError when a score is NaN or infinite."""
        tasks = max(1, min(len(points), numba.get_num_threads()))
        outcome = np.zeros(len(points), dtype=np.int8)
        index = self.index
        _search(bucket_scores, self._lookup, index.labels, index.starts, R, points, tasks, scores, labels, outcome)
        if (outcome < 0).any():
            raise ValueError("bucket_scores hold NaN or infinite values")
        return points[outcome == 0]


@numba.njit(parallel=True, cache=True)
def _search(scores, lookup, by_bucket, starts, R, points, tasks, found_scores, found_labels, outcome):  # type: ignore[no-untyped-def]
    """outcome int8 [points]: 1 found and proven, 0 not, −1 a score is not finite."""
    B, n_labels, k = scores.shape[2], lookup.shape[1], found_scores.shape[1]
    flat = scores.reshape(-1)
    for task in numba.prange(tasks):
        tally = np.zeros(n_labels, dtype=np.uint8)
        candidates = np.empty(CANDIDATES, dtype=np.int32)
        bucket = np.empty((R, B), dtype=np.int32)
        value = np.empty((R, B), dtype=np.float32)
        listed = np.empty(R, dtype=np.int64)
        cut = np.empty(R, dtype=np.float64)
        best = np.empty(R, dtype=np.float64)
        for i in range(task, len(points), tasks):
            n = points[i]
            first = n * scores.shape[1] * B
            largest = 0.0
            for r in range(R):
                cut[r] = _cut(scores[n, r])
                listed[r], best[r], magnitude = _list_above(flat, first + r * B, B, cut[r], bucket[r], value[r])
                largest = max(largest, magnitude)
            if not np.isfinite(largest):
                outcome[i] = -1
                continue
            theta = _seed(scores[n], lookup, by_bucket, starts, bucket, value, listed, tally, candidates, k)
            margin = _raise_cuts(cut, best, value, listed, theta, n_labels, B)
            # The float32 sum of R scores is off by less than this; a hundredth of the margin must exceed it.
            if not margin > 200.0 * R * R * 2.0**-24 * largest:
                continue
            count = _collect(by_bucket, starts, bucket, value, listed, cut, margin, tally, candidates)
            if count > CANDIDATES:
                continue
            for c in range(count):
                label = candidates[c]
                place_anywhere(found_scores[n], found_labels[n], _score(scores[n], lookup, label, R), label)
            outcome[i] = 1


@numba.njit(cache=True)
def _cut(row):  # type: ignore[no-untyped-def]
    """A score that about `LISTED` buckets of a row exceed, from an even sample of it."""
    looked_at = min(len(row), LOOKED_AT)
    rank = max(1, min(looked_at, LISTED * looked_at // len(row)))
    highest = np.full(rank, -np.inf, dtype=np.float32)
    for s in range(looked_at):
        score = row[s * len(row) // looked_at]
        if score > highest[rank - 1]:
            at = rank - 1
            while at > 0 and highest[at - 1] < score:
                highest[at] = highest[at - 1]
                at -= 1
            highest[at] = score
    return highest[rank - 1]


@numba.njit(cache=True)
def _list_above(flat, first, B, cut, bucket, value):  # type: ignore[no-untyped-def]
    """The buckets of a row above the cut; (how many, the highest score, the largest magnitude or inf if not finite)."""
    count = 0
    best = cut
    lowest = np.float32(0.0)
    for b in range(B):
        lowest = min(lowest, flat[first + b])
    for start in range(0, B - BLOCK + 1, BLOCK):
        hits = above(flat, first + start, np.float32(cut))
        while hits != 0:
            b = start + first_bit(hits)
            hits &= hits - np.uint64(1)
            bucket[count], value[count] = b, flat[first + b]
            count += 1
    for b in range(B - B % BLOCK, B):
        if not flat[first + b] <= cut:
            bucket[count], value[count] = b, flat[first + b]
            count += 1
    finite = np.isfinite(lowest) and np.isfinite(cut)
    for c in range(count):
        finite &= np.isfinite(value[c])
        best = max(best, value[c])
    return count, best, max(-lowest, abs(best)) if finite else np.inf


@numba.njit(cache=True)
def _seed(scores, lookup, by_bucket, starts, bucket, value, listed, tally, candidates, k):  # type: ignore[no-untyped-def]
    """The k-th best exact score among the labels that most of the best buckets hold; −inf when there are too few."""
    R = len(listed)
    chosen = np.full((R, SEED_BUCKETS), -1, dtype=np.int64)
    for r in range(R):
        for place in range(SEED_BUCKETS):
            for c in range(listed[r]):
                if place > 0 and (c == chosen[r, 0]):
                    continue
                if chosen[r, place] < 0 or value[r, c] > value[r, chosen[r, place]]:
                    chosen[r, place] = c
    count = 0
    for r in range(R):
        for c in chosen[r]:
            if c < 0:
                continue
            b = bucket[r, c]
            for label in by_bucket[r, starts[r, b] : starts[r, b + 1]]:
                tally[label] += np.uint8(1) if tally[label] < 255 else np.uint8(0)
                if tally[label] == 2 and count < len(candidates):
                    candidates[count] = label
                    count += 1
    often = np.zeros(256, dtype=np.int64)
    for c in range(count):
        often[tally[candidates[c]]] += 1
    least, wanted = 255, 0
    while least >= 2 and wanted + often[least] < 4 * k:
        wanted += often[least]
        least -= 1
    best = np.full(k, -np.inf, dtype=np.float32)
    taken = 0
    for c in range(count):
        if tally[candidates[c]] >= max(least, 2) and taken < 16 * k:
            taken += 1
            score = _score(scores, lookup, candidates[c], R)
            if score > best[k - 1]:
                at = k - 1
                while at > 0 and best[at - 1] < score:
                    best[at] = best[at - 1]
                    at -= 1
                best[at] = score
    for r in range(R):
        for c in chosen[r]:
            if c >= 0:
                b = bucket[r, c]
                for label in by_bucket[r, starts[r, b] : starts[r, b + 1]]:
                    tally[label] = 0
    return np.float64(best[k - 1])


@numba.njit(cache=True)
def _raise_cuts(cut, best, value, listed, theta, n_labels, B):  # type: ignore[no-untyped-def]
    """Raise the cuts (in place) to where the search is expected to be cheapest; returns the margin, or −1."""
    R = len(cut)
    room = theta - cut.sum()
    if not room > 0.0 or not np.isfinite(room):
        return -1.0
    cheapest, chosen = np.inf, 0.0
    for step in range(20):
        rise = 0.05 * step * room / R
        left, highest, opened = theta, 0.0, 0
        for r in range(R):
            here = min(cut[r] + rise, best[r])
            left -= here
            highest += best[r] - here
            for c in range(listed[r]):
                opened += value[r, c] > here
        # A label needs about this many of the best buckets to fill the margin; how many have them by chance?
        hits = max(1.0, np.ceil(left / max(highest / R, 1e-30)))
        rate = opened / B
        by_chance = n_labels * np.exp(hits * np.log(max(rate, 1e-30)) - rate - math.lgamma(hits + 1.0))
        cost = 2.0 * opened * n_labels / B + WORTH_OF_ONE * by_chance
        if cost < cheapest:
            cheapest, chosen = cost, rise
    total = 0.0
    for r in range(R):
        cut[r] = min(cut[r] + chosen, best[r])
        total += cut[r]
    return theta - total


@numba.njit(cache=True)
def _collect(by_bucket, starts, bucket, value, listed, cut, margin, tally, candidates):  # type: ignore[no-untyped-def]
    """Labels whose opened buckets reach the margin → candidates; returns how many (more than fit: too many)."""
    R = len(listed)
    scale = MARGIN_UNITS / margin
    enough = MARGIN_UNITS - 1
    count = 0
    for r in range(R):
        for c in range(listed[r]):
            if value[r, c] > cut[r]:
                units = int(min((value[r, c] - cut[r]) * scale, 254.0)) + 1
                b = bucket[r, c]
                for label in by_bucket[r, starts[r, b] : starts[r, b + 1]]:
                    before = np.int64(tally[label])
                    after = min(before + units, 255)
                    tally[label] = after
                    if before < enough <= after:
                        if count < len(candidates):
                            candidates[count] = label
                        count += 1
    for r in range(R):
        for c in range(listed[r]):
            if value[r, c] > cut[r]:
                b = bucket[r, c]
                for label in by_bucket[r, starts[r, b] : starts[r, b + 1]]:
                    tally[label] = 0
    return count


@numba.njit(cache=True)
def _score(scores, lookup, label, R):  # type: ignore[no-untyped-def]
    """A label's exact sum over the first R repetitions, in order."""
    total = scores[0, lookup[0, label]]
    for r in range(1, R):
        total += scores[r, lookup[r, label]]
    return total
