"""The two tables of every experiment, quality (how good) and cost (how large, how slow), on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bench.common.errors import unknown_name
from bench.common.text_table import FORMATS, Table, to_csv, write_each
from bench.metrics.significance import LEVEL
from bench.report.against_best import METRICS as SHOWN_QUALITY
from bench.report.against_best import AgainstBest
from bench.report.groups import grouped, points_of, shown_groups
from bench.report.tables.by_dataset import comparison_table
from bench.report.tables.by_frequency import decile_table, frequency_table
from bench.report.tables.cost import cost_table
from bench.report.tables.matched_budget import matched_tables
from bench.report.tables.parts import (
    Shown,
    best_shown,
    enough_note,
    failure_notes,
    head,
    identity,
    leads,
    mean_cell,
    rules,
    run_ids,
    spread_note,
    title,
)
from bench.report.tables.reproduction import reproduction_table
from bench.report.tables.tuning import tuning_table

RANKED_PANEL, TAIL_PANEL = "P@k and nDCG@k", "PSP@k and minP@k"
ALIKE_MARK = "≈"


def write_tables(
    df: pd.DataFrame, out_dir: Path | str, more: Sequence[Table] = (), tested: AgainstBest | None = None
) -> list[Path]:
    """Write ``quality``, ``cost`` and ``more`` into ``out_dir``, each as .md, .csv and .tex; returns the paths."""
    return write_each((*build_tables(df, tested), *more), out_dir)


def further_tables(df: pd.DataFrame, folder: Path) -> list[Table]:
    """Tables that only some experiments have: ``comparison`` where there are several datasets, ``matched_*`` where
    methods compare at equal budgets, ``frequency`` and ``deciles`` where quality by label frequency was kept,
    ``tuning`` where settings were chosen, ``reproduction`` of a paper."""
    compared = comparison_table(df, folder), *matched_tables(df, folder)
    found = (*compared, frequency_table(df), decile_table(df, folder), tuning_table(folder))
    return [table for table in (*found, reproduction_table(df, folder)) if table is not None]


def render_table(df: pd.DataFrame, format: str, more: Sequence[Table] = (), tested: AgainstBest | None = None) -> str:
    """All tables as text. ``format`` is md, latex or csv (one table: the same rows, quality then cost, and no more)."""
    if format not in FORMATS:
        raise unknown_name("table format", format, FORMATS)
    tables = (*build_tables(df, tested), *more)
    if format == "csv":
        return to_csv(_side_by_side(*tables[:2]))
    return "\n".join(FORMATS[format][1](table) for table in tables)


def build_tables(df: pd.DataFrame, tested: AgainstBest | None = None) -> tuple[Table, Table]:
    """(quality, cost) of a frame from ``load_results``; see ``shown_groups`` for which rows they have.

    ``tested``: the tests over points (`bench.report.against_best.against_best`); without them the frame alone is told
    of."""
    groups = grouped(df)
    rows = shown_groups(groups)
    failures = failure_notes(rows)
    return _quality(rows, failures, tested or AgainstBest()), cost_table(rows, groups, failures)


def _quality(rows: Shown, failures: dict[int, tuple[str, str]], tested: AgainstBest) -> Table:
    heads, cells = identity(rows, failures)
    heads += [head(name, TAIL_PANEL if name.startswith(("PSP", "minP")) else RANKED_PANEL) for name in SHOWN_QUALITY]
    best = {
        (dataset, name): best_shown((group for group, _ in rows if group.dataset == dataset), name)
        for dataset in {group.dataset for group, _ in rows}
        for name in SHOWN_QUALITY
    }
    for (group, _), line in zip(rows, cells, strict=True):
        for name in SHOWN_QUALITY:
            stat, p = group.stat(name), tested.p.get((group.key, name))
            alike = ALIKE_MARK * (p is not None and p >= 1 - LEVEL)
            line.append(mean_cell(name, stat, leads(stat, name, best[(group.dataset, name)]), p, alike))
    points = points_of(group for group, _ in rows)
    notes = [("", f"{points.capitalize()}, per cent; the best of each column is bold, with its ties at two decimals.")]
    notes += [spread_note(group for group, _ in rows), *_prefix_notes(rows), *_test_notes(tested, points)]
    unseeded = dict.fromkeys(g.method for g, _ in rows if any(row.get("reproducible") == "no" for row in g.rows))
    if unseeded:
        notes.append(("", f"Not reproducible, because the library's randomness takes no seed: {', '.join(unseeded)}."))
    notes += enough_note(rows) + _settings_notes(rows) + list(failures.values())
    sources = [run_ids(group) for group, _ in rows]
    return Table("quality", title("Quality", rows), heads, cells, notes, rules(rows), sources)


def _prefix_notes(rows: Shown) -> list[tuple[str, str]]:
    """Which rows are not independent of each other."""
    if not any(row["derived_from"] is not None for group, _ in rows for row in group.ok):
        return []
    prefixes = "are the first R repetitions of the run at the largest R, so they are correlated with it"
    return [("", f"Rows for a smaller R of a B {prefixes} and with each other: they are not further evidence.")]


def _test_notes(tested: AgainstBest, points: str) -> list[tuple[str, str]]:
    notes = [("", f"Not tested over {points}: {reason}.") for reason in tested.untested]
    if tested.p:
        how = f"paired bootstrap over {points} of the mean of the seeds that both have, Holm's correction in a column"
        what = "what other points would change, not what other seeds would"
        notes.insert(0, (ALIKE_MARK, f"not told apart from the best of its column at 5 %: {how}. It says {what}."))
    return notes


def _settings_notes(rows: Shown) -> list[tuple[str, str]]:
    """One line of settings a method: the loss or the width can matter more than the method."""
    told: dict[str, dict[str, dict[str, None]]] = {}
    for group, _ in rows:
        for name, value in group.settings.items():
            if value is not None:
                told.setdefault(group.method, {}).setdefault(name, {})[str(value)] = None
    return [
        (
            "",
            f"Settings of {method}: " + "; ".join(f"{name} {', '.join(v)}" for name, v in settings.items()) + ".",
        )
        for method, settings in told.items()
    ]


def _side_by_side(left: Table, right: Table) -> Table:
    """Two tables on the same rows as one, the shared first columns once."""
    names = [head.name for head in left.heads]
    new = [i for i, head in enumerate(right.heads) if head.name not in names]
    heads = left.heads + [right.heads[i] for i in new]
    rows = [a + [b[i] for i in new] for a, b in zip(left.rows, right.rows, strict=True)]
    return Table("table", left.title, heads, rows, sources=left.sources)
