"""Configurations: the rows of table.csv that differ only in the seed or the random split, and their means."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench.columns import BY_NAME, COLUMNS, REFERENCE
from bench.metrics.significance import t_half_width
from bench.results.table import swept_columns

SPLIT = "dataset.split"  # runs on several random splits of the data are repeats, as those of several seeds are
SETTINGS = tuple(c.name for c in COLUMNS if c.group == "settings" and c.name not in ("B", "R"))
SHOWN_FINGERPRINT = 6  # hex digits
ENOUGH = 0.001  # a smaller R is enough if its P@1 is within 0.1 point of the best R of the same B


@dataclass(frozen=True)
class Stat:
    """A mean over ``n`` runs; None for a single run: ``sd``, the sample standard deviation (n - 1), and ``half``, half
    the width of the 95 % t interval of the mean."""

    mean: float
    low: float
    high: float
    sd: float | None
    half: float | None
    n: int


@dataclass(frozen=True)
class Configuration:
    """One configuration of a method on one dataset, one row per seed and random split; ``B`` and ``R`` if it hashes.

    A dataset whose parameters are swept counts as several: ``dataset`` then ends in their values.
    """

    dataset: str
    method: str
    B: int | None
    R: int | None
    settings: dict[str, Any]
    rows: tuple[dict[str, Any], ...]

    @property
    def hashed(self) -> bool:
        return self.B is not None and self.R is not None

    @property
    def ok(self) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["status"] == "ok"]

    @property
    def failed(self) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["status"] != "ok"]

    @property
    def key(self) -> tuple[Any, ...]:
        """Identifies the configuration."""
        return (*self.line, self.R)

    @property
    def line(self) -> tuple[Any, ...]:
        """Identifies the curve over R to which the configuration belongs."""
        return (self.dataset, self.method, self.B, tuple(self.settings.items()))

    def stat(self, column: str, of_failed: bool = False) -> Stat | None:
        """Mean and spread of ``column`` (in the unit of the file), or None when no run has it.

        Failed runs count only with ``of_failed``: their sizes are known, their measurements are not results.
        """
        rows = self.rows if of_failed else self.ok
        values = [float(row[column]) for row in rows if row.get(column) is not None]
        if not values:
            return None
        mean = values[0] + math.fsum(v - values[0] for v in values) / len(values)  # exact for equal values
        spread = math.fsum((v - mean) ** 2 for v in values)
        sd = math.sqrt(spread / (len(values) - 1)) if len(values) > 1 else None
        return Stat(mean, min(values), max(values), sd, t_half_width(values), len(values))

    def mean(self, column: str, of_failed: bool = False) -> float | None:
        stat = self.stat(column, of_failed)
        return None if stat is None else stat.mean


def records(df: pd.DataFrame) -> list[dict[str, Any]]:
    """The frame's rows as plain dicts, None where missing."""
    columns = [[None if missing else v for v, missing in zip(df[c], df[c].isna(), strict=True)] for c in df.columns]
    names = [str(c) for c in df.columns]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def grouped(df: pd.DataFrame) -> list[Configuration]:
    """All configurations, datasets and methods in order of first appearance, then B, then R.

    Swept keys that repeat B, R, the seed or the random split are not settings; those of the dataset are part of its
    name. Rows on different data, or evaluated otherwise, are of different datasets: a fingerprint is then part of the
    name. Of rows that these do not distinguish, other columns of settings do. A seed (of a split) counts once: of a row
    trained at this R and one derived from a larger R, the trained one is kept, because its memory was measured.
    """
    known = ("B", "R", "seed", "seeds")
    swept = [name for name in swept_columns(df) if name != SPLIT and name.rsplit(".", 1)[1] not in known]
    of_data = [name for name in swept if name.startswith("dataset.")]
    of_method = [*SETTINGS, *(name for name in swept if name not in of_data)]
    rows = records(df)
    names = dataset_names(rows, of_data)
    of_method += _further_settings(df, rows, names, of_method)
    together: dict[tuple[Any, ...], dict[Any, dict[str, Any]]] = {}
    for name, row in zip(names, rows, strict=True):
        settings = tuple((setting, row.get(setting)) for setting in of_method)
        seeds = together.setdefault((name, row["method"], row["B"], row["R"], settings), {})
        if repeat(row) not in seeds or _rank(row) <= _rank(seeds[repeat(row)]):  # of equals the later answer
            seeds[repeat(row)] = row
    groups = [
        Configuration(dataset, method, B, R, dict(settings), tuple(seeds.values()))
        for (dataset, method, B, R, settings), seeds in together.items()
    ]
    order: dict[Any, int] = {}
    for group in groups:
        order.setdefault(group.dataset, len(order))
        order.setdefault((group.dataset, group.method), len(order))
    return sorted(
        groups,
        key=lambda g: (order[g.dataset], order[(g.dataset, g.method)], g.B is not None, g.B or 0, g.R or 0),
    )


