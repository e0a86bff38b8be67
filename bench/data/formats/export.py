"""Writing what `bench.data` reads: XML-repository text and score files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix


def write_xmlrepo(path: Path, X: csr_matrix, Y: csr_matrix) -> None:
    """Write X [n, n_features] and Y [n, n_labels] as XML-repository text that reads back to the same
    float32."""
    values = [np.format_float_positional(value, trim="-") for value in X.data.astype(np.float32)]
    columns, labels = X.indices.tolist(), Y.indices.tolist()
    with path.open("w", encoding="ascii") as file:
        file.write(f"{X.shape[0]} {X.shape[1]} {Y.shape[1]}\n")
        for row in range(X.shape[0]):
            x, y = slice(X.indptr[row], X.indptr[row + 1]), slice(Y.indptr[row], Y.indptr[row + 1])
            features = " ".join(f"{c}:{v}" for c, v in zip(columns[x], values[x], strict=True))
            file.write(f"{','.join(map(str, labels[y]))} {features}\n")


def write_score_pairs(path: Path, scores: NDArray[Any], labels: NDArray[np.integer[Any]]) -> None:
    """Write scores and labels [n, k] as text, ``label:score label:score`` a point, best first; -1 means
    no label."""
    with path.open("w", encoding="ascii") as file:
        for point_scores, point_labels in zip(scores, labels, strict=True):
            pairs = zip(point_labels.tolist(), point_scores.tolist(), strict=True)
            file.write(" ".join(f"{label}:{score!r}" for label, score in pairs if label >= 0) + "\n")
