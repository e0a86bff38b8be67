"""Published values to compare with: one YAML file per paper under ``configs/paper/``, checked key by key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.columns import BY_NAME, QUALITY
from bench.common.errors import InputError
from bench.config.yaml_files import check_keys, read_yaml

KEPT = "paper.yaml"  # the copy beside table.csv, so that a results folder says what it was compared with
KEYS = (
    "title",
    "source",
    "metrics",
    "tolerance",
    "differences",
    "results",
    "recipes",
)  # recipes: bench.plan.recipes
RESULT_KEYS = ("dataset", "rows", "values", "verified", "missing", "source", "recipe")


@dataclass(frozen=True)
class Published:
    """What a source reports for one dataset; ``values`` are per cent, as printed; None: it reports none.

    ``missing`` says why there is no value, or why nothing is run to compare with it.
    """

    dataset: str
    rows: Mapping[str, Any]  # columns of table.csv and what they must hold to be compared with it
    values: Mapping[str, float | None]
    verified: bool  # read in the source itself; nothing else may be shown as published
    missing: str = ""


@dataclass(frozen=True)
class Paper:
    """A source of published values. ``tolerance``: percentage points within which a value counts as reproduced."""

    path: Path
    title: str
    source: str
    metrics: str  # how the source defines its metrics
    tolerance: Mapping[str, float]
    differences: tuple[str, ...]  # how the runs here differ from the source
    results: tuple[Published, ...]


def read_paper(path: Path) -> Paper:
    """Parse and check a paper file. Raises InputError naming file, key, found and expected."""
    raw = read_yaml(path, KEYS)
    where = str(path)
    for key in ("title", "source", "metrics"):
        if not (isinstance(raw.get(key), str) and raw[key].strip()):
            raise InputError(f"{where}, key {key}: found {raw.get(key)!r}; expected text")
    tolerance = _numbers(raw.get("tolerance"), f"{where}, tolerance")
    results = raw.get("results")
    if not (isinstance(results, list) and results):
        raise InputError(f"{where}, key results: found {results!r}; expected a list of datasets and values")
    return Paper(
        path=path,
        title=raw["title"].strip(),
        source=raw["source"].strip(),
        metrics=raw["metrics"].strip(),
        tolerance=tolerance,
        differences=tuple(str(text).strip() for text in raw.get("differences") or ()),
        results=tuple(_published(entry, tolerance, f"{where}, results[{at}]") for at, entry in enumerate(results)),
    )


def _published(entry: Any, tolerance: Mapping[str, float], where: str) -> Published:
    check_keys(entry, RESULT_KEYS, "key", where)
    if not isinstance(entry.get("dataset"), str):
        raise InputError(f"{where}, key dataset: found {entry.get('dataset')!r}; expected a name")
    if not isinstance(entry.get("verified"), bool):
        raise InputError(f"{where}, key verified: found {entry.get('verified')!r}; expected true or false")
    rows = entry.get("rows")
    columns = [name for name, column in BY_NAME.items() if column.group in ("identity", "settings")]
    check_keys(rows, columns, "key", f"{where}, rows")
    missing = entry.get("missing", "")
    if not isinstance(missing, str):
        raise InputError(f"{where}, key missing: found {missing!r}; expected text")
    check_keys(entry.get("values"), QUALITY, "key", f"{where}, values")
    numbers = _numbers({name: v for name, v in entry["values"].items() if v is not None}, f"{where}, values")
    values = {name: numbers.get(name) for name in entry["values"]}
    if None in values.values() and not missing.strip():
        raise InputError(f"{where}, values: found one without a number; expected the key missing to say why")
    for metric in values:
        if metric not in tolerance:
            raise InputError(f"{where}, values: no tolerance for {metric!r}; expected one in the file's tolerance")
    return Published(entry["dataset"], rows, values, entry["verified"], missing.strip())


def _numbers(found: Any, where: str) -> dict[str, float]:
    """Metrics and numbers from 0 to 100."""
    check_keys(found, QUALITY, "key", where)
    for key, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
            raise InputError(f"{where}, key {key}: found {value!r}; expected a number from 0 to 100, in per cent")
    return {key: float(value) for key, value in found.items()}
