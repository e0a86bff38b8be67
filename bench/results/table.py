"""``table.csv``: rows of results to a typed frame, to disk, and back with every value checked."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bench.columns import BY_NAME, COLUMNS, NEVER_EMPTY, STATUS_WORDS, is_missing, without_odd_values
from bench.common.errors import DataError, InputError
from bench.common.files import without_mark, write_atomic
from bench.results.store import Store

TABLE = "table.csv"


def rows_to_frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Result rows as a frame with the contract's columns in order; swept (dotted) keys follow the settings.

    A key that is absent, None or NaN is missing (empty on disk), never 0. Counts are Int64, measurements
    float64, words ``string``. Raises InputError when a value of a finished run does not fit its column; of a run
    without a result it is left empty and named in the reason.
    """
    rows = [row if row.get("status") == "ok" else without_odd_values(row) for row in rows]
    names = _order({key: None for row in rows for key in row})
    data: dict[str, pd.Series[Any]] = {}
    for name in names:
        values = [None if _missing(row.get(name)) else row[name] for row in rows]
        try:
            data[name] = _series(values, BY_NAME[name].kind if name in BY_NAME else _guess(values))
        except (TypeError, ValueError) as error:
            raise InputError(f"results column {name!r}: {error}; expected {BY_NAME[name].expected}") from None
    return pd.DataFrame(data, columns=names)


def write_table(df: pd.DataFrame, path: Path | str) -> Path:
    """Write the frame as UTF-8 CSV by one rename, so that no reader sees half a file. Floats keep every digit."""
    return write_atomic(path, df.to_csv(index=False, lineterminator="\n"))


def write_results(store: Store) -> Path:
    """Write table.csv of an experiment from what is in its store."""
    with store.writing():
        return write_table(rows_to_frame(store.rows()), store.root / TABLE)


def load_results(path: Path | str) -> pd.DataFrame:
    """The checked frame of an experiment folder (``results/quickstart``) or of a ``table.csv``.

    Raises InputError naming file, line, column, found and expected: a missing column, an unknown status, a
    quality outside [0, 1], text instead of a number, a file that was cut short. Such a number of a run without a result
    is left empty and named in its reason.
    """
    path = Path(path)
    if path.is_dir():
        path = path / TABLE
    header, records = _read(path)
    absent = [c.name for c in COLUMNS if c.required and c.name not in header]
    if absent:
        raise DataError(path, 1, f"no column {', '.join(map(repr, absent))}", "every column of the results contract")
    columns: dict[str, list[Any]] = {name: [] for name in header}
    for line, record in records:
        for name, value in _parse_row(path, line, dict(zip(header, record, strict=True))).items():
            columns[name].append(value)
    data = {
        name: _series(values, BY_NAME[name].kind) if name in BY_NAME else _series(*_retype(values))
        for name, values in columns.items()
    }
    return pd.DataFrame(data, columns=header)


def swept_columns(df: pd.DataFrame) -> list[str]:
    """Names of the swept settings (dotted keys such as ``train.lr``) in the frame's order."""
    return [str(name) for name in df.columns if "." in str(name)]


def _read(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected the table that `machbench run` writes") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    raw = without_mark(path, raw)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(path, raw[: error.start].count(b"\n") + 1, "bytes that are not text", "UTF-8") from None
    if not text:
        raise DataError(path, None, "an empty file", "a header line")
    if not text.endswith("\n"):
        raise DataError(
            path, text.count("\n") + 1, "a last line without its end: the file was cut short", "whole lines"
        )
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    records: list[tuple[int, list[str]]] = []
    line = 1
    try:
        for record in reader:
            if record:  # else a blank line
                records.append((line, record))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(path, line, f"a broken or cut line ({error})", "comma-separated values") from None
    header = records[0][1] if records else []
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(path, 1, f"column {twice[0]!r} twice", "each column once")
    for at, record in records[1:]:
        if len(record) != len(header):
            raise DataError(path, at, f"{len(record)} fields", f"{len(header)}, as in the header")
    return header, records[1:]


def _parse_row(path: Path, line: int, row: Mapping[str, str]) -> dict[str, Any]:
    """The values of a line by column; an odd one is an error where the run has a result."""
    values = {name: _parse(path, line, name, text) for name, text in row.items()}
    for name, text in row.items():
        if values["status"] == "ok" and values[name] is not None and name in BY_NAME:
            column = BY_NAME[name]
            if not column.accepts(values[name]):
                raise DataError(path, line, f"{text!r} in column {name!r}", column.expected)
    return values if values["status"] == "ok" else without_odd_values(values)


def _parse(path: Path, line: int, name: str, text: str) -> Any:
    """None for an empty text; a number where the column has numbers and the text is one."""
    if text == "":
        if name in NEVER_EMPTY:
            raise DataError(path, line, f"nothing in column {name!r}", "a value")
        return None
    column = BY_NAME.get(name)
    if column is None or column.kind == "text":
        if name == "status" and text not in STATUS_WORDS:
            raise DataError(path, line, f"{text!r} in column 'status'", f"one of {', '.join(STATUS_WORDS)}")
        return text
    try:
        return _number(text, column.kind)
    except ValueError:
        return text


def _number(text: str, kind: str) -> float | int:
    value: float | int = int(text) if kind == "int" else float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _series(values: Sequence[Any], kind: str) -> pd.Series[Any]:
    if kind == "text":
        words = [None if v is None else _line_ends(str(v)) for v in values]
        return pd.Series(words, dtype="string")
    if kind == "float":
        return pd.Series([math.nan if v is None else float(v) for v in values], dtype="float64")
    for v in values:
        if v is not None and (isinstance(v, str) or v != int(v)):
            raise ValueError(f"found {v!r}")
    return pd.Series([None if v is None else int(v) for v in values], dtype="Int64")


def _line_ends(text: str) -> str:
    """One kind of line end: a lone carriage return, as of a progress bar, would break the lines of a CSV."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _missing(value: Any) -> bool:
    return value is pd.NA or is_missing(value)


def _guess(values: Sequence[Any]) -> str:
    """The kind of a swept setting: whole numbers, numbers, or else text (true/false are text)."""
    present = [v for v in values if v is not None]
    if not present or any(isinstance(v, str | bool) or not hasattr(v, "__float__") for v in present):
        return "text"
    return "int" if all(float(v).is_integer() and not isinstance(v, float) for v in present) else "float"


def _retype(values: list[str | None]) -> tuple[list[Any], str]:
    """Swept settings as numbers again where possible, so that they can be sorted and compared."""
    for kind in ("int", "float"):
        try:
            return [None if v is None else _number(v, kind) for v in values], kind if any(values) else "text"
        except ValueError:
            continue
    return values, "text"


def _order(keys: Iterable[str]) -> list[str]:
    """Contract columns in their order (optional ones only where present); other keys after the settings."""
    present = list(keys)
    others = [key for key in present if key not in BY_NAME]
    known = [c for c in COLUMNS if c.required or c.name in present]
    cut = next(i for i, c in enumerate(known) if c.group == "data")
    return [c.name for c in known[:cut]] + others + [c.name for c in known[cut:]]
