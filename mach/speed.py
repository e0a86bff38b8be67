"""Decoding beside plain references, for `machbench speed decode`."""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np
import numpy.typing as npt
import torch

from mach.decode import top_k
from mach.hashing import hash_labels

N_POINTS, K_LABELS, R, B, K = 64, 670_091, 32, 2000, 5


def decode() -> dict[str, Callable[[], tuple[npt.NDArray[np.int32]]]]:
    """Ways to the top-5 labels of 64 points at Amazon-670K size, R = 32, B = 2,000; the reference first.

    Scores are simulated: a noisy background with a few raised buckets a point and repetition.
    """
    rng = np.random.default_rng(0)
    scores = rng.normal(-6.0, 1.0, size=(N_POINTS, R, B)).astype(np.float32)
    lookup = hash_labels(K_LABELS, B, R)
    for n in range(N_POINTS):
        for label in rng.integers(0, K_LABELS, size=5):
            scores[n, np.arange(R), lookup[:, label]] += rng.normal(6.0, 2.0, size=R).astype(np.float32)
    wide = lookup.astype(np.int64)
    flat = torch.from_numpy(np.ascontiguousarray(scores.transpose(1, 2, 0)).reshape(R * B, N_POINTS))
    rows = torch.from_numpy((wide + np.arange(R)[:, None] * B).T.copy())
    return {
        "official algorithm, plain numba": lambda: (_official(scores, wide, K),),
        "torch embedding_bag": lambda: (_embedding_bag(flat, rows),),
        "scan": lambda: (top_k(scores, lookup, K)[1],),
    }


def _embedding_bag(flat: torch.Tensor, rows: torch.Tensor, chunk: int = 65_536) -> npt.NDArray[np.int32]:
    """A label's score as a bag of its buckets' rows, all points side by side; running top-k over chunks of labels."""
    best = torch.full((K, flat.shape[1]), -torch.inf)
    ids = torch.full((K, flat.shape[1]), -1)
    for low in range(0, len(rows), chunk):
        total = torch.nn.functional.embedding_bag(rows[low : low + chunk], flat, mode="sum")
        top, at = total.topk(K, dim=0)
        best, where = torch.cat([best, top]).topk(K, dim=0)
        ids = torch.cat([ids, at + low]).gather(0, where)
    return ids.T.numpy().astype(np.int32)


@numba.njit(parallel=True, cache=True)
def _official(scores, lookup, k):  # type: ignore[no-untyped-def]
    """The official C++ step by step: a score for every label of a point, then a running top k."""
    n_points, repetitions = scores.shape[:2]
    n_labels = lookup.shape[1]
    labels = np.full((n_points, k), -1, dtype=np.int32)
    for n in numba.prange(n_points):
        total = np.zeros(n_labels, dtype=np.float32)
        for r in range(repetitions):
            for label in range(n_labels):
                total[label] += scores[n, r, lookup[r, label]]
        best = np.full(k, -np.inf, dtype=np.float32)
        for label in range(n_labels):
            if total[label] > best[k - 1]:
                at = k - 1
                while at > 0 and best[at - 1] < total[label]:
                    best[at] = best[at - 1]
                    labels[n, at] = labels[n, at - 1]
                    at -= 1
                best[at] = total[label]
                labels[n, at] = label
    return labels
