"""Top-k predictions of test points, in batches, so that nothing of size points × labels exists."""

from __future__ import annotations

from collections.abc import Callable
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


def predict(
    topk: Callable[[sp.csr_matrix], list[Ranking]], X: sp.csr_matrix, prefixes: list[int | None], batch: int
) -> list[Prediction]:
    """Rankings of every row of X: ``topk(rows)`` gives one (scores, labels) for each prefix."""
    if not prefixes:
        return []
    parts = [topk(X[low : low + batch]) for low in range(0, X.shape[0], batch)]
    return [
        Prediction(R, np.concatenate([part[p][0] for part in parts]), np.concatenate([part[p][1] for part in parts]))
        for p, R in enumerate(prefixes)
    ]
