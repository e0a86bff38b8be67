"""Ranked labels of the evaluated points, as a run keeps them."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.common.errors import InputError


@dataclass(frozen=True)
class RankedLabels:
    """Ranked labels of all points from the first R repetitions (None: the method has no repetitions)."""

    R: int | None
    scores: npt.NDArray[np.float32]  # [N, k], best first
    labels: npt.NDArray[np.int32]  # [N, k], −1 where there is none
    decoder: str | None = None  # by which of the method's decoders, where it has several


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