def dataset_names(rows: Sequence[Mapping[str, Any]], swept: Sequence[str]) -> list[str]:
    """The dataset of each row, with its swept parameters, and a fingerprint where one name stands for several data.

    The random splits of a dataset are one dataset; there a number counts the versions of each split. Rows that do not
    know their data, because the run failed before it had loaded them, are of the newest.
    """
    names, keys = [], []
    for row in rows:
        values = [f"{name.removeprefix('dataset.')} {row[name]}" for name in swept if row.get(name) is not None]
        names.append(" ".join([row["dataset"], *values]))
        keys.append((row.get("data_fingerprint"), row.get("evaluation_fingerprint")))
    versions: dict[tuple[str, Any], list[tuple[Any, Any]]] = {}
    for name, row, key in zip(names, rows, keys, strict=True):
        found = versions.setdefault((name, row.get(SPLIT)), [])
        if key[0] is not None and key not in found:
            found.append(key)
    several = {name for (name, _), found in versions.items() if len(found) > 1}
    marked = []
    for name, row, key in zip(names, rows, keys, strict=True):
        if name in several:
            found = versions[name, row.get(SPLIT)]
            own = key if key in found else found[-1] if found else key
            name += f" [{_version(own, found, row.get(SPLIT) is not None)}]"
        marked.append(name)
    return marked


def _version(key: tuple[Any, Any], versions: Sequence[tuple[Any, Any]], is_split: bool) -> str:
    if is_split:
        return f"version {versions.index(key) + 1 if key in versions else 1}"
    if len({data for data, _ in versions}) == len(versions):
        return f"data {str(key[0])[:SHOWN_FINGERPRINT]}"
    evaluation = "not recorded" if key[1] is None else str(key[1])[:SHOWN_FINGERPRINT]
    return f"data {str(key[0])[:SHOWN_FINGERPRINT]}, evaluation {evaluation}"


def _further_settings(
    df: pd.DataFrame, rows: Sequence[Mapping[str, Any]], datasets: Sequence[str], settings: Sequence[str]
) -> list[str]:
    """Columns, beside those of the contract, that alone distinguish two runs of one seed."""
    others = [str(name) for name in df.columns if name not in BY_NAME and "." not in str(name)]
    first: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    found: dict[str, None] = {}
    for dataset, row in zip(datasets, rows, strict=True):
        same = (dataset, row["method"], row["B"], row["R"], *(row.get(name) for name in settings), *repeat(row))
        if row["derived_from"] is None and row["status"] == "ok":
            other = first.setdefault(same, row)
            found |= dict.fromkeys(name for name in others if row.get(name) != other.get(name))
    return list(found)


def repeat(row: Mapping[str, Any]) -> tuple[Any, Any]:
    """Identifies a repeat of a configuration: the seed, and the random split where there are several."""
    return row["seed"], row.get(SPLIT)


def repeats(rows: Iterable[dict[str, Any]]) -> str:
    """In words, in what the repeats differ: seeds, random splits, or both."""
    found = [repeat(row) for row in rows]
    seeds, splits = {seed for seed, _ in found}, {split for _, split in found}
    if len(splits) < 2:
        return "seeds"
    return "seeds and random splits" if len(seeds) > 1 else "random splits"


def points_of(groups: Iterable[Configuration]) -> str:
    """The points on which quality was measured, in words; older results do not name them: test points."""
    found = dict.fromkeys(row.get("evaluated_on") or "test" for group in groups for row in group.rows)
    return f"{' and '.join(found) or 'test'} points"


def _rank(row: dict[str, Any]) -> tuple[bool, bool]:
    return (row["status"] != "ok", row["derived_from"] is not None)


def lines(groups: Iterable[Configuration]) -> list[list[Configuration]]:
    """Hashed configurations with a P@1 that differ in R alone, as curves with R ascending."""
    found: dict[tuple[Any, ...], list[Configuration]] = {}
    for group in groups:
        if group.hashed and group.mean("P@1") is not None:
            found.setdefault(group.line, []).append(group)
    return [sorted(line, key=lambda g: g.R or 0) for line in found.values()]


def smallest_enough(line: list[Configuration]) -> Configuration:
    """The smallest R of the line whose mean P@1 is within 0.1 point of the line's best."""
    best = max(group.mean("P@1") or 0.0 for group in line)
    return next(group for group in line if (group.mean("P@1") or 0.0) >= best - ENOUGH - 1e-12)


def shown_groups(groups: list[Configuration]) -> list[tuple[Configuration, bool]]:
    """The rows of both tables: every method; of a hashed one, for each B the largest R and the smallest that is enough.

    The flag: this is the smallest R within 0.1 point of the best P@1 of its B. Failed configurations are kept.
    """
    keep: dict[int, bool] = {}
    for line in lines(groups):
        keep[id(line[-1])] = False
        keep[id(smallest_enough(line))] = True
    return [(g, keep.get(id(g), False)) for g in groups if not g.hashed or id(g) in keep or not g.ok]


def reference_for(group: Configuration, groups: Iterable[Configuration]) -> Configuration | None:
    """The full-softmax configuration to compare with: same dataset, same hidden if there is one, best P@1."""
    candidates = [
        g
        for g in groups
        if g.method == REFERENCE and g.dataset == group.dataset and g.mean("params_output", of_failed=True)
    ]
    same = group.settings.get("hidden")
    return min(candidates, key=lambda g: (g.settings["hidden"] != same, -(g.mean("P@1") or 0.0)), default=None)


def same_machine(a: Configuration, b: Configuration) -> bool:
    """Whether all finished runs of both are from one environment and device: times and memory are comparable."""
    return len({(row.get("env_id"), row.get("device")) for group in (a, b) for row in group.ok}) == 1


def varying(groups: Iterable[Configuration]) -> list[str]:
    """Settings (besides B and R) that take more than one value within one method on one dataset."""
    seen: dict[tuple[str, str, str], set[Any]] = {}
    for group in groups:
        for name, value in group.settings.items():
            seen.setdefault((name, group.dataset, group.method), set()).add(value)
    return list(dict.fromkeys(name for (name, _, _), values in seen.items() if len(values) > 1))
