"""Exact top-k over the columns of score tiles, kept as a running list: ties go to the lowest label id."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt


class RunningTopK:
    """Best k labels of N points, fed with tiles of scores in increasing label order."""

    def __init__(self, n_points: int, k: int) -> None:
        self.scores = np.full((n_points, k), -np.inf, dtype=np.float32)
        self.labels = np.full((n_points, k), -1, dtype=np.int32)

    def feed(self, tile: npt.NDArray[np.float32], first_label: int) -> None:
        """tile [N, width]: scores of labels first_label .. first_label + width − 1. Raises ValueError on NaN."""
        if not np.isfinite(tile).all():
            raise ValueError("scores hold NaN or infinite values")
        _feed(np.ascontiguousarray(tile), first_label, self.scores, self.labels)


def merge_topk(
    scores: npt.NDArray[np.float32], labels: npt.NDArray[np.int32], k: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """The best k of several lists that lie side by side, scores and labels [N, M]; ties go to the lowest label id.

    Lists are best first, with lower labels in the lists further left; −inf and −1 where one has fewer labels.
    """
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, best, 1), np.take_along_axis(labels, best, 1)


@numba.njit(parallel=True, cache=True)
def _feed(tile, first_label, scores, labels):  # type: ignore[no-untyped-def]
    k = scores.shape[1]
    for n in numba.prange(tile.shape[0]):
        for column in range(tile.shape[1]):
            score = tile[n, column]
            if score > scores[n, k - 1]:
                at = k - 1
                while at > 0 and (labels[n, at - 1] < 0 or scores[n, at - 1] < score):
                    scores[n, at] = scores[n, at - 1]
                    labels[n, at] = labels[n, at - 1]
                    at -= 1
                scores[n, at] = score
                labels[n, at] = first_label + column
