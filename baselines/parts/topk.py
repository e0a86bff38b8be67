"""Exact top-k over the columns of score tiles, kept as a running list: ties go to the lowest label id."""

from __future__ import annotations

from collections.abc import Iterable

import numba
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mach.kernels.excluded import Excluded, PairsByLabel, is_excluded

Ranking = tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]
Tiles = Iterable[tuple[int, Tensor]]
TIED_ROWS = 64  # rows sorted whole at a time
NOT_FINITE = "scores hold NaN or infinite values"


def top_k_of_tiles(tiles: Tiles, n_points: int, k: int, excluded: Excluded | None = None) -> Ranking:
    """(scores [N, k], labels [N, k]), best first, on the device of the tiles; −inf and −1 where there are fewer labels.

    tiles: (first label, scores [N, width] of the labels from there on) in increasing label order; they may be
    overwritten. excluded: labels that each point may not get. ValueError where a score is NaN or infinite.
    """
    best: RunningTopK | DeviceTopK | None = None
    for first_label, tile in tiles:
        if best is None:
            best = (
                DeviceTopK(n_points, k, tile.device, excluded) if tile.is_cuda else RunningTopK(n_points, k, excluded)
            )
        best.feed(tile, first_label)
    return (best or RunningTopK(n_points, k)).ranking()


class RunningTopK:
    """Best k labels of N points, fed with tiles of scores in increasing label order, on the host."""

    def __init__(self, n_points: int, k: int, excluded: Excluded | None = None) -> None:
        self._excluded = excluded or Excluded.of(None, n_points, 0)
        self.scores = np.full((n_points, k), -np.inf, dtype=np.float32)
        self.labels = np.full((n_points, k), -1, dtype=np.int32)

    def feed(self, tile: Tensor, first_label: int) -> None:
        """tile [N, width]: scores of labels first_label .. first_label + width − 1. Raises ValueError on NaN."""
        scores = tile.float().cpu().numpy()
        if not np.isfinite(scores).all():
            raise ValueError(NOT_FINITE)
        _feed(np.ascontiguousarray(scores), self._excluded, first_label, self.scores, self.labels)

    def ranking(self) -> Ranking:
        return self.scores, self.labels


class DeviceTopK:
    """The same where the scores are, for GPUs: nothing but the lists leaves the device.

    `torch.topk` returns the best k scores, but does not define which of several equal ones. Equal scores within the
    list are all in it and only need sorting; where some equal to the last one are left out, the whole row is sorted.
    """

    def __init__(self, n_points: int, k: int, device: torch.device, excluded: Excluded | None = None) -> None:
        self._pairs = None if excluded is None else PairsByLabel(excluded, device)
        self.scores = torch.full((n_points, k), -torch.inf, device=device)
        self.labels = torch.full((n_points, k), -1, dtype=torch.int64, device=device)
        self._finite = torch.ones((), dtype=torch.bool, device=device)

    def feed(self, tile: Tensor, first_label: int) -> None:
        """See `RunningTopK.feed`; NaN and infinite scores raise an error in `ranking`, which waits for the device.

        Scores of labels that a point may not get become −inf in the tile.
        """
        tile, k = tile.float(), self.scores.shape[1]
        if not tile.numel():
            return
        self._finite &= torch.isfinite(torch.stack(tile.aminmax())).all()
        if self._pairs is not None:
            tile[self._pairs.within(first_label, first_label + tile.shape[1])] = -torch.inf
        scores, columns = tile.topk(min(k, tile.shape[1]), dim=1)
        tied = ((tile >= scores[:, -1:]).sum(1) > scores.shape[1]).nonzero()[:, 0]
        for rows in tied.split(TIED_ROWS):
            in_order = tile[rows].sort(dim=1, descending=True, stable=True)
            scores[rows], columns[rows] = (part[:, : scores.shape[1]] for part in in_order)
        columns, by_label = columns.sort(dim=1)
        scores = scores.gather(1, by_label)
        labels = torch.where(scores.isneginf(), -1, columns + first_label)
        # Earlier labels are lower and come first, so a stable sort keeps them before equals.
        scores, labels = torch.cat([self.scores, scores], 1), torch.cat([self.labels, labels], 1)
        self.scores, best = (part[:, :k] for part in scores.sort(dim=1, descending=True, stable=True))
        self.labels = labels.gather(1, best)

    def ranking(self) -> Ranking:
        """Raises ValueError where a score was NaN or infinite."""
        if not bool(self._finite):
            raise ValueError(NOT_FINITE)
        return self.scores.cpu().numpy(), self.labels.to(torch.int32).cpu().numpy()


def merge_topk(
    scores: npt.NDArray[np.float32], labels: npt.NDArray[np.int32], k: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """The best k of several lists side by side, scores and labels [N, M]; ties go to the lowest label id.

    Lists are best first, with lower labels in the lists further left; −inf and −1 where one has fewer labels.
    """
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, best, 1), np.take_along_axis(labels, best, 1)


@numba.njit(parallel=True, cache=True)
def _feed(tile, excluded, first_label, scores, labels):  # type: ignore[no-untyped-def]
    k = scores.shape[1]
    for n in numba.prange(tile.shape[0]):
        for column in range(tile.shape[1]):
            score = tile[n, column]
            if score > scores[n, k - 1] and not is_excluded(excluded, n, first_label + column):
                at = k - 1
                while at > 0 and (labels[n, at - 1] < 0 or scores[n, at - 1] < score):
                    scores[n, at] = scores[n, at - 1]
                    labels[n, at] = labels[n, at - 1]
                    at -= 1
                scores[n, at] = score
                labels[n, at] = first_label + column
