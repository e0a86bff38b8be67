"""The compiled loops of the scan: bounds of all labels for a group of points, and exact scores of the few that matter.

``buckets`` is a `LabelBuckets`, ``lines`` a `Lines` and ``kept`` a `Kept` of `mach.decode.cpu.scan_arguments`, which
also says what P, Q and sides are. kind: SUM, MIN or MEDIAN.
"""

from __future__ import annotations

import numba
import numpy as np

from mach.decode.cpu.scan_bounds import SOON, add, find, finish_all, label_of, lanes, limit_of, needed
from mach.decode.cpu.scan_table import MIN, SUM
from mach.decode.cpu.simd.lanes import first_bit, next_reaching, prefetch, reaching
from mach.decode.cpu.simd.vectors import LINE
from mach.decode.cpu.topk_list import insert, middle, place_anywhere
from mach.kernels.excluded import is_excluded


@numba.njit(parallel=True, cache=True)
def find_leaders(buckets, count, excluded, lines, totals, found_labels, end, kind):  # type: ignore[no-untyped-def]
    """The labels with the highest bounds in each task's share of the labels 0..end: found_labels [tasks, P, Q, n].

    totals [tasks, sides, tile · 64] is scratch memory.
    """
    lookup, n_labels, prefixes, order = buckets.lookup, buckets.n_labels, buckets.prefixes, buckets.order
    table, B, drain = lines.table, lines.B, lines.drain
    tasks, P, Q, kept = found_labels.shape
    sides, tile = totals.shape[1], totals.shape[2] // LINE
    for task in numba.prange(tasks):
        bounds = np.full((P, Q, kept), -1.0, dtype=np.float32)
        limit = np.zeros(P * Q, dtype=np.uint8)
        for at in range(end * task // tasks, end * (task + 1) // tasks, tile):
            width = min(tile, end * (task + 1) // tasks - at)
            done = 0
            for p in range(P):
                add(totals[task], lookup, n_labels, at, width, table, B, drain, done, prefixes[p], kind)
                done = prefixes[p]
                for side in range(sides):
                    total, first = totals[task, side], p * Q + side * LINE
                    present = lanes(count - side * LINE)
                    t = next_reaching(total, 0, width, limit, first)
                    while t < width:
                        hits = reaching(total, t * LINE, limit, first) & present
                        while hits != 0:
                            lane = first_bit(hits)
                            hits &= hits - np.uint64(1)
                            q = side * LINE + lane
                            label = label_of(order, at + t)
                            if is_excluded(excluded, q, label):
                                continue
                            bound = np.float32(total[t * LINE + lane])
                            lowest = insert(bounds[p, q], found_labels[task, p, q], bound, label)
                            limit[p * Q + q] = min(255, int(lowest) + 1)
                        t = next_reaching(total, t + 1, width, limit, first)


@numba.njit(parallel=True, cache=True)
def raise_bar(scores, rows, count, B, buckets, leaders, bar, k, kind):  # type: ignore[no-untyped-def]
    """bar [P, Q]: just below the k-th best exact score of the leaders [tasks, P, Q, n], where that is higher."""
    prefixes, bucket_of, step, stride = buckets.prefixes, buckets.of_label, buckets.step, buckets.stride
    tasks, P, n = leaders.shape[0], leaders.shape[1], leaders.shape[3]
    for q in numba.prange(count):
        column = np.empty(prefixes[-1], dtype=np.float32)
        for p in range(P):
            exact = np.full(tasks * n, -np.inf, dtype=np.float32)
            some = np.ascontiguousarray(leaders[:, p, q]).reshape(-1)
            for at in range(tasks * n + SOON):
                if at < tasks * n and some[at] >= 0:
                    _prefetch_scores(scores, rows[q], B, bucket_of, step, stride, some[at], prefixes[p])
                label = some[at - SOON] if at >= SOON else -1
                if label >= 0:
                    found = _exact(scores, rows[q], B, bucket_of, step, stride, label, prefixes[p], kind, column)
                    exact[at - SOON] = found
            below = np.nextafter(np.partition(exact, tasks * n - k)[tasks * n - k], np.float32(-np.inf))
            bar[p, q] = max(bar[p, q], below)


@numba.njit(parallel=True, cache=True)
def scan_labels(  # type: ignore[no-untyped-def]
    scores, rows, count, excluded, buckets, lines, kept, k, bar, kind, totals, end, cut
):
    """Every task keeps the labels of its share of 0..end whose bound reaches the bar [P, Q].

    totals [tasks, sides, tile · 64] is scratch memory. When a list is full, its labels are scored and only the best
    stay. With sums of one prefix, labels that cannot reach the bar any more after ``cut`` repetitions (`choose_cut`)
    are not looked at further.
    """
    lookup, n_labels, prefixes, order = buckets.lookup, buckets.n_labels, buckets.prefixes, buckets.order
    table, B, low, per_unit = lines.table, lines.B, lines.low, lines.per_unit
    grounds, drain, highest = lines.grounds, lines.drain, lines.highest
    labels, bounds, counts = kept
    tasks, P, Q = counts.shape
    sides, tile = totals.shape[1], totals.shape[2] // LINE
    R = prefixes[-1]
    for task in numba.prange(tasks):
        limit = np.full(P * Q, 255, dtype=np.uint8)
        for p in range(P):
            for q in range(count):
                limit[p * Q + q] = limit_of(bar[p, q], grounds[p, q], low[q], per_unit[q], prefixes[p], kind)
        found = np.empty(tile if cut else 0, dtype=np.int32)
        present = np.array([lanes(count - side * LINE) for side in range(sides)])
        for at in range(end * task // tasks, end * (task + 1) // tasks, tile):
            width = min(tile, end * (task + 1) // tasks - at)
            if cut:
                need = needed(limit, drain, highest, cut, R)
                n = find(totals[task], lookup, n_labels, at, width, table, B, drain, cut, need, present, found)
                finish_all(totals[task], buckets, at, table, B, drain, cut, found[:n])
                for i in range(n):
                    t = found[i]
                    for side in range(sides):
                        total, first = totals[task, side], side * LINE
                        hits = reaching(total, t * LINE, limit, first) & present[side]
                        if hits != 0:
                            here = slice(first, first + LINE)
                            mine = labels[task, 0, here], bounds[task, 0, here], counts[task, 0, here]
                            full = _keep(hits, total, t * LINE, label_of(order, at + t), *mine)
                            if full != 0:
                                _make_room(full, *mine, limit, scores, rows, excluded, buckets, lines, 0, side, k, kind)
                continue
            done = 0
            for p in range(P):
                add(totals[task], lookup, n_labels, at, width, table, B, drain, done, prefixes[p], kind)
                done = prefixes[p]
                for side in range(sides):
                    total, first = totals[task, side], p * Q + side * LINE
                    here = slice(side * LINE, (side + 1) * LINE)
                    mine = labels[task, p, here], bounds[task, p, here], counts[task, p, here]
                    t = next_reaching(total, 0, width, limit, first)
                    while t < width:
                        hits = reaching(total, t * LINE, limit, first) & present[side]
                        if hits != 0:
                            full = _keep(hits, total, t * LINE, label_of(order, at + t), *mine)
                            if full != 0:
                                _make_room(full, *mine, limit, scores, rows, excluded, buckets, lines, p, side, k, kind)
                        t = next_reaching(total, t + 1, width, limit, first)


@numba.njit(cache=True)
def _keep(hits, total, at, label, labels, bounds, counts):  # type: ignore[no-untyped-def]
    """Keep a label for the points in the bits of hits; labels and bounds [64, n]. Returns the points whose lists are
    now full, as bits."""
    room = labels.shape[1]
    full = np.uint64(0)
    while hits != 0:
        lane = first_bit(hits)
        hits &= hits - np.uint64(1)
        place = counts[lane]
        labels[lane, place] = label
        bounds[lane, place] = total[at + lane]
        counts[lane] = place + 1
        if place + 1 == room:
            full |= np.uint64(1) << np.uint64(lane)
    return full


@numba.njit(cache=True)
def _make_room(  # type: ignore[no-untyped-def]
    full, labels, bounds, counts, limit, scores, rows, excluded, buckets, lines, p, side, k, kind
):
    """Thin out the lists of the points in the bits of full, which raises their limit."""
    B, low, per_unit, grounds = lines.B, lines.low, lines.per_unit, lines.grounds
    R, Q = buckets.prefixes[p], len(low)
    while full != 0:
        lane = first_bit(full)
        full &= full - np.uint64(1)
        q = side * LINE + lane
        units = grounds[p, q], low[q], per_unit[q]
        point = scores, rows[q], excluded, q
        left, below = _thin_out(*point, B, buckets, R, (labels[lane], bounds[lane]), k, units, kind)
        counts[lane] = left
        limit[p * Q + q] = max(limit[p * Q + q], limit_of(below, *units, R, kind))


@numba.njit(cache=True)
def _thin_out(scores, row, excluded, q, B, buckets, R, kept, k, units, kind):  # type: ignore[no-untyped-def]
    """Keep only the best k of a full list of labels, with the highest bound, so that they are scored again at the end.

    Returns how many are left, and the score that labels have to beat from now on.
    """
    labels, bounds = kept
    ground, low, per_unit = units
    best = np.full(k, -np.inf, dtype=np.float32)
    best_labels = np.full(k, -1, dtype=np.int32)
    arguments = scores, row, excluded, q, B, buckets, R, labels, bounds, len(labels)
    _score_down(*arguments, best, best_labels, ground, low, per_unit, kind)
    count = 0
    for label in best_labels:
        if label >= 0:
            labels[count], bounds[count] = label, 255
            count += 1
    return count, np.nextafter(best[k - 1], np.float32(-np.inf))


@numba.njit(parallel=True, cache=True)
def score_the_rest(  # type: ignore[no-untyped-def]
    scores, rows, count, excluded, buckets, lines, kept, best, best_labels, kind
):
    """The best k [P, Q, k] among the labels that the tasks have kept."""
    B, low, per_unit, grounds = lines.B, lines.low, lines.per_unit, lines.grounds
    labels, bounds, counts = kept
    tasks, P = counts.shape[:2]
    for q in numba.prange(count):
        for p in range(P):
            some = np.empty(counts[:, p, q].sum(), dtype=np.int32)
            reach = np.empty(len(some), dtype=np.uint8)
            at = 0
            for task in range(tasks):
                n = counts[task, p, q]
                some[at : at + n] = labels[task, p, q, :n]
                reach[at : at + n] = bounds[task, p, q, :n]
                at += n
            point, lists = (scores, rows[q], excluded, q), (best[p, q], best_labels[p, q])
            arguments = B, buckets, buckets.prefixes[p], some, reach, at
            _score_down(*point, *arguments, *lists, grounds[p, q], low[q], per_unit[q], kind)


@numba.njit(cache=True)
def _score_down(  # type: ignore[no-untyped-def]
    scores, row, excluded, q, B, buckets, R, labels, bounds, count, best, best_labels, ground, low, per_unit, kind
):
    """Score labels exactly from the highest bound down, until the next bound cannot reach the k-th best.

    Labels that the point may not get are found here, since few labels get so far. q: the point's lane.
    """
    bucket_of, step, stride = buckets.of_label, buckets.step, buckets.stride
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
        # What the next labels need is prefetched meanwhile: first their buckets, then the scores of these buckets.
        if i >= SOON:
            _prefetch_scores(scores, row, B, bucket_of, step, stride, labels[order[i - SOON]], R)
        if i >= 2 * SOON:
            prefetch(bucket_of, labels[order[i - 2 * SOON]] * np.int64(step))
        label = labels[order[i]]
        if is_excluded(excluded, q, label):
            continue
        score = _exact(scores, row, B, bucket_of, step, stride, label, R, kind, column)
        if place_anywhere(best, best_labels, score, label) and best_labels[k - 1] >= 0:
            below = np.nextafter(best[k - 1], np.float32(-np.inf))  # an equal score may have a lower label id
            limit = limit_of(below, ground, low, per_unit, R, kind)


@numba.njit(cache=True)
def _prefetch_scores(scores, row, B, bucket_of, step, stride, label, R):  # type: ignore[no-untyped-def]
    """Prefetch what `_exact` will add up."""
    for r in range(R):
        prefetch(scores, row + r * B + np.int64(bucket_of[label * np.int64(step) + r * stride]))


@numba.njit(cache=True)
def _exact(scores, row, B, bucket_of, step, stride, label, R, kind, column):  # type: ignore[no-untyped-def]
    """A label's exact score of the point at ``row`` over the first R repetitions; column [R or more] is scratch.

    Its bucket in repetition r is bucket_of[label · step + r · stride].
    """
    at = label * np.int64(step)
    score = scores[row + np.int64(bucket_of[at])]
    if kind == SUM:
        for r in range(1, R):
            score += scores[row + r * B + np.int64(bucket_of[at + r * stride])]
    elif kind == MIN:
        for r in range(1, R):
            score = min(score, scores[row + r * B + np.int64(bucket_of[at + r * stride])])
    else:
        for r in range(R):
            column[r] = scores[row + r * B + np.int64(bucket_of[at + r * stride])]
        score = middle(column[:R].copy())
    return score
