"""Decoding beside plain references, for `machbench speed decode` and `machbench speed decode_scale`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

import numba
import numpy as np
import numpy.typing as npt
import torch

from mach.decode.decoder import Decoder
from mach.hashing.families import hash_labels
from mach.speed.trained_scores import trained_scores

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.integer]
Variants = dict[str, Callable[[], tuple[Floats, Ints]]]

N_POINTS, K_LABELS, R, K = 256, 670_091, 32, 5


def decode() -> Iterator[tuple[str, Variants]]:
    """Decoders of the top-5 labels of 256 points at Amazon-670K size, R = 32; the reference first.

    flat: scores from one distribution for all buckets, the worst case for pruning. peaked: a noisy background and 5
    labels with high scores in their buckets. trained: logits of a model that was trained on synthetic points
    (`mach.speed.trained_scores`).
    """
    for B in (2000, 20_000):
        rng = np.random.default_rng(0)
        lookup: Ints = hash_labels(K_LABELS, B, R)
        yield f"B={B} flat", variants(rng.normal(size=(N_POINTS, R, B)).astype(np.float32), lookup)
        yield f"B={B} peaked", variants(peaked(lookup, B, N_POINTS), lookup)
    scores, lookup, hits = trained_scores(K_LABELS, 20_000, R, n_test=N_POINTS)
    yield f"B=20000 trained (P@1 {hits:.2f})", variants(scores, lookup)


def peaked(lookup: Ints, B: int, n_points: int, raised: int = 5) -> Floats:
    """Synthetic logits [n_points, R, B]: a background of −7 ± 1.5, and labels of +3 ± 2 in all their buckets."""
    rng = np.random.default_rng(1)
    scores = rng.normal(-7.0, 1.5, size=(n_points, len(lookup), B)).astype(np.float32)
    for n in range(n_points):
        for label in rng.integers(0, lookup.shape[1], size=raised):
            scores[n, np.arange(len(lookup)), lookup[:, label]] = rng.normal(3.0, 2.0, size=len(lookup))
    return scores


def variants(scores: Floats, lookup: Ints) -> Variants:
    """The official algorithm, the best torch form, and the methods of `mach.decode.decoder`, for which the index of
    labels by bucket and the lookup by label are prepared before."""
    n_points, _, B = scores.shape
    decoder = Decoder(lookup, B)
    decoder.prepare()
    wide = (lookup.astype(np.int64) + np.arange(len(lookup))[:, None] * B).T.copy()
    rows = torch.from_numpy(wide)

    def embedding_bag() -> tuple[Floats, Ints]:
        parts = []
        for low in range(0, n_points, 64):  # wider rows make it slower
            flat = np.ascontiguousarray(scores[low : low + 64].transpose(1, 2, 0)).reshape(len(lookup) * B, -1)
            parts.append(_embedding_bag(torch.from_numpy(flat), rows))
        return np.concatenate([s for s, _ in parts]), np.concatenate([labels for _, labels in parts])

    methods = {name: partial(decoder.top_k, scores, K, method=name) for name in ("dense", "pruned", "auto")}
    reference = {"official algorithm, plain numba": _fastest_official(scores, lookup)}
    return {**reference, "torch embedding_bag": embedding_bag, **methods}


def _fastest_official(scores: Floats, lookup: Ints) -> Callable[[], tuple[Floats, Ints]]:
    """The reference with the integer type that is faster on this machine: that of the table, or int64."""
    seconds = {}
    for dtype in (lookup.dtype, np.dtype(np.int64)):
        table = lookup.astype(dtype)
        _official(scores[:2], table, K)
        started = time.perf_counter()
        _official(scores, table, K)
        seconds[time.perf_counter() - started] = table
    return partial(_official, scores, seconds[min(seconds)], K)


def _embedding_bag(flat: torch.Tensor, rows: torch.Tensor, chunk: int = 65_536) -> tuple[Floats, Ints]:
    """A label's score as a bag of its buckets' rows, with all points in a row; running top-k over chunks of labels."""
    best = torch.full((K, flat.shape[1]), -torch.inf)
    ids = torch.full((K, flat.shape[1]), -1)
    for low in range(0, len(rows), chunk):
        total = torch.nn.functional.embedding_bag(rows[low : low + chunk], flat, mode="sum")
        top, at = total.topk(K, dim=0)
        best, where = torch.cat([best, top]).topk(K, dim=0)
        ids = torch.cat([ids, at + low]).gather(0, where)
    return best.T.numpy(), ids.T.numpy().astype(np.int32)


@numba.njit(parallel=True, cache=True)
def _official(scores, lookup, k):  # type: ignore[no-untyped-def]
    """The official C++ step by step: a score for every label of a point, then a running top k."""
    n_points, repetitions = scores.shape[:2]
    n_labels = lookup.shape[1]
    found = np.full((n_points, k), -np.inf, dtype=np.float32)
    labels = np.full((n_points, k), -1, dtype=np.int32)
    for n in numba.prange(n_points):
        total = np.zeros(n_labels, dtype=np.float32)
        for r in range(repetitions):
            for label in range(n_labels):
                total[label] += scores[n, r, lookup[r, label]]
        best = found[n]
        for label in range(n_labels):
            if total[label] > best[k - 1]:
                at = k - 1
                while at > 0 and best[at - 1] < total[label]:
                    best[at] = best[at - 1]
                    labels[n, at] = labels[n, at - 1]
                    at -= 1
                best[at] = total[label]
                labels[n, at] = label
    return found, labels
