"""scipy's ``.npz`` sparse matrices, read without pickle and checked before use."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix, csc_matrix, csr_matrix

from bench.common.errors import DataError, InputError


def load_npz(path: Path) -> csr_matrix:
    """A sparse matrix as canonical CSR. Raises DataError for another content, or invalid ids or values."""
    if not path.is_file():
        raise InputError(f"data file {path} does not exist")
    try:
        with np.load(path, allow_pickle=False) as archive:
            parts = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise DataError(path, None, f"not readable ({error})", "a scipy sparse matrix in .npz") from None
    try:
        kind = parts["format"].item()
        kind = kind.decode() if isinstance(kind, bytes) else kind
        n_rows, n_columns = (int(count) for count in parts["shape"])
        shape = (n_rows, n_columns)
        if kind == "coo":
            matrix = coo_matrix((parts["data"], (parts["row"], parts["col"])), shape=shape).tocsr()
        elif kind in ("csr", "csc"):
            build: Any = csr_matrix if kind == "csr" else csc_matrix
            matrix = build((parts["data"], parts["indices"], parts["indptr"]), shape=shape)
            matrix.check_format(full_check=True)
            matrix = matrix.tocsr()
        else:
            raise ValueError(f"format {kind!r}")
        matrix.sum_duplicates()  # in place: just built from the file
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise DataError(path, None, f"{error}", "a scipy sparse matrix (csr, csc or coo)") from None
    if matrix.data.dtype.kind not in "biuf" or not np.isfinite(matrix.data).all():
        raise DataError(path, None, "values that are not finite numbers", "finite numbers")
    return matrix
