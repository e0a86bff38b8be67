"""Bounds of label scores for a group of points: the compiled loops of the scan that only add.

Arguments are those of `mach.decode.cpu.scan_kernels`; what belongs together is in `mach.decode.cpu.scan_arguments`.
"""

from __future__ import annotations

import numba
import numpy as np

from mach.decode.cpu.scan_table import MEDIAN, MIN, SUM
from mach.decode.cpu.simd.lanes import (
    AT_ONCE,
    add_four,
    add_four_far,
    add_four_halves,
    add_line,
    add_line_halves,
    add_one,
    add_one_far,
    add_one_halves,
    find_four,
    find_four_far,
    find_four_halves,
    find_two,
    find_two_far,
    find_two_halves,
    least_of_four,
    least_of_four_far,
    least_of_one,
    least_of_one_far,
    prefetch,
    reaching,
)
from mach.decode.cpu.simd.quantise import COARSE, FINE
from mach.decode.cpu.simd.vectors import LINE

SOON = 8  # labels between the prefetch of what an exact score needs and its sum
TRIED, STRAY = 64, 4  # see `choose_cut`
NEAR_BYTES = 2**21  # four repetitions' lines up to this size fit beside the totals in a core's own cache


@numba.njit(cache=True)
def is_far(B):  # type: ignore[no-untyped-def]
    """Whether the lines of four repetitions are more than a core's own cache holds."""
    return AT_ONCE * B * LINE > NEAR_BYTES


@numba.njit(cache=True)
def add(total, lookup, n_labels, at, width, table, B, drain, done, until, kind):  # type: ignore[no-untyped-def]
    """Bring totals [sides, tile · 64] of labels at..at + width from their first ``done`` repetitions to ``until``."""
    far = is_far(B)
    first, upper = total[0], total[-1]
    while done < until:
        if until - done >= AT_ONCE:
            if len(total) == 2:
                add_four_halves(first, upper, table, lookup, at, width, n_labels, done, B)
            elif kind == MIN and far:
                least_of_four_far(first, table, lookup, at, width, n_labels, done, B)
            elif kind == MIN:
                least_of_four(first, table, lookup, at, width, n_labels, done, B)
            elif far:
                add_four_far(first, table, lookup, at, width, n_labels, done, B, drain, done * LINE)
            else:
                add_four(first, table, lookup, at, width, n_labels, done, B, drain, done * LINE)
            done += AT_ONCE
        else:
            if len(total) == 2:
                add_one_halves(first, upper, table, lookup, at, width, n_labels, done, B)
            elif kind == MIN and far:
                least_of_one_far(first, table, lookup, at, width, n_labels, done, B)
            elif kind == MIN:
                least_of_one(first, table, lookup, at, width, n_labels, done, B)
            elif far:
                add_one_far(first, table, lookup, at, width, n_labels, done, B)
            else:
                add_one(first, table, lookup, at, width, n_labels, done, B)
            done += 1


@numba.njit(cache=True)
def find(total, lookup, n_labels, at, width, table, B, drain, cut, need, present, found):  # type: ignore[no-untyped-def]
    """Totals of the first ``cut`` repetitions; found: the labels whose totals reach what is needed."""
    last = AT_ONCE if cut % AT_ONCE == 0 else AT_ONCE // 2
    done = cut - last
    add(total, lookup, n_labels, at, width, table, B, drain, 0, done, SUM)
    first, upper = total[0], total[-1]
    where = table, lookup, at, width, n_labels, done, B
    drained = drain, done * LINE
    if len(total) == 2 and last == AT_ONCE:
        return find_four_halves(first, upper, *where, need, present, found)
    if len(total) == 2:
        return find_two_halves(first, upper, *where, need, present, found)
    if is_far(B) and last == AT_ONCE:
        return find_four_far(first, *where, *drained, need, present, found)
    if is_far(B):
        return find_two_far(first, *where, *drained, need, present, found)
    if last == AT_ONCE:
        return find_four(first, *where, *drained, need, present, found)
    return find_two(first, *where, *drained, need, present, found)


@numba.njit(cache=True)
def finish_all(total, buckets, at, table, B, drain, cut, found):  # type: ignore[no-untyped-def]
    """Bring the totals of the labels at + found from ``cut`` repetitions to all."""
    order, bucket_of, step, stride = buckets.order, buckets.of_label, buckets.step, buckets.stride
    R, n = buckets.prefixes[-1], len(found)
    for i in range(n + 2 * SOON):
        # What the next labels need is prefetched meanwhile, as in `_score_down`.
        if i < n:
            prefetch(bucket_of, label_of(order, at + found[i]) * step + cut * stride)
        if SOON <= i < n + SOON:
            label = label_of(order, at + found[i - SOON])
            for r in range(cut, R):
                prefetch(table, (r * B + np.int64(bucket_of[label * step + r * stride])) * LINE)
        if i >= 2 * SOON:
            t = found[i - 2 * SOON]
            _finish(total, t, bucket_of, label_of(order, at + t) * step, stride, table, B, drain, cut, R)


