"""The best configuration of a method, for tables with one row per method: chosen on validation points if possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.common.errors import DataError
from bench.report.groups import Configuration
from bench.results.run_folder import read_curve

VALIDATION, EVALUATED, ONLY = "validation points", "evaluated points", "only one"


@dataclass(frozen=True)
class Choice:
    """``group`` is the best of ``of`` candidates; ``by``: validation points, evaluated points, or only one."""

    group: Configuration
    of: int
    by: str


class Validation:
    """P@1 on the validation points after training, from the learning curves in ``folder``/runs.

    ``groups``: all configurations of the table. Files are read once.
    """

    def __init__(self, folder: Path | None, groups: Sequence[Configuration]) -> None:
        self._folder = folder / "runs" if folder is not None else None
        self._runs = {row["run_id"]: row for group in groups for row in group.ok if row["derived_from"] is None}
        self._curves: dict[str, list[dict[str, Any]]] = {}

    def of(self, group: Configuration) -> float | None:
        """The mean over the runs of a configuration; None unless every one of them has a value.

        A row derived from a run by another decoder has none: a learning curve is about the run's own decoder.
        """
        values = [self._of_row(row, self._runs.get(row["derived_from"] or row["run_id"])) for row in group.ok]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known and len(known) == len(values) else None

    def _of_row(self, row: dict[str, Any], run: dict[str, Any] | None) -> float | None:
        if run is None or row["decoder"] != run["decoder"]:
            return None
        # A curve has a line per epoch for each group of repetitions that was trained together, such as 4-7, with the
        # quality of all repetitions so far; there is no value for an R within a group, nor one after fewer epochs.
        for line in self._curve(run["run_id"]):
            last = line["repetitions"].rpartition("-")[2]
            repetitions = int(last) + 1 if last.isdigit() else None
            if last and repetitions is None:
                continue
            if line["P@1"] is not None and line["epoch"] == row["epochs"] and repetitions in (None, row["R"]):
                return float(line["P@1"])
        return None

    def _curve(self, run_id: str) -> list[dict[str, Any]]:
        if run_id not in self._curves:
            path = self._folder / run_id / "curve.csv" if self._folder is not None else None
            try:
                self._curves[run_id] = read_curve(path) if path is not None and path.is_file() else []
            except DataError:  # a damaged folder, which every command reports: as if there were no curve
                self._curves[run_id] = []
        return self._curves[run_id]


def choose(candidates: Sequence[Configuration], validation: Validation) -> Choice | None:
    """The best of the candidates that have a P@1, by validation P@1 where at least one of them has it; else by the P@1
    of the table itself, which favours the method with more candidates. Of equals the first; None without candidates.
    """
    scored = [group for group in candidates if group.mean("P@1") is not None]
    if len(scored) < 2:
        return Choice(scored[0], 1, ONLY) if scored else None
    validated = [(value, group) for group in scored if (value := validation.of(group)) is not None]
    if validated:
        return Choice(max(validated, key=lambda pair: pair[0])[1], len(validated), VALIDATION)
    return Choice(max(scored, key=lambda group: group.mean("P@1") or 0.0), len(scored), EVALUATED)
