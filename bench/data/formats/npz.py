"""scipy's ``.npz`` sparse matrices, read without pickle; every array is checked before it is used."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csc_matrix, csr_matrix

from bench.common.errors import DataError, InputError
from bench.data.formats.csr_blocks import FLOAT32_LIMIT
from bench.data.formats.widths import limit

MAX_ID = int(np.iinfo(np.int32).max)
Array = NDArray[Any]
MAX_ENTRIES = 2**62  # above any file, below what int64 holds
_SPARSE = "a scipy sparse matrix (csr, csc or coo)"
_ARRAYS = {"csr": ("indptr", "indices", "data"), "csc": ("indptr", "indices", "data"), "coo": ("row", "col", "data")}


def read_arrays(path: Path, expected: str, only: str | None = None) -> dict[str, Array]:
    """All arrays of a ``.npz`` file, or one of them where it is there. DataError for damage and pickled objects."""
    if not path.is_file():
        raise InputError(f"data file {path} does not exist")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files if only in (None, name)}
    except (
        ValueError, OSError, EOFError, MemoryError, RuntimeError, AttributeError, zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip
        raise DataError(path, None, f"not readable ({error})", expected) from None


def wrong_array(path: Path, name: str, found: str, expected: str) -> DataError:
    """The error for an array of a file: names both."""
    return DataError(f"{path}, array {name}", None, found, expected)


def matrix_shape(path: Path, parts: dict[str, Array]) -> tuple[int, int]:
    """Rows and columns that array ``shape`` states."""
    shape = parts["shape"]
    if shape.shape != (2,) or shape.dtype.kind not in "iu" or int(shape.min()) < 0:
        raise wrong_array(path, "shape", f"{shape.tolist()!r:.60} {shape.dtype}", "two whole numbers, rows and columns")
    rows, columns = (int(count) for count in shape)
    if columns > MAX_ID:
        raise wrong_array(path, "shape", f"{columns} columns", f"at most {MAX_ID}")
    return rows, columns


def matrix_format(path: Path, parts: dict[str, Array]) -> str:
    """What array ``format`` says: csr, csc, coo or another word; csr where there is no such array."""
    word = parts.get("format", np.array("csr"))
    if word.size != 1 or word.dtype.kind not in "SU":
        raise wrong_array(path, "format", f"{word.tolist()!r:.60}", "one word, such as csr")
    found = word.reshape(-1)[0]
    return found.decode("ascii", "replace") if isinstance(found, bytes) else str(found)


def read_shape(path: Path) -> tuple[int, int]:
    """Rows and columns of a sparse matrix, without reading its entries. Raises DataError as `load_npz`."""
    if parts := read_arrays(path, _SPARSE, only="shape"):
        return matrix_shape(path, parts)
    names = ", ".join(read_arrays(path, _SPARSE))  # or that they cannot be read
    raise DataError(path, None, f"arrays {names or 'none'}", _SPARSE)


def load_npz(path: Path, labels: bool = False) -> csr_matrix:
    """A sparse matrix as CSR in single precision, entries of a row in the order of the file (coo: by column, summed).

    For ``labels`` the entries other than zero, as ones. Raises DataError that names array, found and expected: ids
    that are not whole numbers from 0 to 2^31 - 1 within the shape, values that single precision cannot hold, arrays
    whose lengths do not fit.
    """
    parts = read_arrays(path, _SPARSE)
    if absent := {"format", "shape", "data"} - set(parts):
        raise DataError(path, None, f"no array {', '.join(sorted(absent))}", _SPARSE)
    kind, shape = matrix_format(path, parts), matrix_shape(path, parts)
    if kind not in _ARRAYS:
        raise wrong_array(path, "format", repr(kind), _SPARSE)
    if absent := set(_ARRAYS[kind]) - set(parts):
        raise DataError(
            path, None, f"no array {', '.join(sorted(absent))}", f"{', '.join(_ARRAYS[kind])}, as {kind} has"
        )
    if kind != "csr" and shape[0] > (most := limit("point", parts["data"].size)):  # a pointer for each row is made
        raise wrong_array(path, "shape", f"{shape[0]} rows", f"at most {most}, with {parts['data'].size} entries")
    if kind == "coo":
        row, col = check_ids(path, parts, "row", shape[0]), check_ids(path, parts, "col", shape[1])
        values = _single(path, _check_values(path, parts, len(row)), labels)
        if len(row) != len(col):
            raise wrong_array(path, "col", f"{len(col)} entries", f"{len(row)}, as row has")
        # scipy adds up entries of one place here: ones of labels stay above 0, features are added in double precision
        matrix: Any = coo_matrix((values.astype(np.float64), (row, col)), shape=shape).tocsr()
    else:
        major, minor = shape if kind == "csr" else shape[::-1]
        indptr, indices, data = compressed(path, parts, major, minor)
        build: Any = csr_matrix if kind == "csr" else csc_matrix
        matrix = build((_single(path, data, labels), indices, indptr), shape=shape).tocsr()
    if labels:
        matrix.eliminate_zeros()
        matrix.data = np.ones(matrix.nnz, np.float32)
        return matrix
    matrix.data = _single(path, matrix.data, False)  # sums can leave the range
    return matrix


def compressed(path: Path, parts: dict[str, Array], n_major: int, n_minor: int) -> tuple[Array, Array, Array]:
    """The checked arrays of a CSR matrix, of n_major rows and n_minor columns (of a CSC matrix the other way round).

    indptr int64 [n_major + 1], indices and data [entries] in the types of the file; ids from 0 to n_minor - 1. Entries
    after the last that indptr counts, as scipy leaves them, are dropped.
    """
    indptr = parts["indptr"]
    if indptr.ndim != 1 or indptr.dtype.kind not in "iu":
        raise wrong_array(path, "indptr", _described(indptr), "whole numbers in one dimension")
    stored = len(parts["indices"]) if parts["indices"].ndim == 1 else 0
    well = len(indptr) == n_major + 1 and indptr[0] == 0 and int(indptr.max()) <= MAX_ENTRIES
    pointers = indptr.astype(np.int64) if well else np.zeros(1, np.int64)
    if not well or (np.diff(pointers) < 0).any():
        found = "row pointers that do not fit the shape, or fall"
        raise wrong_array(path, "indptr", found, f"{n_major + 1} numbers that rise from 0")
    indices = check_ids(path, parts, "indices", n_minor, int(pointers[-1]))
    data = _check_values(path, parts, stored)
    return pointers, indices, data[: len(indices)]


def check_ids(path: Path, parts: dict[str, Array], name: str, count: int, used: int | None = None) -> Array:
    """The first ``used`` ids of an array (None: all), which must be whole numbers from 0 to count - 1."""
    ids = parts[name]
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise wrong_array(path, name, _described(ids), "whole numbers in one dimension")
    if used is not None and used > len(ids):
        raise wrong_array(path, name, f"{len(ids)} entries", f"{used}, as array indptr says")
    ids = ids[:used]
    for wrong in (int(ids.min(initial=0)), int(ids.max(initial=0))):
        if len(ids) and not 0 <= wrong < count:
            raise wrong_array(path, name, f"id {wrong}", f"ids from 0 to {count - 1}")
    return ids


def _check_values(path: Path, parts: dict[str, Array], count: int) -> Array:
    data = parts["data"]
    if data.ndim != 1 or data.dtype.kind not in "biuf":
        raise wrong_array(path, "data", _described(data), "real numbers in one dimension")
    if len(data) != count:
        raise wrong_array(path, "data", f"{len(data)} values", f"{count}, one for each id")
    return data


def _single(path: Path, data: Array, labels: bool) -> NDArray[np.float32]:
    """Values in single precision, or for labels which of them are not 0; DataError for what it cannot hold."""
    if data.dtype.kind == "f":
        # chunks: no second array as long as the data
        for start in range(0, len(data), 1 << 20):
            part = data[start : start + (1 << 20)]
            held = np.abs(part) < FLOAT32_LIMIT if data.dtype.itemsize > 4 else np.isfinite(part)
            if not held.all():
                found = f"value {part[int(np.argmin(held))]}, which is not finite in single precision"
                raise wrong_array(path, "data", found, "finite numbers")
    return (data != 0).astype(np.float32) if labels else data.astype(np.float32)


def _described(array: Array) -> str:
    return f"{array.dtype} of shape {array.shape}"
