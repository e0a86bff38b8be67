"""The lowest baseline: every point gets the labels most frequent in train. A learned method below it is broken."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp


class LabelFrequency:
    """Rank labels by their number of train points; ties by lowest label id."""

    def fit(self, X: sp.csr_matrix, Y: sp.csr_matrix) -> None:
        """Y CSR [N, n_labels]; X is not used."""
        del X
        self._counts = np.bincount(Y.indices, minlength=Y.shape[1])

    def topk(self, X: sp.csr_matrix, k: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        """(scores [N, k], labels [N, k]), the same row for every point; −inf and −1 beyond the number of labels."""
        best = np.argsort(-self._counts, kind="stable")[:k]
        scores, labels = np.full(k, -np.inf, dtype=np.float32), np.full(k, -1, dtype=np.int32)
        scores[: len(best)], labels[: len(best)] = self._counts[best], best
        return np.tile(scores, (X.shape[0], 1)), np.tile(labels, (X.shape[0], 1))
