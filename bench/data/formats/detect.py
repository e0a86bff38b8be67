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
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from bench.common.errors import DataError, InputError
from bench.data.formats import xmlrepo
from bench.data.formats.csr_blocks import Block, Overflow
from bench.data.formats.npz import MAX_ID, load_npz, read_shape
from bench.data.formats.streams import data_lines, first_data_line, head, line_blocks
from bench.data.formats.widths import Seen, limit, watch
from bench.data.formats.xmlrepo import Bad, Dialect, number_value, whole

PARSER_VERSION = 3  # raise when any reader gives other numbers for the same file
FORMATS = ("xmlrepo", "matrix", "npz", "svmlight", "vw")
_XML_HEADER = "a header of three counts, `points features labels`"
_ANY = f"{_XML_HEADER}, or one of {', '.join(FORMATS[1:])}"
_REMARKED_HEADER = re.compile(rb"\s*#\s*\d+\s+\d+(?:\s+\d+)?\s*")
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
    believed: tuple[int, int] = (0, 0)  # features and labels that a card or another file of the dataset states
    features: Seen = field(default_factory=Seen)
    labels: Seen = field(default_factory=Seen)

    def blocks(self) -> Iterator[Block]:
        """Yield the points in order, ids rising within each. Raises DataError naming file and line (or array)."""
        points, self.features, self.labels = 0, Seen(), Seen()
        for block in watch(self._blocks(), self.features, self.labels):
            try:
                yield block.canonical()
            except Overflow as over:
                line = self._line_of(points + over.point)
                found = f"values of feature {over.feature + self.feature_offset} that add up to infinity"
                raise DataError(self.path, line, found, "a sum that single precision can hold") from None
            points += len(block.x_lengths)
        if self.n_points is None:
            self._check_widths(points)

    def _check_widths(self, points: int) -> None:
        """The widths of a file without a header; DataError where nothing in the file supports them."""
        if points and not self.features.entries:
            raise DataError(self.path, 1, f"{points} points without any feature", "`feature:value` in some of them")
        for kind, seen, offset, believed in (
            ("feature", self.features, self.feature_offset, self.believed[0]),
            ("label", self.labels, self.label_offset, self.believed[1]),
        ):
            most = max(limit(kind, seen.entries), believed)
            if seen.width > most:
                found = f"{kind} {seen.largest + offset}, in a file without a header that has {seen.entries} {kind}s"
                expected = f"ids below {most + offset}, unless a card declares n_{kind}s"
                raise DataError(self.path, self._line_of(seen.point), found, expected)
        self.n_features = max(self.n_features, self.features.width)
        self.n_labels = max(self.n_labels, self.labels.width)

    def wide(self) -> list[str]:
        """A remark for each width of the header that the entries do not support; call it after ``blocks``."""
        remarks = []
        for kind, stated, seen in (
            ("feature", self.n_features, self.features),
            ("label", self.n_labels, self.labels),
        ):
            if stated > limit(kind, seen.entries):
                found = f"but the file has {seen.entries} of them, ids up to {seen.largest}"
                remarks.append(f"the header of {self.path.name} states {stated} {kind}s, {found}")
        return remarks

    def _line_of(self, point: int) -> int | None:
        """The line of a point; it is searched in the file, so that nothing has to be kept while points are read."""
        if self.format == "npz":
            return None
        if self.n_points is not None:
            return point + 2
        remarks, before, at = self._headerless_dialect().remarks, 0, -1
        assert remarks is not None
        for text in line_blocks(self.path):
            lines = remarks(text).split(b"\n")[:-1]
            for number, line in enumerate(lines, before + 1):
                at += bool(line.strip())
                if at == point:
                    return number
            before += len(lines)
        return None

    def _blocks(self) -> Iterator[Block]:
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
            dialect = self._headerless_dialect()
            yield from xmlrepo.read_blocks(self.path, dialect, threads=self.threads, fast=self.fast)

    def _headerless_dialect(self) -> Dialect:
        vw = self.format == "vw"
        return Dialect(
            MAX_ID - self.feature_offset,
            MAX_ID - self.label_offset,
            remarks=_without_remark_lines if vw else _without_remarks,
            prepare=_prepare_vw if vw else None,
            parse=_parse_vw if vw else _parse_svmlight,
            feature_offset=self.feature_offset,
            label_offset=self.label_offset,
        )

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
        X, Y = load_npz(self.path), load_npz(self.labels_path, labels=True)
        for start in range(0, X.shape[0], _POINTS_PER_SLICE):
            x, y = X[start : start + _POINTS_PER_SLICE], Y[start : start + _POINTS_PER_SLICE]
            yield Block(np.diff(x.indptr), x.indices, x.data, np.diff(y.indptr), y.indices)


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
        (rows, columns), (label_rows, n_labels) = read_shape(path), read_shape(other)
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
    number, raw = first_data_line(path)
    if not number:
        raise DataError(path, 1, "an empty file, or nothing but blank lines and remarks", _ANY)
    if not raw.isascii() or b"\0" in raw:
        raise DataError(path, number, "bytes that are not text", f"one of the formats {', '.join(FORMATS)}")
    line = raw.decode("ascii").strip()
    fields = line.split()
    if line[:1] == "<":
        raise DataError(path, number, "an HTML or XML page", "data; was a download page saved instead of the file?")
    if all(field.isdigit() for field in fields) and len(fields) in (2, 3):
        if number > 1:
            raise DataError(path, number, repr(line[:80]), "counts in line 1 only, as header")
        return "xmlrepo" if len(fields) == 3 else "matrix"
    if "|" in fields or (len(fields) > 1 and fields[1].startswith("|")):
        return "vw"
    if number > 1 and _REMARKED_HEADER.fullmatch(first := head(path).split(b"\n", 1)[0]):
        found = repr(first.decode("ascii").strip()[:80])
        raise DataError(path, 1, found, f"{_XML_HEADER} without `#`, or no counts in the remark")
    bare = line.partition("#")[0].split()
    if bare and all(":" in field for field in bare[1:]) and re.fullmatch(r"[\d,]+|\d+:\S+", bare[0]):
        if ":" in bare[-1]:
            return "svmlight"
        expected = f"{_ANY}; or `format: svmlight` in a card, if that is a point without features"
        raise DataError(path, number, repr(line[:80]), expected)
    raise DataError(path, number, repr(line[:80]), _ANY)


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
    for number, line in data_lines(path):
        try:
            if len(fields := line.split()) != 2:
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


def _without_remarks(text: bytes) -> bytes:
    """svmlight text: a remark begins anywhere in a line."""
    return re.sub(rb"#[^\n]*", b"", text) if b"#" in text else text


def _without_remark_lines(text: bytes) -> bytes:
    """Vowpal Wabbit text: only whole lines are remarks, since `#` may begin a name."""
    return re.sub(rb"(?m)^[ \t]*#[^\n]*", b"", text) if b"#" in text else text


def _parse_svmlight(line: str, dialect: Dialect) -> tuple[list[int], list[int], list[float]]:
    if "qid:" in line:
        raise Bad("'qid:'", "labels and features only")
    return _parse_shifted(line, dialect)


_VW_BLOCK = re.compile(rb"(?:(?:\d+ \|(?: [^|\n]*)?)?\r?\n)*")  # no namespaces; blank lines are no points


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
        if ":" in fields[0]:  # `|name:2` multiplies all values by 2; in `|0:1` a space is missing
            raise Bad(repr(f"|{fields[0]}"), "a space after `|`, or the name of a namespace without a weight")
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
