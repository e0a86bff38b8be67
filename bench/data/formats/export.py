"""Write XML-repository text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix


def write_xmlrepo(path: Path, X: csr_matrix, Y: csr_matrix) -> None:
    """Write X [n, n_features] and Y [n, n_labels] as XML-repository text; reading it gives the same float32."""
    values = [np.format_float_positional(value, trim="-") for value in X.data.astype(np.float32)]
    columns, labels = X.indices.tolist(), Y.indices.tolist()
    with path.open("w", encoding="ascii") as file:
        file.write(f"{X.shape[0]} {X.shape[1]} {Y.shape[1]}\n")
        for row in range(X.shape[0]):
            x, y = slice(X.indptr[row], X.indptr[row + 1]), slice(Y.indptr[row], Y.indptr[row + 1])
            features = " ".join(f"{c}:{v}" for c, v in zip(columns[x], values[x], strict=True))
            file.write(f"{','.join(map(str, labels[y]))} {features}\n")
