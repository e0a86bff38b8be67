"""The decoders as the papers describe them: a score for every label, then a stable sort. For tests."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mach.kernels.excluded import Excluded

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.integer]


def top_k_reference(
    bucket_scores: Floats, lookup: Ints, k: int, prefixes: list[int], combine: str, excluded: Excluded | None = None
) -> tuple[Floats, npt.NDArray[np.int32]]:
    """(scores, labels) [P, N, k] of ``combine`` (sum, min or median) over the first R' repetitions, R' in prefixes.

    Sums are float32 in the order of the repetitions. Ties by lowest label id; label −1 at −inf with fewer labels.
    ``excluded``: labels that each point may not get; their scores are −inf.
    """
    N, n_labels = len(bucket_scores), lookup.shape[1]
    excluded = excluded or Excluded.of(None, N, n_labels)
    scores = np.full((len(prefixes), N, k), -np.inf, dtype=np.float32)
    labels = np.full((len(prefixes), N, k), -1, dtype=np.int32)
    for n in range(N):
        forbidden = np.unique(excluded.labels[excluded.starts[n] : excluded.stops[n]])
        kept = min(k, n_labels - len(forbidden))
        of_label = np.stack([bucket_scores[n, r, lookup[r]] for r in range(prefixes[-1])])
        sums = np.cumsum(of_label, axis=0, dtype=np.float32)  # in order, so float32 for float32 a running total
        for p, R in enumerate(prefixes):
            if combine == "sum":
                total = sums[R - 1]
            else:
                total = of_label[:R].min(0) if combine == "min" else np.median(of_label[:R], axis=0)
            total[forbidden] = -np.inf
            best = np.argsort(-total, kind="stable")[:kept]
            scores[p, n, :kept], labels[p, n, :kept] = total[best], best
    return scores, labels


def top_buckets_reference(
    bucket_scores: Floats, lookup: Ints, k: int, buckets: int, least: int, excluded: Excluded | None = None
) -> tuple[Floats, npt.NDArray[np.int32]]:
    """(scores, labels) [N, k] of the official ``approx_eval``: see
    `mach.decode.cpu.inverted_index.LabelIndex.top_buckets`."""
    N, n_labels = len(bucket_scores), lookup.shape[1]
    excluded = excluded or Excluded.of(None, N, n_labels)
    scores = np.full((N, k), -np.inf, dtype=np.float32)
    labels = np.full((N, k), -1, dtype=np.int32)
    for n in range(N):
        total, seen = np.zeros(n_labels, dtype=np.float32), np.zeros(n_labels, dtype=int)
        for row, of_label in zip(bucket_scores[n], lookup, strict=True):
            chosen = np.zeros(len(row), dtype=bool)
            chosen[np.argsort(-row, kind="stable")[:buckets]] = True
            hit = chosen[of_label]
            total[hit] += row[of_label[hit]]
            seen += hit
        seen[excluded.labels[excluded.starts[n] : excluded.stops[n]]] = 0
        (candidates,) = np.nonzero(seen >= least)
        best = candidates[np.argsort(-total[candidates], kind="stable")[:k]]
        scores[n, : len(best)], labels[n, : len(best)] = total[best], best
    return scores, labels
