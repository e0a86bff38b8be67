"""The lowest baseline: every point gets the labels most frequent in train. A learned method below it is broken."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp


class LabelFrequency:
    """Rank labels by their number of train points; ties by lowest label id."""

    takes_excluded = True

    def fit(self, X: sp.csr_matrix, Y: sp.csr_matrix) -> None:
        """Y CSR [N, n_labels]; X is not used."""
        del X
        self._counts = np.bincount(Y.indices, minlength=Y.shape[1])

    def topk(
        self, X: sp.csr_matrix, k: int, excluded: sp.csr_matrix | None = None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        """(scores [N, k], labels [N, k]), the same labels for every point; −inf and −1 beyond the number of labels.

        excluded: CSR [N, n_labels], pairs of a point and a label that may not be ranked; None for none.
        """
        order = np.argsort(-self._counts, kind="stable")
        scores = np.full((X.shape[0], k), -np.inf, dtype=np.float32)
        labels = np.full((X.shape[0], k), -1, dtype=np.int32)
        scores[:, : len(order)], labels[:, : len(order)] = self._counts[order[:k]], order[:k]
        if excluded is None:
            return scores, labels
        place = np.empty_like(order)  # of a label in the order
        place[order] = np.arange(len(order))
        for n in np.flatnonzero(np.diff(excluded.indptr)):
            forbidden = place[excluded.indices[excluded.indptr[n] : excluded.indptr[n + 1]]]
            best = order[np.setdiff1d(np.arange(min(k + len(forbidden), len(order))), forbidden)[:k]]
            scores[n], labels[n] = -np.inf, -1
            scores[n, : len(best)], labels[n, : len(best)] = self._counts[best], best
        return scores, labels
