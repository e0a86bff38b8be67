"""Recognise the format of a data file, and read its points.

Known: XML-repository text (header ``points features labels``), pairs of matrix files (``trn_X_Xf.txt`` with
``trn_X_Y.txt``, header ``rows columns``), pairs of scipy ``.npz`` files (``X.trn.npz`` with
``Y.trn.npz``), svmlight text with several labels, Vowpal Wabbit text with numeric features; each text
plain, gzip, bzip2 or a zip of one file.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from bench.common.errors import DataError, InputError
from bench.data.formats import xmlrepo
from bench.data.formats.csr_blocks import Block
from bench.data.formats.npz import load_npz
from bench.data.formats.streams import head
from bench.data.formats.xmlrepo import Bad, Dialect, number_value, whole

PARSER_VERSION = 2  # raise when any reader gives other numbers for the same file
FORMATS = ("xmlrepo", "matrix", "npz", "svmlight", "vw")
MAX_ID = int(np.iinfo(np.int32).max)
_XML_HEADER = "a header of three counts, `points features labels`"
_POINTS_PER_SLICE = 50_000


@dataclass
class Reading:
    """One file (or pair) to be read. The widths of formats without a header are known after ``blocks``."""

    path: Path
    format: str
    n_points: int | None
    n_features: int
    n_labels: int
    labels_path: Path | None = None  # the other file of a pair
    label_offset: int = 0  # the file's smallest label id
    feature_offset: int = 0
    threads: int = 2
    fast: bool | None = None  # None: compiled parser for large files only

    def blocks(self) -> Iterator[Block]:
        """Yield the points in order. Raises DataError naming file and line."""
        if self.format == "xmlrepo":
            dialect = Dialect(
                self.n_features,
                self.n_labels,
                feature_offset=self.feature_offset,
                label_offset=self.label_offset,
                parse=_parse_shifted if self.feature_offset or self.label_offset else None,
            )
            yield from xmlrepo.read_blocks(self.path, dialect, 1, self.n_points, self.threads, self.fast)
        elif self.format == "matrix":
            yield from self._matrix_pair()
        elif self.format == "npz":
            yield from self._npz_pair()
        else:
            yield from self._headerless()

    def _headerless(self) -> Iterator[Block]:
        vw = self.format == "vw"
        dialect = Dialect(
            self.n_features or MAX_ID - self.feature_offset,
            self.n_labels or MAX_ID - self.label_offset,
            prepare=_prepare_vw if vw else None,
            parse=_parse_vw if vw else _parse_svmlight,
            feature_offset=self.feature_offset,
            label_offset=self.label_offset,
        )
        features, labels = self.n_features, self.n_labels
        for block in xmlrepo.read_blocks(self.path, dialect, threads=self.threads, fast=self.fast):
            features = max(features, int(block.x_indices.max(initial=-1)) + 1)
            labels = max(labels, int(block.y_indices.max(initial=-1)) + 1)
            yield block
        self.n_features, self.n_labels = features, labels

    def _matrix_pair(self) -> Iterator[Block]:
        assert self.labels_path is not None
        assert self.n_points is not None
        lengths, ids = [], []
        for block in xmlrepo.read_blocks(self.labels_path, _columns(self.n_labels), 1, self.n_points):
            kept = block.x_values != 0
            rows = np.repeat(np.arange(len(block.x_lengths)), block.x_lengths)[kept]
            lengths.append(np.bincount(rows, minlength=len(block.x_lengths)).astype(np.int32))
            ids.append(block.x_indices[kept])
        y_lengths = np.concatenate([*lengths, np.zeros(0, np.int32)])
        y_indices = np.concatenate([*ids, np.zeros(0, np.int32)])
        row = begin = 0
        for block in xmlrepo.read_blocks(self.path, _columns(self.n_features), 1, self.n_points):
            here = y_lengths[row : row + len(block.x_lengths)]
            until = begin + int(here.sum())
            yield Block(block.x_lengths, block.x_indices, block.x_values, here, y_indices[begin:until])
            row, begin = row + len(here), until

    def _npz_pair(self) -> Iterator[Block]:
        assert self.labels_path is not None
        X, Y = load_npz(self.path), load_npz(self.labels_path)
        Y.eliminate_zeros()
        for start in range(0, X.shape[0], _POINTS_PER_SLICE):
            x, y = X[start : start + _POINTS_PER_SLICE], Y[start : start + _POINTS_PER_SLICE]
            yield Block(np.diff(x.indptr), x.indices, x.data.astype(np.float32), np.diff(y.indptr), y.indices)


def open_data(
    path: Path,
    labels_path: Path | None = None,
    format: str = "auto",
    label_offset: int = 0,
    feature_offset: int = 0,
) -> Reading:
    """Detect the format and read the header. The other file of a pair is searched beside the first.

    Raises InputError when a file is missing and DataError (line 1) when the format is none of the known ones.
    """
    if format not in ("auto", *FORMATS):
        raise InputError(f"{path}: unknown format {format!r}; expected auto, {', '.join(FORMATS)}")
    found = detect(path) if format == "auto" else format
    offsets = (label_offset, feature_offset)
    if found == "xmlrepo":
        return Reading(path, found, *read_header(path), None, *offsets)
    if found in ("svmlight", "vw"):
        return Reading(path, found, None, 0, 0, None, *offsets)
    other = labels_path or labels_beside(path)
    if other is None or not other.is_file():
        what = "two counts, as in the matrix files `trn_X_Xf.txt`" if found == "matrix" else "a .npz matrix"
        name = f"the labels in {other or 'a second file'} beside it (or name them with the labels file option)"
        raise DataError(path, 1 if found == "matrix" else None, what, name)
    if found == "matrix":
        (rows, columns), (label_rows, n_labels) = read_matrix_header(path), read_matrix_header(other)
    else:
        (rows, columns), (label_rows, n_labels) = load_npz(path).shape, load_npz(other).shape
    if rows != label_rows:
        line = 1 if found == "matrix" else None
        raise DataError(other, line, f"{label_rows} rows", f"{rows}, as in {path.name}")
    return Reading(path, found, rows, columns, n_labels, other, *offsets)


def detect(path: Path) -> str:
    """Name of the format by content. Raises DataError for content of no known format."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if all(name.endswith(".npy") for name in archive.namelist()):
                return "npz"
    start = head(path)
    line = start.lstrip(b"\xef\xbb\xbf").split(b"\n", 1)[0].strip()
    if not line.isascii() or b"\0" in line:
        raise DataError(path, 1, "bytes that are not text", f"one of the formats {', '.join(FORMATS)}")
    fields = line.decode("ascii").split()
    if line[:1] == b"<":
        raise DataError(path, 1, "an HTML or XML page", "data; was a download page saved instead of the file?")
    if fields and all(field.isdigit() for field in fields) and len(fields) in (2, 3):
        return "xmlrepo" if len(fields) == 3 else "matrix"
    if "|" in fields or (len(fields) > 1 and fields[1].startswith("|")):
        return "vw"
    if fields and all(":" in field for field in fields[1:]) and re.fullmatch(r"[\d,]+|\d+:\S+", fields[0]):
        return "svmlight"
    if not fields and start.strip() and re.match(rb"[\d,]+ \d+:|\s*\d+:", start.strip()):
        return "svmlight"
    found = repr(line.decode("ascii")[:80]) if fields else "an empty file or line"
    raise DataError(path, 1, found, f"{_XML_HEADER}, or one of {', '.join(FORMATS[1:])}")


