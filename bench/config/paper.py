"""Published values to compare with: one YAML file a paper under ``configs/paper/``, checked key by key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.columns import BY_NAME, QUALITY
from bench.common.errors import InputError, unknown_name

KEPT = "paper.yaml"  # the copy beside table.csv, so that a results folder says what it was compared with
KEYS = ("title", "source", "metrics", "tolerance", "differences", "results", "recipes")  # recipes: bench.plan.recipes
RESULT_KEYS = ("dataset", "rows", "values", "verified", "missing", "source", "recipe")


@dataclass(frozen=True)
class Published:
    """What a source reports for one dataset; ``values`` are per cent, as printed; None: it has none to compare with.

    ``missing`` says why: why there is no value, or why nothing is run to compare with it.
    """

    dataset: str
    rows: Mapping[str, Any]  # columns of table.csv and what they must hold to be compared with it
    values: Mapping[str, float | None]
    verified: bool  # read in the source itself; nothing else may be shown as published
    missing: str = ""


@dataclass(frozen=True)
class Paper:
    """A source of published values. ``tolerance``: points of per cent within which a value counts as reproduced."""

    path: Path
    title: str
    source: str
    metrics: str  # how the source defines its metrics
    tolerance: Mapping[str, float]
    differences: tuple[str, ...]  # what the runs here do otherwise than the source
    results: tuple[Published, ...]


def read_paper(path: Path) -> Paper:
    """Parse and check a paper file. Raises InputError naming file, key, found and expected."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as YAML: {error}") from None
    where = str(path)
    _keys(raw, KEYS, where)
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
    _keys(entry, RESULT_KEYS, where)
    if not isinstance(entry.get("dataset"), str):
        raise InputError(f"{where}, key dataset: found {entry.get('dataset')!r}; expected a name")
    if not isinstance(entry.get("verified"), bool):
        raise InputError(f"{where}, key verified: found {entry.get('verified')!r}; expected true or false")
    rows = entry.get("rows")
    _keys(
        rows, [name for name, column in BY_NAME.items() if column.group in ("identity", "settings")], f"{where}, rows"
    )
    missing = entry.get("missing", "")
    if not isinstance(missing, str):
        raise InputError(f"{where}, key missing: found {missing!r}; expected text")
    _keys(entry.get("values"), QUALITY, f"{where}, values")
    numbers = _numbers({name: v for name, v in entry["values"].items() if v is not None}, f"{where}, values")
    values = {name: numbers.get(name) for name in entry["values"]}
    if None in values.values() and not missing.strip():
        raise InputError(f"{where}, values: found one without a number; expected the key missing to say why")
    for metric in values:
        if metric not in tolerance:
            raise InputError(f"{where}, values: no tolerance for {metric!r}; expected one in the file's tolerance")
    return Published(entry["dataset"], rows, values, entry["verified"], missing.strip())


def _keys(found: Any, known: list[str] | tuple[str, ...], where: str) -> None:
    if not isinstance(found, dict):
        raise InputError(f"{where}: found {found!r}; expected keys and values")
    for key in found:
        if key not in known:
            raise unknown_name("key", str(key), known, where)


def _numbers(found: Any, where: str) -> dict[str, float]:
    """Metrics and numbers from 0 to 100."""
    _keys(found, QUALITY, where)
    for key, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
            raise InputError(f"{where}, key {key}: found {value!r}; expected a number from 0 to 100, in per cent")
    return {key: float(value) for key, value in found.items()}
