"""Learning curves: validation P@1 against training seconds, from ``runs/<run_id>/curve.csv``."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

from bench.errors import DataError
from bench.figures.labels import SIZE
from bench.figures.panels import Curves, flat_groups, stack
from bench.figures.picture import Picture, context
from bench.figures.style import RC, Style, styles
from bench.machines import machines_note
from bench.summary import Group

TITLE = "P@1 on validation points against training time"
COLUMNS = ("epoch", "fit_s", "train_loss", "P@1", "repetitions")


def read_curve(path: Path) -> list[dict[str, Any]]:
    """The rows of one ``curve.csv``; P@1 None where not evaluated (a run that never was has no such column),
    repetitions "" or a group such as "0-3".

    Raises DataError naming file and line when a column is missing or a value is no number.
    """
    rows = []
    with path.open(encoding="utf-8", newline="") as f:
        reader = csv.DictReader(f)
        absent = [name for name in COLUMNS if name not in (reader.fieldnames or []) and name != "P@1"]
        if absent:
            raise DataError(path, 1, f"no column {absent[0]!r}", f"columns {', '.join(COLUMNS)}")
        for record in reader:
            row: dict[str, Any] = {"repetitions": record["repetitions"] or ""}
            for name in COLUMNS[:-1]:
                try:
                    row[name] = float(record[name]) if record.get(name) else None
                except ValueError:
                    found = f"{record[name]!r} in column {name!r}"
                    raise DataError(path, reader.line_num, found, "a number or nothing") from None
            rows.append(row)
    return rows


def draw(groups: Sequence[Group], runs: Path, name: str = "learning_curves") -> Picture:
    """``groups``: the configurations of one dataset; ``runs``: the folder of run directories.

    Drawn are the best configuration (by test P@1) of each method without R and, of hashed ones, of each B:
    every seed of the largest R. Not drawn when no run kept a curve with a P@1.
    """
    curves, looks = Curves(groups), styles(g.method for g in groups)
    chosen = [(g, g.method, looks[g.method]) for g in flat_groups(groups)]
    chosen += [(line[-1], curves.label(i), curves.look[i]) for i, line in enumerate(curves.all) if curves.bold(i)]
    rows: list[dict[str, Any]] = []
    drawn: list[tuple[str, Style, list[tuple[float, float]]]] = []
    used: dict[int, Group] = {}
    for group, label, look in chosen:
        for run in group.ok:
            path = runs / run["run_id"] / "curve.csv"
            if run["derived_from"] is not None or run["fit_s"] is None or not path.is_file():
                continue  # without fit_s: not comparable with the others, see `bench.machines`
            points = [r for r in read_curve(path) if _plottable(r)]
            if points:
                drawn.append((label, look, [(r["fit_s"], 100 * r["P@1"]) for r in points]))
                used[id(group)] = group
            identity = {"dataset": group.dataset, "method": group.method, "B": group.B, "R": group.R}
            rows += [
                {**identity, "run_id": run["run_id"], "seed": run["seed"], **{c: r[c] for c in COLUMNS}} for r in points
            ]
    if not drawn:
        apart = machines_note(row for group in groups for row in group.rows)
        reason = apart or "no finished run kept a learning curve with a P@1 (runs/*/curve.csv)"
        return Picture(name, TITLE, reason=reason)
    with matplotlib.rc_context(RC):
        figure, (ax,) = stack([3.6], right=0.74)
        for _, look, curve in drawn:
            xs, ys = zip(*curve, strict=True)
            color, marker = look.color, look.marker
            ax.plot(xs, ys, color=color, marker=marker, linestyle=look.line, markersize=3, linewidth=1.1)
        ax.set_ylim(bottom=0)
        ax.set_xlim(left=0)
        ax.set_xlabel("training time (s; the clock stops for evaluation)")
        ax.set_ylabel("P@1 on validation points (%)")
        for label, look in {label: look for label, look, _ in drawn}.items():
            ax.plot([], [], color=look.color, marker=look.marker, linestyle=look.line, markersize=3.5, label=label)
        ax.legend(frameon=False, fontsize=SIZE, loc="center left", bbox_to_anchor=(1.02, 0.5))
    groups_told = (
        "Repetitions are trained in groups, one after the other (which one is in the csv); P@1 is that of all "
        "repetitions so far, so a curve may dip while a new group starts to learn. "
        if any(row["repetitions"] for row in rows)
        else ""
    )
    how = "One line a run; markers are evaluations on the validation split."
    return Picture(name, TITLE, f"{how} {groups_told}{context(used.values(), 'one line each')}", figure, rows)


def _plottable(row: dict[str, Any]) -> bool:
    return all(row[name] is not None and math.isfinite(row[name]) for name in ("fit_s", "P@1"))
