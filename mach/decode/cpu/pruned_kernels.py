"""The compiled loops of the pruned search: best buckets, a score to beat, the labels that may reach it, the proof."""

from __future__ import annotations

import math

import numba
import numpy as np

from mach.decode.cpu.simd.lanes import first_bit, prefetch
from mach.decode.cpu.simd.quantise import NOT_FINITE, survey
from mach.decode.cpu.simd.vectors import BLOCK
from mach.decode.cpu.topk_list import place_anywhere
from mach.kernels.excluded import is_excluded

LISTED = 128  # buckets per repetition that may be opened, about; the rest are bounded by the best of them
ROOM = 8 * LISTED  # a point with more than this above the bound, in one repetition, is scanned
LOOKED_AT = 1024  # buckets per repetition from whose scores that bound is estimated
SEED_BUCKETS = 2  # best buckets per repetition, which give the first labels and so θ
SEED_SHARE = 32  # one more for each label that may not be ranked, while they hold less than 1/32 of all labels
MARGIN_UNITS = 200  # the margin in a byte's units
CANDIDATES = 1 << 14  # more labels than this are cheaper to scan
MANY = 32  # where one label in so many was passed, clearing all is cheaper than clearing those
SOON = 4  # buckets between the prefetch for one and its opening
WORTH_OF_ONE = 60  # scoring a label costs as much as passing this many labels of opened buckets


