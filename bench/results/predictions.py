"""Ranked labels of the evaluated points, as a run keeps them."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from bench.common.errors import InputError
from bench.interface import Ranking


@dataclass(frozen=True)
class RankedLabels:
    """Ranked labels of all points from the first R repetitions (None: the method has no repetitions)."""

    R: int | None
    scores: npt.NDArray[np.float32]  # [N, k], best first
    labels: npt.NDArray[np.int32]  # [N, k], −1 where there is none
    decoder: str | None = None  # by which of the method's ways of decoding, where it has several


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


def kept(path: Path, n_rows: int, n_points: int) -> npt.NDArray[np.int32]:
    """Ranked labels [n_rows, n_points, k] of a run's topk.npz; InputError when they cannot be read or do not fit."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            labels = arrays["labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: not readable predictions: {error}") from error
    if labels.ndim != 3 or labels.shape[:2] != (n_rows, n_points):
        raise InputError(f"{path}, key labels: found shape {labels.shape}; expected ({n_rows}, {n_points}, k)")
    return np.asarray(labels, dtype=np.int32)
