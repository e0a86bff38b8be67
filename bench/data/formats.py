"""XML-repository text: a header ``points features labels``, then ``l1,l2 f:v f:v`` a point; plain or gzip.

A point without labels starts with a space; a point without features ends after its labels. Labels given twice
collapse, features given twice add up, ids may come in any order.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from bench.data.csr import Block
from bench.errors import DataError, InputError

PARSER_VERSION = 1
POINTS_PER_BLOCK = 20_000
_EXPECTED_HEADER = "a header of three counts, `points features labels`"


def read_header(path: Path) -> tuple[int, int, int]:
    """Points, features and labels that the file announces.

    Raises DataError (line 1) for anything else, InputError when the file does not exist.
    """
    with _open(path) as file:
        return _header(path, next(_lines(path, file), (1, ""))[1])


def read_blocks(path: Path) -> Iterator[Block]:
    """Yield the points in order, some thousands at a time. Raises DataError naming file and line."""
    with _open(path) as file:
        lines = _lines(path, file)
        n_points, n_features, n_labels = _header(path, next(lines, (1, ""))[1])
        block, seen, number = _Builder(), 0, 1
        for number, line in lines:
            if seen == n_points:
                if not line.strip():
                    continue  # blank lines at the end are harmless
                raise DataError(path, number, f"point {seen + 1}", f"{n_points} points, as the header says")
            try:
                block.add(line, n_features, n_labels)
            except _Bad as bad:
                raise DataError(path, number, bad.found, bad.expected) from None
            seen += 1
            if seen % POINTS_PER_BLOCK == 0:
                yield block.take()
                block = _Builder()
        if seen != n_points:
            raise DataError(path, number, f"the end after {seen} points", f"{n_points}, as the header says")
        yield block.take()


class _Bad(Exception):
    def __init__(self, found: str, expected: str) -> None:
        self.found, self.expected = found[:80], expected


class _Builder:
    """Plain reference parser: one line at a time into lists."""

    def __init__(self) -> None:
        self.x_lengths: list[int] = []
        self.x_indices: list[int] = []
        self.x_values: list[float] = []
        self.y_lengths: list[int] = []
        self.y_indices: list[int] = []

    def add(self, line: str, n_features: int, n_labels: int) -> None:
        head, _, tail = line.partition(" ")
        if ":" in head:  # no label and no leading space, as some exports write it
            head, tail = "", line
        labels = [_id(token, n_labels, "label") for token in head.split(",")] if head else []
        features, values = [], []
        for token in tail.split():
            index, colon, value = token.partition(":")
            if not colon:
                raise _Bad(repr(token), "`feature:value`")
            features.append(_id(index, n_features, "feature"))
            values.append(_value(value))
        self.y_lengths.append(len(labels))
        self.y_indices += labels
        self.x_lengths.append(len(features))
        self.x_indices += features
        self.x_values += values

    def take(self) -> Block:
        return Block(
            np.array(self.x_lengths, dtype=np.int64),
            np.array(self.x_indices, dtype=np.int32),
            np.array(self.x_values, dtype=np.float64).astype(np.float32),
            np.array(self.y_lengths, dtype=np.int64),
            np.array(self.y_indices, dtype=np.int32),
        )


def _id(token: str, count: int, kind: str) -> int:
    if not (token.isascii() and token.isdigit()):
        raise _Bad(f"{kind} {token!r}", f"a whole number from 0 to {count - 1}")
    if (number := int(token[:20])) >= count:
        raise _Bad(f"{kind} {token}", f"a {kind} from 0 to {count - 1}")
    return number


def _value(token: str) -> float:
    try:
        value = float(token) if token.isascii() and "_" not in token else math.nan
    except ValueError:
        value = math.nan
    if not abs(value) <= float(np.finfo(np.float32).max):
        raise _Bad(f"value {token!r}", "a finite number")
    return value


def _header(path: Path, line: str) -> tuple[int, int, int]:
    fields = line.split()
    if not fields:
        raise DataError(path, 1, "an empty file or line", _EXPECTED_HEADER)
    if any(":" in field for field in fields):
        looks = "a data line, as in svmlight or headerless text"
    elif len(fields) == 2 and all(field.isdigit() for field in fields):
        looks = "two counts, as in the matrix files `trn_X_Xf.txt` / `trn_X_Y.txt`"
    elif fields[0].startswith("%%MatrixMarket"):
        looks = "a Matrix Market header"
    elif len(fields) != 3 or not all(field.isascii() and field.isdigit() for field in fields):
        looks = repr(line[:80])
    else:
        n_points, n_features, n_labels = (int(field[:20]) for field in fields)
        if max(n_features, n_labels) > np.iinfo(np.int32).max or n_points > 2**40:
            raise DataError(path, 1, repr(line[:80]), "counts below 2^31")
        return n_points, n_features, n_labels
    raise DataError(path, 1, looks, _EXPECTED_HEADER)


def _open(path: Path) -> IO[bytes]:
    if not path.is_file():
        raise InputError(f"data file {path} does not exist")
    file = path.open("rb")
    magic = file.read(2)
    file.seek(0)
    return gzip.open(file, "rb") if magic == b"\x1f\x8b" else file  # type: ignore[return-value]


def _lines(path: Path, file: IO[bytes]) -> Iterator[tuple[int, str]]:
    """Numbered lines without their line end; decompression and encoding faults become DataErrors."""
    number = 0
    try:
        for number, raw in enumerate(file, 1):
            if not raw.isascii() or b"\0" in raw:
                raise DataError(path, number, "bytes that are not text", "XML-repository text, plain or gzip")
            yield number, raw.decode("ascii").rstrip("\r\n")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(path, number + 1, f"broken gzip data ({error})", "a complete gzip file") from None