def labels_beside(path: Path) -> Path | None:
    """The label file that belongs to a feature file by the usual names, or None."""
    for pattern, other in ((r"_Xf(?=\.|$)", "_Y"), (r"^X(?=\.)", "Y"), (r"_X(?=\.|$)", "_Y")):
        name, changed = re.subn(pattern, other, path.name)
        if changed:
            return path.with_name(name)
    return None


def read_header(path: Path) -> tuple[int, int, int]:
    """Points, features and labels that an XML-repository file announces; DataError (line 1) for anything
    else."""
    line = _first_line(path)
    fields = line.split()
    if not fields:
        raise DataError(path, 1, "an empty file or line", _XML_HEADER)
    if any(":" in field for field in fields):
        looks = "a data line, as in svmlight or headerless text"
    elif len(fields) == 2 and all(field.isdigit() for field in fields):
        looks = "two counts, as in the matrix files `trn_X_Xf.txt` / `trn_X_Y.txt`"
    elif len(fields) != 3 or not all(field.isdigit() for field in fields):
        looks = repr(line[:80])
    else:
        n_points, n_features, n_labels = (int(field[:20]) for field in fields)
        if max(n_features, n_labels) <= MAX_ID and n_points < 2**40:
            return n_points, n_features, n_labels
        looks = repr(line[:80]) + " (counts of 2^31 or more)"
    raise DataError(path, 1, looks, _XML_HEADER)


def read_matrix_header(path: Path) -> tuple[int, int]:
    """Rows and columns that a matrix file announces; DataError (line 1) for anything else."""
    line = _first_line(path)
    fields = line.split()
    if len(fields) != 2 or not all(field.isdigit() for field in fields) or int(fields[1][:20]) > MAX_ID:
        raise DataError(path, 1, repr(line[:80]), "a header of two counts, `rows columns`")
    return int(fields[0][:20]), int(fields[1][:20])


