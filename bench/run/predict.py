"""Top-k predictions of points, in batches, so that nothing of size points × labels exists."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import scipy.sparse as sp

from bench.interface import Ranking
from bench.results.predictions import RankedLabels, without


def predict(
    topk: Callable[[sp.csr_matrix, int], list[Ranking]],
    X: sp.csr_matrix,
    prefixes: list[int | None],
    k: int,
    batch: int,
    left_out: sp.csr_matrix | None = None,
    decoders: Sequence[str | None] = (None,),
) -> list[RankedLabels]:
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
        RankedLabels(
            R, np.concatenate([part[p][0] for part in parts]), np.concatenate([part[p][1] for part in parts]), decoder
        )
        for p, (decoder, R) in enumerate(itertools.product(decoders, prefixes))
    ]
