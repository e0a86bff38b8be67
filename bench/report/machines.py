"""Times are comparable within one environment only: tables and figures of several leave them out by default."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from bench.columns import COLUMNS
from bench.results.table import load_results

TIMES = tuple(column.name for column in COLUMNS if column.group == "time")


def on_one_machine(results: pd.DataFrame | Path, across: bool = False) -> pd.DataFrame:
    """Results (or the folder or table they are in) without the times of datasets timed in several environments.

    An environment (``env_id``) is a machine with its drivers, thread settings and versions. ``across``: keep all times.
    """
    df = load_results(results) if isinstance(results, Path) else results
    timed = df[df[[name for name in TIMES if name in df]].notna().any(axis=1)]
    several = timed.groupby("dataset")["env_id"].nunique(dropna=False)
    mixed = df["dataset"].isin(several[several > 1].index)
    return df if across or not mixed.any() else df.mask(_cells(df, mixed))


def machines_note(rows: Iterable[Mapping[str, Any]]) -> str:
    """A note for rows of several environments: their times are left out or not comparable; "" for one environment."""
    rows = list(rows)
    environments = sorted({str(row["env_id"]) for row in rows if row["status"] == "ok"})
    if len(environments) < 2:
        return ""
    measured = f"Measured in environments {', '.join(environments)}"
    if any(row.get(name) is not None for row in rows for name in TIMES):
        return f"{measured}: times are not comparable between them."
    return f"{measured}: times are left out, because they are not comparable; --across-machines shows them."


def _cells(df: pd.DataFrame, rows: pd.Series[bool]) -> pd.DataFrame:
    """True at the times of the given rows."""
    return pd.DataFrame({name: rows & (name in TIMES) for name in df.columns}, index=df.index)
