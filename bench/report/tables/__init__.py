"""The tables of an experiment. To add one: a module with a function in this folder, and a line in `further_tables`.

Every experiment has ``quality`` (how good) and ``cost`` (how large, how slow), on the same rows. What tables share
(columns that identify a row, cells, notes) is in `bench.report.tables.parts`; `bench.common.text_table` writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bench.common.errors import unknown_name
from bench.common.text_table import FORMATS, Table, to_csv, write_each
from bench.report.against_best import AgainstBest
from bench.report.groups import grouped, shown_groups
from bench.report.tables.by_dataset import comparison_table
from bench.report.tables.by_frequency import decile_table, frequency_table
from bench.report.tables.cost import cost_table
from bench.report.tables.matched_budget import matched_tables
from bench.report.tables.parts import failure_notes
from bench.report.tables.quality import quality_table
from bench.report.tables.reproduction import reproduction_table
from bench.report.tables.tuning import tuning_table


def build_tables(df: pd.DataFrame, tested: AgainstBest | None = None) -> tuple[Table, Table]:
    """(quality, cost) of a frame from ``load_results``; see `bench.report.groups.shown_groups` for their rows.

    ``tested``: the tests over points (`bench.report.against_best.against_best`); None: no tests."""
    groups = grouped(df)
    rows = shown_groups(groups)
    failures = failure_notes(rows)
    return quality_table(rows, failures, tested or AgainstBest()), cost_table(rows, groups, failures)


def further_tables(df: pd.DataFrame, folder: Path, whole: bool = True) -> list[Table]:
    """Tables that only some experiments have; ``folder``: the results of the experiment. ``whole``: the frame has all
    of its rows; otherwise there is none of the table that is about the experiment as a whole."""
    found = [
        comparison_table(df, folder),  # several datasets
        *matched_tables(df, folder),  # methods that compare at equal budgets
        frequency_table(df),  # quality by label frequency was kept
        decile_table(df, folder),
        tuning_table(folder) if whole else None,  # settings were chosen on validation points
        reproduction_table(df, folder),  # published values to compare with
    ]
    return [table for table in found if table is not None]


def write_tables(
    df: pd.DataFrame, out_dir: Path | str, more: Sequence[Table] = (), tested: AgainstBest | None = None
) -> list[Path]:
    """Write ``quality``, ``cost`` and ``more`` into ``out_dir``, each as .md, .csv and .tex; returns the paths."""
    return write_each((*build_tables(df, tested), *more), out_dir)


def render_table(df: pd.DataFrame, format: str, more: Sequence[Table] = (), tested: AgainstBest | None = None) -> str:
    """All tables as text. ``format`` is md, latex or csv (one table: the same rows, quality then cost, and no more)."""
    if format not in FORMATS:
        raise unknown_name("table format", format, FORMATS)
    tables = (*build_tables(df, tested), *more)
    if format == "csv":
        return to_csv(_side_by_side(*tables[:2]))
    return "\n".join(FORMATS[format][1](table) for table in tables)


def _side_by_side(left: Table, right: Table) -> Table:
    """Two tables on the same rows as one, the shared first columns once."""
    names = [head.name for head in left.heads]
    new = [i for i, head in enumerate(right.heads) if head.name not in names]
    heads = left.heads + [right.heads[i] for i in new]
    rows = [a + [b[i] for i in new] for a, b in zip(left.rows, right.rows, strict=True)]
    return Table("table", left.title, heads, rows, sources=left.sources)