def read_filter(path: Path, n_points: int, n_labels: int) -> NDArray[np.int64]:
    """Filter file: a pair ``point label`` per line, the label to be ignored for that point. Returns [n, 2]."""
    pairs = []
    for number, raw in enumerate(path.read_bytes().splitlines(), 1):
        if fields := raw.decode("ascii", "replace").split():
            try:
                if len(fields) != 2:
                    raise Bad(repr(" ".join(fields)), "two numbers, `point label`")
                pairs.append((whole(fields[0], n_points, "point"), whole(fields[1], n_labels, "label")))
            except Bad as bad:
                raise DataError(path, number, bad.found, bad.expected) from None
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def read_matrices(path: Path, threads: int = 2, fast: bool | None = None) -> tuple[csr_matrix, csr_matrix]:
    """A whole file as X [n, n_features] and Y [n, n_labels] in memory, ids rising in each row."""
    reading = open_data(path)
    reading.threads, reading.fast = threads, fast
    blocks = [block.canonical() for block in reading.blocks()]
    out = []
    for lengths, indices, values, columns in (
        ("x_lengths", "x_indices", "x_values", reading.n_features),
        ("y_lengths", "y_indices", None, reading.n_labels),
    ):
        counts = np.concatenate([getattr(block, lengths) for block in blocks] or [np.zeros(0, np.int32)])
        ids = np.concatenate([getattr(block, indices) for block in blocks] or [np.zeros(0, np.int32)])
        indptr = np.zeros(len(counts) + 1, np.int64)
        np.cumsum(counts, out=indptr[1:])
        data = np.concatenate([b.x_values for b in blocks]) if values and blocks else np.ones(len(ids), np.float32)
        out.append(csr_matrix((data, ids, indptr), shape=(len(counts), columns)))
    return out[0], out[1]


def _first_line(path: Path) -> str:
    raw = head(path).split(b"\n", 1)[0]
    if not raw.isascii() or b"\0" in raw:
        raise DataError(path, 1, "bytes that are not text", _XML_HEADER)
    return raw.decode("ascii").strip()


def _columns(count: int) -> Dialect:
    """Lines of a matrix file, ``column:value`` only."""
    return Dialect(count, 0)


def _parse_shifted(line: str, dialect: Dialect) -> tuple[list[int], list[int], list[float]]:
    wide = Dialect(dialect.n_features + dialect.feature_offset, dialect.n_labels + dialect.label_offset)
    labels, features, values = xmlrepo.parse_line(line, wide)
    return (
        _shift(labels, dialect.label_offset, "label"),
        _shift(features, dialect.feature_offset, "feature"),
        values,
    )


def _shift(ids: list[int], offset: int, kind: str) -> list[int]:
    if ids and min(ids) < offset:
        raise Bad(f"{kind} {min(ids)}", f"a {kind} from {offset}, the offset given for this file")
    return [number - offset for number in ids]


def _parse_svmlight(line: str, dialect: Dialect) -> tuple[list[int], list[int], list[float]]:
    line = line.partition("#")[0]
    if "qid:" in line:
        raise Bad("'qid:'", "labels and features only")
    return _parse_shifted(line, dialect)


_VW_BLOCK = re.compile(rb"(?:\d+ \|[^|\n]*\n)*")


def _prepare_vw(text: bytes) -> bytes | None:
    return text.replace(b"|", b" ") if _VW_BLOCK.fullmatch(text) else None


def _parse_vw(line: str, dialect: Dialect) -> tuple[list[int], list[int], list[float]]:
    head_part, *namespaces = line.split("|")
    tokens = head_part.split()
    if len(namespaces) != 1 or len(tokens) > 1:
        raise Bad(repr(line[:40]), "`label | feature:value ...` with one namespace")
    labels = (
        [whole(t, dialect.n_labels + dialect.label_offset, "label") for t in tokens[0].split(",")] if tokens else []
    )
    features, values = [], []
    fields = namespaces[0].split()
    if namespaces[0][:1] not in ("", " "):
        fields = fields[1:]  # the namespace's name
    for token in fields:
        index, colon, value = token.partition(":")
        features.append(whole(index, dialect.n_features + dialect.feature_offset, "feature"))
        values.append(number_value(value) if colon else 1.0)
    return (
        _shift(labels, dialect.label_offset, "label"),
        _shift(features, dialect.feature_offset, "feature"),
        values,
    )
