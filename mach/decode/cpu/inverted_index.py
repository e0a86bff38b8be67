"""The inverted index of a lookup table: the labels of each bucket, and the approximate decoder that uses it alone."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from mach.decode.cpu.topk_list import place_anywhere
from mach.kernels.excluded import Excluded, is_excluded

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.integer]

# Settings of the official approx_eval (Tharun24/MACH): best buckets per repetition, and how many must hold a label.
TOP_BUCKETS, AT_LEAST = 50, 2


@dataclass(frozen=True)
class LabelIndex:
    """labels int32 [R, n_labels]: the labels by bucket, ascending within one; starts int64 [R, B + 1]."""

    labels: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, lookup: Ints, B: int) -> LabelIndex:
        """Counting sort of every row of lookup [R, n_labels], repetitions in parallel."""
        R, n_labels = lookup.shape
        labels = np.empty((R, n_labels), dtype=np.int32)
        starts = np.zeros((R, B + 1), dtype=np.int64)
        _sort_by_bucket(lookup, labels, starts)
        return cls(labels, starts)

    def top_buckets(
        self,
        bucket_scores: Floats,
        R: int,
        k: int,
        excluded: Excluded | None = None,
        buckets: int = TOP_BUCKETS,
        least: int = AT_LEAST,
    ) -> tuple[Floats, npt.NDArray[np.int32]]:
        """Approximate top-k of the official code: (scores [N, k], labels [N, k]) from the first R repetitions.

        In each repetition the best ``buckets`` buckets are opened (ties: lowest bucket). A label found in ``least`` of
        them or more (in all R when R is smaller) scores the sum of the buckets it was found in. The other repetitions
        add nothing, which favours labels found seldom when scores are negative. ``excluded``: labels that each point
        may not get.
        """
        N, _, B = bucket_scores.shape
        excluded = excluded or Excluded.of(None, N, self.labels.shape[1])
        scores = np.full((N, k), -np.inf, dtype=np.float32)
        labels = np.full((N, k), -1, dtype=np.int32)
        arguments = (bucket_scores, excluded, self.labels, self.starts, R, min(buckets, B), min(least, R))
        _open_buckets(*arguments, min(N, numba.get_num_threads()), scores, labels)
        return scores, labels


@numba.njit(parallel=True, cache=True)
def _sort_by_bucket(lookup, labels, starts):  # type: ignore[no-untyped-def]
    R, n_labels = lookup.shape
    for r in numba.prange(R):
        for label in range(n_labels):
            starts[r, np.int64(lookup[r, label]) + 1] += 1
        for b in range(1, starts.shape[1]):
            starts[r, b] += starts[r, b - 1]
        cursor = starts[r, :-1].copy()
        for label in range(n_labels):
            bucket = np.int64(lookup[r, label])
            labels[r, cursor[bucket]] = label
            cursor[bucket] += 1


@numba.njit(parallel=True, cache=True)
def _open_buckets(  # type: ignore[no-untyped-def]
    bucket_scores, excluded, labels, starts, R, buckets, least, tasks, found_scores, found_labels
):
    n_labels = labels.shape[1]
    for task in numba.prange(tasks):
        total = np.zeros(n_labels, dtype=np.float32)
        seen = np.zeros(n_labels, dtype=np.uint16)
        for n in range(task, len(bucket_scores), tasks):
            opened = np.empty((R, buckets), dtype=np.int64)
            for r in range(R):
                _best_buckets(bucket_scores[n, r], opened[r])
                for bucket in opened[r]:
                    for label in labels[r, starts[r, bucket] : starts[r, bucket + 1]]:
                        total[label] += bucket_scores[n, r, bucket]
                        seen[label] += 1
            for r in range(R):
                for bucket in opened[r]:
                    for label in labels[r, starts[r, bucket] : starts[r, bucket + 1]]:
                        if seen[label] >= least and not is_excluded(excluded, n, label):
                            place_anywhere(found_scores[n], found_labels[n], total[label], label)
                        seen[label] = 0
                        total[label] = 0.0


@numba.njit(cache=True)
def _best_buckets(row, best):  # type: ignore[no-untyped-def]
    """The len(best) highest buckets of a row, lowest ids among equals."""
    lowest = np.partition(row, len(row) - len(best))[len(row) - len(best)]
    at = 0
    for bucket in range(len(row)):
        if row[bucket] > lowest:
            best[at] = bucket
            at += 1
    for bucket in range(len(row)):
        if at < len(best) and row[bucket] == lowest:
            best[at] = bucket
            at += 1