@numba.njit(parallel=True, cache=True)
def search(  # type: ignore[no-untyped-def]
    scores, excluded, by_label, by_bucket, starts, R, points, tallies, found_scores, found_labels, outcome
):
    """outcome int8 [points]: 1 found and proven, 0 not found, −1 a score is not finite."""
    B, n_labels, k = scores.shape[2], len(by_label), found_scores.shape[1]
    flat = scores.reshape(-1)
    tasks = len(tallies)
    for task in numba.prange(tasks):
        tally = tallies[task]  # all 0 between points
        candidates = np.empty(CANDIDATES, dtype=np.int32)
        bucket = np.empty((R, ROOM), dtype=np.int32)
        value = np.empty((R, ROOM), dtype=np.float32)
        masks = np.empty(B // BLOCK, dtype=np.uint16)
        listed = np.empty(R, dtype=np.int64)
        cut = np.empty(R, dtype=np.float64)
        best = np.empty(R, dtype=np.float64)
        for i in range(task, len(points), tasks):
            n = points[i]
            first = n * scores.shape[1] * B
            largest = np.float32(0.0)
            fits = True
            for r in range(R):
                cut[r] = _cut(scores[n, r])
                listed[r], best[r], magnitude = _list_above(flat, first + r * B, B, cut[r], masks, bucket[r], value[r])
                largest = max(largest, magnitude)
                fits &= listed[r] <= ROOM
            if largest == np.inf:
                outcome[i] = -1
                continue
            if not fits:
                continue
            lists = bucket, value, listed, tally, candidates
            theta = _seed(scores[n], excluded, n, by_label, by_bucket, starts, *lists, k)
            margin = _raise_cuts(cut, best, value, listed, theta, n_labels, B)
            # The float32 sum of R scores is off by less than this; a hundredth of the margin must exceed it.
            if not margin > 200.0 * R * R * 2.0**-24 * largest:
                continue
            count = _collect(by_bucket, starts, bucket, value, listed, cut, margin, tally, candidates)
            if count > CANDIDATES:
                continue
            for c in range(count):
                label = candidates[c]
                if not is_excluded(excluded, n, label):
                    place_anywhere(found_scores[n], found_labels[n], _score(scores[n], by_label, label, R), label)
            outcome[i] = 1


@numba.njit(cache=True)
def _cut(row):  # type: ignore[no-untyped-def]
    """A score that about `LISTED` buckets of a row exceed, from the first of them: hashing has shuffled the labels."""
    looked_at = min(len(row), LOOKED_AT)
    rank = max(1, min(looked_at, LISTED * looked_at // len(row)))
    highest = np.full(rank, -np.inf, dtype=np.float32)
    for score in row[:looked_at]:
        if score > highest[rank - 1]:
            at = rank - 1
            while at > 0 and highest[at - 1] < score:
                highest[at] = highest[at - 1]
                at -= 1
            highest[at] = score
    return highest[rank - 1]


@numba.njit(cache=True)
def _list_above(flat, first, B, cut, masks, bucket, value):  # type: ignore[no-untyped-def]
    """The buckets of a row above the cut; (how many, the best score, the largest magnitude or inf if not finite).

    No more than fit are listed.
    """
    blocks = B // BLOCK
    bits = survey(flat, first, blocks, np.float32(cut), masks)
    finite = bits < NOT_FINITE
    largest = np.array([bits], dtype=np.uint32).view(np.float32)[0]
    count, best = 0, cut
    for block in range(blocks):
        hits = np.uint64(masks[block])
        while hits != 0:
            b = block * BLOCK + first_bit(hits)
            hits &= hits - np.uint64(1)
            if count < len(bucket):
                bucket[count], value[count] = b, flat[first + b]
                best = max(best, value[count])
            count += 1
    for b in range(blocks * BLOCK, B):
        score = flat[first + b]
        finite &= np.isfinite(score)
        largest = max(largest, abs(score))
        if score > cut:
            if count < len(bucket):
                bucket[count], value[count] = b, score
                best = max(best, score)
            count += 1
    return count, best, largest if finite else np.float32(np.inf)


@numba.njit(cache=True)
def _seed(  # type: ignore[no-untyped-def]
    scores, excluded, n, by_label, by_bucket, starts, bucket, value, listed, tally, candidates, k
):
    """The k-th best exact score among the labels that most of the best buckets hold; −inf when there are too few."""
    R = len(listed)
    # The best buckets may be those of labels that may not be ranked.
    wanted = SEED_BUCKETS + excluded.stops[n] - excluded.starts[n]
    seeds = max(SEED_BUCKETS, min(wanted, scores.shape[1] // (SEED_SHARE * R)))
    chosen = np.full((R, seeds), -1, dtype=np.int64)  # best first
    for r in range(R):
        for c in range(listed[r]):
            at = seeds
            while at > 0 and (chosen[r, at - 1] < 0 or value[r, chosen[r, at - 1]] < value[r, c]):
                if at < seeds:
                    chosen[r, at] = chosen[r, at - 1]
                at -= 1
            if at < seeds:
                chosen[r, at] = c
    count = 0
    for r in range(R):
        for c in chosen[r]:
            if c < 0:
                continue
            b = bucket[r, c]
            for label in by_bucket[r, starts[r, b] : starts[r, b + 1]]:
                tally[label] += np.uint8(1) if tally[label] < 255 else np.uint8(0)
                if tally[label] == 2 and count < len(candidates) and not is_excluded(excluded, n, label):
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
    scored = 0
    for c in range(count):
        if tally[candidates[c]] >= max(least, 2) and scored < 16 * k:
            scored += 1
            score = _score(scores, by_label, candidates[c], R)
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
    """Raise the cuts (in place) to where the search is expected to be cheapest.

    Returns the margin, or −1 where every search is expected to find too many labels.
    """
    R = len(cut)
    room = theta - cut.sum()
    if not room > 0.0 or not np.isfinite(room):
        return -1.0
    cheapest, chosen, expected = np.inf, 0.0, np.inf
    for share in (0.0, 0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9):
        rise = share * room / R
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
            cheapest, chosen, expected = cost, rise, by_chance
    if expected > CANDIDATES:
        return -1.0
    total = 0.0
    for r in range(R):
        cut[r] = min(cut[r] + chosen, best[r])
        total += cut[r]
    return theta - total


@numba.njit(cache=True)
def _collect(by_bucket, starts, bucket, value, listed, cut, margin, tally, candidates):  # type: ignore[no-untyped-def]
    """Candidates become the labels whose opened buckets reach the margin; returns how many, even if not all fit."""
    R, n_labels = len(listed), by_bucket.shape[1]
    scale = MARGIN_UNITS / margin
    enough = MARGIN_UNITS - 1
    count = passed = 0
    for r in range(R):
        for c in range(listed[r]):
            # The start of the labels of the next buckets is prefetched meanwhile, and then the labels.
            if c + 2 * SOON < listed[r]:
                prefetch(starts, r * starts.shape[1] + bucket[r, c + 2 * SOON])
            if c + SOON < listed[r] and value[r, c + SOON] > cut[r]:
                prefetch(by_bucket, r * n_labels + np.int64(starts[r, bucket[r, c + SOON]]))
            if value[r, c] > cut[r]:
                units = int(min((value[r, c] - cut[r]) * scale, 254.0)) + 1
                b = bucket[r, c]
                passed += starts[r, b + 1] - starts[r, b]
                for label in by_bucket[r, starts[r, b] : starts[r, b + 1]]:
                    before = np.int64(tally[label])
                    after = before + units if before + units < 255 else 255
                    tally[label] = after
                    if before < enough <= after:
                        if count < len(candidates):
                            candidates[count] = label
                        count += 1
    if passed > n_labels // MANY:
        tally[:] = 0
        return count
    for r in range(R):
        for c in range(listed[r]):
            if value[r, c] > cut[r]:
                b = bucket[r, c]
                for label in by_bucket[r, starts[r, b] : starts[r, b + 1]]:
                    tally[label] = 0
    return count


@numba.njit(cache=True)
def _score(scores, by_label, label, R):  # type: ignore[no-untyped-def]
    """A label's exact sum over the first R repetitions, in order."""
    total = scores[0, by_label[label, 0]]
    for r in range(1, R):
        total += scores[r, by_label[label, r]]
    return total
