"""Exact top-k of a few points by looking at every label: one point and one tile of labels at a time, in float32.

The algorithm of the official code, with all cores in parallel and in tiles of labels whose totals stay in the cache. A
table of lines as in `mach.decode.cpu.scan` costs the same for one point as for 64, too much for a few points.
"""

from __future__ import annotations

import numba
import numpy as np

from mach.decode.cpu.scan_table import MIN
from mach.decode.cpu.topk_list import insert, place_anywhere
from mach.kernels.excluded import is_excluded

TILE = 32_768  # labels whose totals are added up at a time; more would not fit into the core's own cache


@numba.njit(parallel=True, cache=True)
def scan_few(scores, rows, excluded, B, lookup, n_labels, prefixes, kind, tasks, best, best_labels):  # type: ignore[no-untyped-def]
    """Lists [P, Q, k] of the points whose scores start at rows [Q]; sums or minima; lookup [R · n_labels].

    Returns whether all scores are finite.
    """
    P, Q, k = best.shape
    finite = np.ones(tasks, dtype=np.bool_)
    some = np.full((tasks, P, Q, k), -np.inf, dtype=np.float32)
    labels = np.full((tasks, P, Q, k), -1, dtype=np.int32)
    for task in numba.prange(tasks):
        total = np.empty(TILE, dtype=np.float32)
        end = n_labels * (task + 1) // tasks
        for q in range(Q):
            if task == q % tasks:
                finite[task] &= np.isfinite(scores[rows[q] : rows[q] + prefixes[-1] * B]).all()
            for at in range(n_labels * task // tasks, end, TILE):
                width = min(TILE, end - at)
                done = 0
                for p in range(P):
                    for r in range(done, prefixes[p]):
                        row = scores[rows[q] + r * B : rows[q] + (r + 1) * B]
                        bucket = lookup[r * n_labels + at : r * n_labels + at + width]
                        if r == 0:
                            for t in range(width):
                                total[t] = row[bucket[t]]
                        elif kind == MIN:
                            for t in range(width):
                                total[t] = min(total[t], row[bucket[t]])
                        else:
                            for t in range(width):
                                total[t] += row[bucket[t]]
                    done = prefixes[p]
                    last = some[task, p, q, k - 1]
                    for t in range(width):
                        if total[t] > last and not is_excluded(excluded, q, at + t):
                            last = insert(some[task, p, q], labels[task, p, q], total[t], at + t)
    for p in range(P):
        for q in range(Q):
            for task in range(tasks):
                for i in range(k):
                    if labels[task, p, q, i] >= 0:
                        place_anywhere(best[p, q], best_labels[p, q], some[task, p, q, i], labels[task, p, q, i])
    return finite.all()
