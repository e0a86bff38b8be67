"""Top-k predictions of test points, in batches, so that nothing of size points × labels exists."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

Ranking = tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]  # scores and labels [N, k], best first


@dataclass(frozen=True)
class Prediction:
    """Ranked labels of all points from the first R repetitions (None: the method has no repetitions)."""

    R: int | None
    scores: npt.NDArray[np.float32]  # [N, k], best first
    labels: npt.NDArray[np.int32]  # [N, k], −1 where there is none
    decoder: str | None = None  # by which of the method's ways of decoding, where it has several


def predict(
    topk: Callable[[sp.csr_matrix, int], list[Ranking]],
    X: sp.csr_matrix,
    prefixes: list[int | None],
    k: int,
    batch: int,
    left_out: sp.csr_matrix | None = None,
    decoders: Sequence[str | None] = (None,),
) -> list[Prediction]:
    """Rankings of every row of X: ``topk(rows, k)`` gives (scores, labels) for each prefix of each decoder in turn.

    ``left_out`` [N, n_labels]: pairs that may not be predicted (the field's filter files), such as a product for
    itself. They are dropped from a longer exact ranking, so k others remain.
    """
    if not prefixes:
        return []
    parts: list[list[Ranking]] = []
    for low in range(0, X.shape[0], batch):
        rows = slice(low, low + batch)
        if left_out is None:
            parts.append(topk(X[rows], k))
        else:
            pairs = left_out[rows]
            longer = topk(X[rows], k + int(np.diff(pairs.indptr).max(initial=0)))
            parts.append([without(ranking, pairs, k) for ranking in longer])
    return [
        Prediction(R, np.concatenate([part[p][0] for part in parts]), np.concatenate([part[p][1] for part in parts]), decoder)
        for p, (decoder, R) in enumerate(itertools.product(decoders, prefixes))
    ]


def without(ranking: Ranking, pairs: sp.csr_matrix, k: int) -> Ranking:
    """The best k of a ranking [N, more] after its forbidden pairs [N, n_labels] are taken out, order kept."""
    scores, labels = ranking
    kept_scores = np.full((len(labels), k), -np.inf, dtype=np.float32)
    kept_labels = np.full((len(labels), k), -1, dtype=np.int32)
    for n in range(len(labels)):
        forbidden = pairs.indices[pairs.indptr[n] : pairs.indptr[n + 1]]
        keep = ~np.isin(labels[n], forbidden)
        best = np.flatnonzero(keep)[:k]
        kept_scores[n, : len(best)], kept_labels[n, : len(best)] = scores[n, best], labels[n, best]
    return kept_scores, kept_labels
