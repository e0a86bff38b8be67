"""Labels that may not be ranked, by point, as arrays for compiled loops, and the search for a label among them."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor

Pairs = sp.csr_matrix | tuple[npt.NDArray[np.integer], npt.NDArray[np.integer]]


class Excluded(NamedTuple):
    """The labels that point n may not get are labels[starts[n] : stops[n]], ascending."""

    starts: npt.NDArray[np.int64]  # [N]
    stops: npt.NDArray[np.int64]  # [N]
    labels: npt.NDArray[np.int32]  # [pairs]

    @classmethod
    def of(cls, pairs: Pairs | None, n_points: int, n_labels: int) -> Excluded:
        """From a CSR matrix [n_points, n_labels] whose stored entries are the pairs, whatever their values, or from its
        arrays (indptr [n_points + 1], indices [pairs]); None for no pairs.

        The arrays are copied. ValueError for another shape, and for labels out of range.
        """
        if pairs is None:
            return cls(np.zeros(n_points, np.int64), np.zeros(n_points, np.int64), np.zeros(0, np.int32))
        if isinstance(pairs, tuple):
            indptr, indices = (np.asarray(part) for part in pairs)
            fits = indptr.shape == (n_points + 1,) and indptr[0] == 0 and bool((np.diff(indptr) >= 0).all())
            if indices.ndim != 1 or not fits or indptr[-1] != len(indices):
                found = f"indptr {indptr.shape} and indices {indices.shape}"
                raise ValueError(f"excluded: found {found}; expected CSR arrays of {n_points} points")
            if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < n_labels:
                raise ValueError(f"excluded: found labels {indices.min()} to {indices.max()}, but there are {n_labels}")
            pairs = sp.csr_matrix((np.ones(len(indices), np.int8), indices, indptr), shape=(n_points, n_labels))
        if pairs.shape != (n_points, n_labels):
            raise ValueError(f"excluded: found shape {pairs.shape}; expected {(n_points, n_labels)}")
        if not pairs.has_sorted_indices:
            pairs = pairs.sorted_indices()
        ends: npt.NDArray[np.int64] = pairs.indptr.astype(np.int64)
        return cls(ends[:-1].copy(), ends[1:].copy(), pairs.indices.astype(np.int32))

    def take(self, points: slice | npt.NDArray[np.integer]) -> Excluded:
        """Those of some points, in their order."""
        return Excluded(
            np.ascontiguousarray(self.starts[points]), np.ascontiguousarray(self.stops[points]), self.labels
        )

    @property
    def most(self) -> int:
        """Labels that a point may not get, at most."""
        return int((self.stops - self.starts).max(initial=0))

    def pairs(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        """Point and label of each pair, by point."""
        counts = self.stops - self.starts
        points = np.repeat(np.arange(len(counts)), counts)
        before = np.cumsum(counts) - counts
        return points, self.labels[np.arange(len(points)) + np.repeat(self.starts - before, counts)]


class PairsByLabel:
    """The same pairs in the order of their labels, on a device, for scores [N, labels] of a range of labels."""

    def __init__(self, excluded: Excluded, device: torch.device) -> None:
        points, labels = excluded.pairs()
        order = np.argsort(labels, kind="stable")
        self._labels = labels[order]
        self._points = torch.from_numpy(points[order]).to(device)
        self._columns = torch.from_numpy(self._labels.astype(np.int64)).to(device)

    def within(self, low: int, high: int) -> tuple[Tensor, Tensor]:
        """(points, labels − low) of the pairs whose label is in low .. high − 1: an index of scores [N, high − low]."""
        here = slice(*np.searchsorted(self._labels, [low, high]).tolist())
        return self._points[here], self._columns[here] - low


@numba.njit(cache=True)
def is_excluded(excluded, point, label):  # type: ignore[no-untyped-def]
    """Whether a point may not get a label, by binary search."""
    low, high = excluded.starts[point], excluded.stops[point]
    while low < high:
        middle = (low + high) // 2
        found = excluded.labels[middle]
        if found == label:
            return True
        if found < label:
            low = middle + 1
        else:
            high = middle
    return False
