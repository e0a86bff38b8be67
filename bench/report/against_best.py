"""Which rows of the quality table do not differ significantly from the best of a column, tested over points."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from bench.common.errors import InputError
from bench.metrics.ranking import Floats
from bench.metrics.significance import holm, paired_bootstrap
from bench.report.groups import Configuration, grouped, repeat, shown_groups
from bench.results.per_point import NotAvailable, Points

METRICS = ("P@1", "P@3", "P@5", "nDCG@3", "nDCG@5", "PSP@1", "PSP@3", "PSP@5", "minP@3", "minP@5")


@dataclass(frozen=True)
class AgainstBest:
    """``p`` by (configuration, metric): Holm-adjusted p-value of the difference from the best of the column; the best
    itself has none. ``untested`` says why columns of a dataset, or some of their rows, have no p."""

    p: Mapping[tuple[Any, ...], float] = field(default_factory=dict)
    untested: tuple[str, ...] = ()


def against_best(df: pd.DataFrame, folder: Path) -> AgainstBest:
    """Test every row of the quality table against the best row of each column.

    A point's value is its mean over the seeds that both rows have; the paired bootstrap over points then compares the
    two (`bench.metrics.significance.paired_bootstrap`), and the p-values of a column are adjusted by Holm's method.
    Rows of random splits are not tested: their points differ, and neither are those whose kept predictions cannot be
    read. ``folder``: the experiment's results."""
    rows = [group for group, _ in shown_groups(grouped(df)) if group.ok]
    points = Points(folder)
    p: dict[tuple[Any, ...], float] = {}
    untested: dict[str, None] = {}
    for dataset in dict.fromkeys(group.dataset for group in rows):
        p |= _of_dataset([group for group in rows if group.dataset == dataset], points, untested)
    return AgainstBest(p, tuple(untested))


def _of_dataset(
    groups: Sequence[Configuration], points: Points, untested: dict[str, None]
) -> dict[tuple[Any, ...], float]:
    if len(groups) < 2:
        return {}
    same = {(row["data_fingerprint"], row.get("evaluation_fingerprint")) for group in groups for row in group.ok}
    if len(same) > 1:
        untested["the rows are about different data or random splits, so their points differ"] = None
        return {}
    best = {metric: _best(groups, metric) for metric in METRICS}
    values: dict[int, dict[Any, dict[str, Floats]]] = {}
    for leader in best.values():
        if leader is not None and id(leader) not in values:
            values[id(leader)] = _by_repeat(leader, points, untested)
    raw: dict[str, list[tuple[Configuration, float]]] = {metric: [] for metric in METRICS}
    for group in groups:
        own = values.get(id(group)) or _by_repeat(group, points, untested)
        for metric, leader in best.items():
            if leader is None or leader is group:
                continue
            both = [key for key in own if key in values[id(leader)]]
            if both:
                theirs = _mean(values[id(leader)][key][metric] for key in both)
                raw[metric].append((group, paired_bootstrap(theirs, _mean(own[key][metric] for key in both)).p))
            elif own and values[id(leader)]:
                untested["some rows have no seed in common with the best"] = None
    return {
        (group.key, metric): adjusted
        for metric, tested in raw.items()
        for (group, _), adjusted in zip(tested, holm([p for _, p in tested]), strict=True)
    }


def _best(groups: Sequence[Configuration], metric: str) -> Configuration | None:
    """The configuration with the highest mean; of equals the first."""
    scored = [(group.mean(metric), group) for group in groups]
    return max(((mean, group) for mean, group in scored if mean is not None), key=lambda x: x[0], default=(0, None))[1]


def _by_repeat(group: Configuration, points: Points, untested: dict[str, None]) -> dict[Any, dict[str, Floats]]:
    """Values per point of each run of a configuration; runs without available predictions are left out."""
    found = {}
    for row in group.ok:
        try:
            values = points.of(row)
        except (NotAvailable, InputError) as reason:  # of a damaged folder: its row stays, without a test
            untested[str(reason)] = None
            continue
        key = (*repeat(row), row.get("evaluated_on") or "test")
        found[key] = {metric: values[metric] for metric in METRICS}
    return found


def _mean(arrays: Iterable[Floats]) -> Floats:
    several = list(arrays)
    return several[0] if len(several) == 1 else sum(several[1:], start=several[0]) / len(several)
