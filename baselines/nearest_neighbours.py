"""Nearest neighbours: a point gets the labels of the train points most like it. Nothing is learned."""

from __future__ import annotations

from typing import Annotated

import numba
import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from mach.kernels.sizes import FLOAT_BYTES

BLOCK_BYTES = 64 * 2**20  # of similarities that exist at a time, in all threads


class NearestNeighbours:
    """Exact k nearest neighbours by the cosine of sparse features (Cover and Hart 1967; weighted by Dudani 1976).

    A label's score is the sum of similarity^power over the neighbours that have it, not normalised, because that would
    change no ranking within a point. Neighbours are the ``neighbours`` train points of largest positive cosine, fewer
    where fewer share a feature; of equals those that come first in train, and of labels with equal scores those of
    lowest id. A point without features that occur in train gets no label: −1 at −inf.

    Features are only scaled to length 1 per point; the datasets built here are tf-idf already.
    ValueError for fewer than one neighbour and a power that is not positive.
    """

    takes_excluded = True

    def __init__(self, neighbours: Annotated[int, ">= 1"] = 20, power: Annotated[float, "> 0"] = 1.0) -> None:
        if neighbours < 1:
            raise ValueError(f"neighbours must be at least 1, got {neighbours}")
        if not power > 0:
            raise ValueError(f"power must be positive, got {power}")
        self.neighbours, self.power = neighbours, power

    def fit(self, X: sp.csr_matrix, Y: sp.csr_matrix) -> None:
        """X CSR [N, n_features], Y CSR [N, n_labels]: keep the labels, and the points of each feature."""
        self._by_feature = unit_rows(X).tocsc()
        self._labels = Y.tocsr()

    def nearest(self, X: sp.csr_matrix) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        """(cosines, train points), both [N, neighbours], best first; −inf and −1 where there is none."""
        points, postings = unit_rows(X), self._by_feature
        n_train = postings.shape[0]
        # Each worker has the similarities of one point with all points of train; together they are a block.
        workers = max(1, min(numba.get_num_threads(), BLOCK_BYTES // (FLOAT_BYTES * max(n_train, 1)), X.shape[0]))
        cosines = np.full((X.shape[0], self.neighbours), -np.inf, dtype=np.float32)
        found = np.full((X.shape[0], self.neighbours), -1, dtype=np.int32)
        _nearest(
            points.indptr, points.indices, points.data, postings.indptr, postings.indices, postings.data,
            np.zeros((workers, n_train), dtype=np.float32), cosines, found,
        )  # fmt: skip
        return cosines, found

    def topk(
        self, X: sp.csr_matrix, k: int, excluded: sp.csr_matrix | None = None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        """(scores [N, k], labels [N, k]), best first; −inf and −1 where the neighbours have no more labels.

        excluded: CSR [N, n_labels], pairs of a point and a label that may not be ranked; None for none.
        """
        cosines, found = self.nearest(X)
        known = found >= 0
        weights = np.where(known, cosines, 0.0).astype(np.float64) ** self.power
        indptr = np.concatenate([[0], np.cumsum(known.sum(1))])
        votes = sp.csr_matrix((weights[known], found[known], indptr), shape=(X.shape[0], self._labels.shape[0]))
        scores = np.full((X.shape[0], k), -np.inf, dtype=np.float32)
        labels = np.full((X.shape[0], k), -1, dtype=np.int32)
        total = (votes @ self._labels.astype(np.float64)).tocsr()
        for point in range(X.shape[0]):
            here = slice(total.indptr[point], total.indptr[point + 1])
            values, ids = total.data[here].astype(np.float32), total.indices[here]
            if excluded is not None:
                forbidden = excluded.indices[excluded.indptr[point] : excluded.indptr[point + 1]]
                may = ~np.isin(ids, forbidden)
                values, ids = values[may], ids[may]
            best = np.lexsort((ids, -values))[:k]
            scores[point, : len(best)], labels[point, : len(best)] = values[best], ids[best]
        return scores, labels


def unit_rows(X: sp.csr_matrix) -> sp.csr_matrix:
    """Rows scaled to length 1, float32; empty rows and rows of zeros stay."""
    X = X.tocsr().astype(np.float32)
    length = np.sqrt(np.asarray(X.multiply(X).sum(1), dtype=np.float64)).ravel()
    scale = np.divide(1.0, length, out=np.zeros_like(length), where=length > 0)
    data = X.data * np.repeat(scale, np.diff(X.indptr))
    return sp.csr_matrix((data.astype(np.float32), X.indices, X.indptr), shape=X.shape)


@numba.njit(parallel=True, cache=True)
def _nearest(indptr, indices, data, post_indptr, post_indices, post_data, totals, cosines, found):  # type: ignore[no-untyped-def]
    """For each point add up the products of its features, then keep the largest cosines; totals [workers, N] are 0."""
    n_points, k = cosines.shape
    workers = len(totals)
    for worker in numba.prange(workers):
        total = totals[worker]
        for n in range(worker, n_points, workers):
            for at in range(indptr[n], indptr[n + 1]):
                value, feature = data[at], indices[at]
                for post in range(post_indptr[feature], post_indptr[feature + 1]):
                    total[post_indices[post]] += value * post_data[post]
            least = np.float32(0.0)  # a neighbour's cosine is above it
            for other in range(len(total)):
                cosine = total[other]
                if cosine > least:
                    at = k - 1
                    while at > 0 and cosines[n, at - 1] < cosine:
                        cosines[n, at] = cosines[n, at - 1]
                        found[n, at] = found[n, at - 1]
                        at -= 1
                    cosines[n, at] = cosine
                    found[n, at] = other
                    least = max(cosines[n, k - 1], np.float32(0.0))
                total[other] = 0.0
