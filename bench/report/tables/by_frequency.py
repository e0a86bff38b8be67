"""The tables ``frequency`` (head, torso, tail) and ``deciles``: quality by label frequency (docs/metrics.md)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bench.columns import BY_GROUP, BY_NAME, DECILES
from bench.common.text_table import Cell, Head, Table
from bench.data.passport import GROUPS
from bench.report.groups import grouped, points_of, shown_groups
from bench.report.tables.parts import Shown, head, identity, rules, title
from bench.results.record import Deciles
from bench.results.store import Store

SHOWN = {"P@5": "part of P@5", "R@5": "R@5"}


def frequency_table(df: pd.DataFrame) -> Table | None:
    """``frequency``: the columns `BY_GROUP` of the rows of the quality table; None where no row has them."""
    rows = _with_result(df)
    if not any(group.mean(name) is not None for group, _ in rows for name in BY_GROUP):
        return None
    heads, cells = identity(rows, {})
    heads += [head(name) for name in BY_GROUP]
    for (group, _), line in zip(rows, cells, strict=True):
        line += [_cell(group.mean(name)) for name in BY_GROUP]
    tail, torso = (f"{below:g}" for name, below in GROUPS if name in ("tail", "torso"))
    groups = f"Labels by train points: tail 1 to {tail}, torso to {torso}, head more"
    notes = [
        ("", f"{groups}. P@k: what correct predictions of these labels add to P@k. R@5: share of their pairs found."),
        ("", f"{points_of(g for g, _ in rows).capitalize()}, per cent, means over the n seeds."),
    ]
    return Table("frequency", title("Quality by label frequency", rows), heads, cells, notes, rules(rows))


def decile_table(df: pd.DataFrame, folder: Path) -> Table | None:
    """``deciles``: parts of P@5 and R@5 by frequency decile from the records in ``folder``; None where none has them.

    Two rows per row of the quality table. Records that cannot be read are passed over.
    """
    kept = _kept(folder)
    rows, lines = [], []
    for group, enough in _with_result(df):
        found = [kept[row["run_id"]] for row in group.ok if row["run_id"] in kept]
        for metric in SHOWN if found else ():
            rows.append((group, enough))
            lines.append((metric, [_mean([run[metric][at] for run in found]) for at in range(DECILES + 1)]))
    if not rows:
        return None
    heads, cells = identity(rows, {})
    names = ["unseen", *(f"decile_{at}" for at in range(1, DECILES + 1))]
    heads += [Head("metric", "metric", number=False), *(Head(name, name.replace("_", " "), "%") for name in names)]
    for (metric, values), cell_line in zip(lines, cells, strict=True):
        cell_line += [Cell(SHOWN[metric], metric), *(_cell(value) for value in values)]
    bins = (
        "Labels in order of train points are cut into ten bins that hold a tenth of the train pairs each: 1 the rarest"
    )
    notes = [
        ("", f"{bins}, 10 the most frequent; unseen: labels without a train point. The parts of P@5 add up to it."),
        ("", "Per cent, means over the seeds whose records have them; – where the points have no label of a bin."),
    ]
    return Table("deciles", title("Quality by frequency decile", rows), heads, cells, notes, rules(rows))


def _with_result(df: pd.DataFrame) -> Shown:
    return [(group, enough) for group, enough in shown_groups(grouped(df)) if group.ok]


def _kept(folder: Path) -> dict[str, Deciles]:
    """Deciles of every row of the table, by run id."""
    found: dict[str, Deciles] = {}
    for record in Store(folder).records():
        for run_id, evaluation in zip(record.row_ids, record.evaluations, strict=True):
            if evaluation.deciles is not None:
                found[run_id] = evaluation.deciles
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    present = [v for v in values if v is not None]
    return math.fsum(present) / len(present) if present else None


def _cell(value: float | None) -> Cell:
    return Cell() if value is None else Cell(BY_NAME["P@5"].show(value), value)
