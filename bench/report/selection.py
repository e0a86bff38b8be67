"""The rows of table.csv that tables, figures and report show: all that can be read, or those that are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bench.common.errors import InputError
from bench.config.conditions import Condition, check_conditions, hold
from bench.report.groups import records
from bench.report.machines import on_one_machine
from bench.results.left_out.damage import lost_runs
from bench.results.table import load_results

SELECTED = "selected"  # in an experiment's folder: figures and report of a selection, which leave the others alone


@dataclass(frozen=True)
class Selection:
    """Rows for which all conditions hold, of ``runs`` (None: of all). ``options``: as given on the command line."""

    conditions: Sequence[Condition] = ()
    runs: frozenset[str] | None = None
    options: str = ""

    def of(self, df: pd.DataFrame) -> pd.DataFrame:
        """The chosen rows. InputError for a key that is no column, and where no row is left."""
        check_conditions(self.conditions, map(str, df.columns))
        keep = [hold(self.conditions, row) and (self.runs is None or _run(row) in self.runs) for row in records(df)]
        if not any(keep):
            raise InputError(f"{self.options}: found none of {len(df)} rows; expected at least one")
        return df[pd.Series(keep, index=df.index, dtype=bool)].reset_index(drop=True)

    def words(self, df: pd.DataFrame) -> str:
        """How many rows of a table are shown, and which."""
        shown = len(self.of(df))
        return f"{shown} of {len(df)} rows: {self.options}; {len(df) - shown} left out"


def read_rows(folder: Path, across_machines: bool = False, selection: Selection | None = None) -> pd.DataFrame:
    """The rows of an experiment's table but those of runs that cannot be read; times as in `bench.report.machines`."""
    df = readable_rows(folder)
    return on_one_machine(df if selection is None else selection.of(df), across_machines)


def readable_rows(folder: Path) -> pd.DataFrame:
    """The table of an experiment without the rows of runs whose folder is damaged."""
    df = load_results(folder)
    lost = lost_runs(folder / "runs")
    return df[~df["derived_from"].fillna(df["run_id"]).isin(lost)].reset_index(drop=True) if lost else df


def _run(row: dict[str, object]) -> str:
    return str(row["derived_from"] or row["run_id"])