@numba.njit(cache=True)
def _finish(total, t, bucket_of, label_at, stride, table, B, drain, done, until):  # type: ignore[no-untyped-def]
    """Bring one label's totals from ``done`` repetitions, at least four in this segment, to ``until``.

    The drain is 0 in repetitions that are not the last of four, so that it can be looked up for every one.
    """
    at = np.int64(t) * LINE
    for r in range(done, until):
        line = (r * B + np.int64(bucket_of[label_at + r * stride])) * LINE
        if len(total) == 2:
            add_line_halves(total[0], total[1], at, table, line)
        else:
            add_line(total[0], at, table, line, drain, (r - AT_ONCE + 1) * LINE)


@numba.njit(cache=True)
def needed(limit, drain, highest, cut, R):  # type: ignore[no-untyped-def]
    """The totals [Q] of the first ``cut`` repetitions from which the highest bytes of the others can reach the limit; 0
    where the others reach it alone."""
    Q = len(highest) // R
    halves = Q > LINE
    need = limit[:Q].copy()
    for r in range(R - 1, cut - 1, -1):
        for q in range(Q):
            if need[q] > 0:
                units = int(highest[r * Q + q])
                if halves:
                    units += (COARSE - 1) * max(units - FINE, 0)
                before = min(255, need[q] + (0 if halves else int(drain[(r - AT_ONCE + 1) * LINE + q])))
                need[q] = max(0, before - units)
    return need


@numba.njit(cache=True)
def choose_cut(buckets, count, lines, bar, totals, end):  # type: ignore[no-untyped-def]
    """After how many repetitions a scan for sums of one prefix should test which labels can still reach the bar [1, Q].

    Estimated from some of the labels 0..end. A repetition costs one line per label in the pass, and `STRAY` times as
    much for the labels that are left, which fetch their lines one by one. R: after all repetitions; 0: after all, in a
    pass of its own, as the pass adds four or two repetitions at once. totals [sides, tile · 64] is scratch memory.
    """
    lookup, n_labels, order, bucket_of = buckets.lookup, buckets.n_labels, buckets.order, buckets.of_label
    step, stride = buckets.step, buckets.stride
    table, B, low, per_unit, drain = lines.table, lines.B, lines.low, lines.per_unit, lines.drain
    R, Q = buckets.prefixes[0], bar.shape[1]
    if R <= AT_ONCE:  # there is nothing to cut, and fewer than four repetitions cannot be added at once
        return 0 if R % 2 else R
    limit = np.full(Q, 255, dtype=np.uint8)
    for q in range(count):
        limit[q] = limit_of(bar[0, q], lines.grounds[0, q], low[q], per_unit[q], R, SUM)
    cuts = np.arange(AT_ONCE, R, AT_ONCE)
    if R % AT_ONCE == 0:
        cuts = np.append(cuts, R - 2)
    need = np.empty(len(cuts) * Q, dtype=np.uint8)
    for c in range(len(cuts)):
        need[c * Q : (c + 1) * Q] = needed(limit, drain, lines.highest, cuts[c], R)
    left = np.zeros(len(cuts))
    for i in range(TRIED):
        at = end * i // TRIED
        label = label_of(order, at)
        add(totals, lookup, n_labels, at, 1, table, B, drain, 0, AT_ONCE, SUM)
        for c in range(len(cuts)):
            if c > 0:
                _finish(totals, 0, bucket_of, label * step, stride, table, B, drain, cuts[c - 1], cuts[c])
            hits = np.uint64(0)
            for side in range(len(totals)):
                present = lanes(count - side * LINE)
                hits |= reaching(totals[side], 0, need, c * Q + side * LINE) & present
            if hits == 0:
                break
            left[c] += 1.0 / TRIED
    best, least = R, float(R)
    for c in range(len(cuts)):
        cost = cuts[c] + (left[c] + 0.5 / TRIED) * (R - cuts[c]) * STRAY
        if cost < least:
            best, least = cuts[c], cost
    return 0 if best == R and R % 2 else best


@numba.njit(cache=True)
def lanes(count):  # type: ignore[no-untyped-def]
    """The first ``count`` of 64 points as bits."""
    every = np.uint64(0xFFFFFFFFFFFFFFFF)
    if count <= 0:
        return np.uint64(0)
    return every if count >= LINE else (np.uint64(1) << np.uint64(count)) - np.uint64(1)


@numba.njit(cache=True)
def limit_of(bar, ground, low, per_unit, R, kind):  # type: ignore[no-untyped-def]
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
def label_of(order, column):  # type: ignore[no-untyped-def]
    """The label in a column of the lookup."""
    return np.int64(order[column]) if len(order) else np.int64(column)
