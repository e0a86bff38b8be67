"""Exact top-k from a point's best buckets alone, with a proof for each point that no other label is among its top k.

After the threshold algorithms of Fagin, Lotem and Naor (2003). Let θ be the k-th best score among a few good labels,
and c_r a cut in each repetition with Σ c_r = θ − M. A label's score is at most Σ c_r plus what the buckets above their
cut give it, Σ max(0, s_r − c_r); so a label whose buckets give less than the margin M scores below θ. Only buckets
above their cut are opened: their labels collect s − c (rounded up) in one byte each, and those that reach M are
scored exactly. Without such a θ, or with too many labels, the point is scanned by `mach.decode.cpu.scan`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property

import numba
import numpy as np
import numpy.typing as npt

from mach.decode.cpu.inverted_index import LabelIndex
from mach.decode.cpu.pruned_kernels import search
from mach.decode.cpu.scan import DenseScan
from mach.kernels.excluded import Excluded

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.integer]

SORT_SECONDS = 3e-9  # of one core, to put one label of one repetition into the index
FIRST_ROUND = 4  # points tried before it is decided how to go on; twice as many in every round
FIRST_WHERE_IT_PAID = 64  # the same after a call in which all points were tried; then all others at once
REMEMBERED = 64  # points of earlier calls that count beside those of the call itself, at most
SLOWER = 1.25  # a round counts as at most this much slower than those before it, in case the machine was busy
DOUBT = 1.1  # after a call in which all points were tried, giving up must be faster by more than the error of timings
LONGEST_REST = 8  # calls without a try, at most, after pruning did not pay several times in a row


@dataclass
class _Experience:
    """What earlier calls for one R have shown."""

    scanned: float = 0.0  # seconds of scans
    given_up: int = 0  # calls in a row that gave up
    rest: int = 0  # calls in which pruning is not tried next
    tried: float = 0.0  # points tried lately
    failed: float = 0.0  # of which failed
    seconds: float = 0.0  # that they needed
    all_tried: bool = False  # in the last call

    def learn(self, paid: bool) -> None:
        """Note whether pruning paid in this call; if not, it is tried again after some calls."""
        self.given_up = 0 if paid else self.given_up + 1
        self.rest = 0 if paid else min(2 ** (self.given_up - 1), LONGEST_REST)
        fade = min(1.0, REMEMBERED / self.tried) if self.tried else 0.0
        self.tried, self.failed, self.seconds = self.tried * fade, self.failed * fade, self.seconds * fade

    def add(self, tried: int, failed: int, seconds: float) -> None:
        if self.tried:
            seconds = min(seconds, SLOWER * tried * self.seconds / self.tried)
        self.tried, self.failed, self.seconds = self.tried + tried, self.failed + failed, self.seconds + seconds

    def hoped_share(self) -> float:
        """Share of points that fail, less its standard error, so that a few failures do not stop pruning."""
        share = self.failed / self.tried
        return max(0.0, share - float(np.sqrt(share * (1 - share) / self.tried + 1 / self.tried**2)))


class PrunedSearch:
    """Pruned search with a scan to fall back on, over one lookup table."""

    def __init__(self, lookup: Ints, B: int, scan: DenseScan) -> None:
        self._lookup, self._B, self._scan = lookup, B, scan
        self._experience: dict[int, _Experience] = {}
        self._tallies = np.zeros((0, lookup.shape[1]), dtype=np.uint8)
        self._compiled = False

    @cached_property
    def index(self) -> LabelIndex:
        return LabelIndex.of(self._lookup, self._B)

    def top_k(
        self, bucket_scores: Floats, R: int, k: int, *, always: bool, excluded: Excluded | None = None
    ) -> tuple[Floats, npt.NDArray[np.int32]]:
        """bucket_scores [N, R_max, B] → (scores, labels) [N, k], sums of the first R repetitions.

        ``always``: try to prune every point; otherwise only where that is expected to be faster. ``excluded``: labels
        that each point may not get.
        """
        N = len(bucket_scores)
        excluded = excluded or Excluded.of(None, N, self._lookup.shape[1])
        scores = np.full((N, k), -np.inf, dtype=np.float32)
        labels = np.full((N, k), -1, dtype=np.int32)
        experience = self._experience.setdefault(R, _Experience())
        left = np.arange(N)
        if always:
            left = self._prune(bucket_scores, excluded, R, left, scores, labels)
        elif experience.rest > 0:
            experience.rest -= 1
        elif self._has_index(N, R, experience):
            left, paid = self._prune_while_it_pays(bucket_scores, excluded, R, scores, labels)
            experience.learn(paid)
        if len(left):
            left = np.sort(left)
            started = time.perf_counter()
            found = self._scan.top_k(bucket_scores, k, [R], "sum", left, excluded)
            scores[left], labels[left] = found[0][0], found[1][0]
            experience.scanned += time.perf_counter() - started
        return scores, labels

    def _prune_while_it_pays(
        self, bucket_scores: Floats, excluded: Excluded, R: int, scores: Floats, labels: npt.NDArray[np.int32]
    ) -> tuple[npt.NDArray[np.int64], bool]:
        """Prune in growing rounds, spread over the points, until scanning the rest is cheaper.

        Returns the points that are left, and whether there was more than one round. The scan of a group costs the same
        for one point as for a full group, so with few points the first failure may stop the pruning.
        """
        scan = self._scan.tuner.expected_seconds
        experience = self._experience[R]
        waiting = _spread(len(bucket_scores))
        failed = waiting[:0]
        paid, rounds = experience.all_tried, 0
        size = FIRST_WHERE_IT_PAID if paid else FIRST_ROUND
        while len(waiting):
            now, waiting = waiting[:size], waiting[size:]
            started = time.perf_counter()
            left = self._prune(bucket_scores, excluded, R, now, scores, labels)
            seconds = time.perf_counter() - started
            failed = np.concatenate([failed, left])
            size = len(waiting) if paid else 2 * size
            if not self._compiled:  # the first round's seconds say nothing
                self._compiled = True
                continue
            rounds += 1
            experience.add(len(now), len(left), seconds)
            expected = round(len(failed) + len(waiting) * experience.hoped_share())
            pruned = len(waiting) * experience.seconds / experience.tried + scan(expected, R)
            if pruned > scan(len(failed) + len(waiting), R) * (DOUBT if paid else 1.0):
                break
        experience.all_tried = not len(waiting)
        return np.concatenate([failed, waiting]), rounds > 1 or not len(waiting)

    def _has_index(self, N: int, R: int, experience: _Experience) -> bool:
        """Whether the index exists, or the time of past scans and the next one is as long as building it would take."""
        if "index" in self.__dict__:
            return True
        build = self._lookup.size * SORT_SECONDS / numba.get_num_threads()
        return experience.scanned + self._scan.tuner.expected_seconds(N, R) > build

    def _prune(
        self,
        bucket_scores: Floats,
        excluded: Excluded,
        R: int,
        points: npt.NDArray[np.int64],
        scores: Floats,
        labels: npt.NDArray[np.int32],
    ) -> npt.NDArray[np.int64]:
        """Rank the points that can be pruned; returns the others. ValueError when a score is NaN or infinite."""
        tasks = max(1, min(len(points), numba.get_num_threads()))
        outcome = np.zeros(len(points), dtype=np.int8)
        index = self.index
        if len(self._tallies) < tasks:
            self._tallies = np.zeros((tasks, self._lookup.shape[1]), dtype=np.uint8)
        search(
            bucket_scores,
            excluded,
            self._scan.by_label,
            index.labels,
            index.starts,
            R,
            points,
            self._tallies[:tasks],
            scores,
            labels,
            outcome,
        )
        if (outcome < 0).any():
            raise ValueError("bucket_scores hold NaN or infinite values")
        return points[outcome == 0]


def _spread(n: int) -> npt.NDArray[np.int64]:
    """0..n − 1 in an order in which the first ones are spread over all, as neighbours in a file are often alike."""
    stride = max(1, int(n * 0.618))
    while np.gcd(stride, n) > 1:
        stride += 1
    return np.arange(n) * stride % max(n, 1)
