"""The figure ``learning_curves``: validation P@1 against training seconds, from ``runs/<run_id>/curve.csv``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from bench.common.errors import DataError
from bench.report.figures.drawing.labels import Label, label_ends
from bench.report.figures.drawing.machine import Machines
from bench.report.figures.drawing.panels import Curves, chosen, pareto, whole_and_top
from bench.report.figures.drawing.picture import Picture, context
from bench.report.figures.drawing.style import RC, Style
from bench.report.groups import Configuration
from bench.report.machines import machines_note
from bench.results.run_folder import COLUMNS, read_curve

TITLE = "P@1 on validation points against training time"
LOG_FROM = 8.0  # ratio of the longest to the shortest training beyond which the time axis is logarithmic


def draw(groups: Sequence[Configuration], machines: Machines, runs: Path, name: str = "learning_curves") -> Picture:
    """``groups``: the configurations of one dataset; ``runs``: the folder of run directories.

    Drawn are every seed of the best configuration (by test P@1) of each method without R and, for hashed methods, of
    the largest R of each B. No figure when no run kept a curve with a P@1.
    """
    rows: list[dict[str, Any]] = []
    drawn: list[tuple[str, Style, list[tuple[float, float]]]] = []
    used: dict[int, Configuration] = {}
    broken: list[str] = []
    for group, label, look in chosen(groups, Curves(groups)):
        for run in group.ok:
            path = runs / run["run_id"] / "curve.csv"
            if run["derived_from"] is not None or run["fit_s"] is None or not path.is_file():
                continue  # without fit_s: not comparable with the others, see `bench.report.machines`
            try:
                points = [r for r in read_curve(path) if _plottable(r)]
            except DataError:  # a damaged folder: the other curves are drawn
                broken.append(run["run_id"])
                continue
            if points:
                drawn.append((label, look, [(r["fit_s"], 100 * r["P@1"]) for r in points]))
                used[id(group)] = group
            identity = {"dataset": group.dataset, "method": group.method, "B": group.B, "R": group.R}
            rows += [
                {**identity, "run_id": run["run_id"], "seed": run["seed"], **{c: r[c] for c in COLUMNS}} for r in points
            ]
    if not drawn:
        apart = machines_note(row for group in groups for row in group.rows)
        reason = apart or "no finished run kept a readable learning curve with a P@1 (runs/*/curve.csv)"
        return Picture(name, TITLE, reason=reason)
    with matplotlib.rc_context(RC):
        figure, axes = whole_and_top([y for _, _, curve in drawn for _, y in curve])
        leading = _leading(drawn)
        last = [curve[-1][0] for _, _, curve in drawn]
        for ax in axes:
            for label, look, curve in drawn:
                _draw(ax, curve, look, label in leading)
            ax.set_ylabel("P@1 on validation points (%)")
        if max(last) > LOG_FROM * min(last) > 0:
            axes[-1].set_xscale("log")
            axes[-1].xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}" if x >= 1 else f"{x:g}"))
        else:
            axes[-1].set_xlim(left=0)
        axes[-1].set_xlabel("training time (s; the clock stops for evaluation)")
        ends = {label: Label(*curve[-1], label, look.color, look) for label, look, curve in drawn}
        for ax in axes:
            low, high = ax.get_ylim()
            label_ends(ax, [label for label in ends.values() if low <= label.y <= high])
    groups_note = (
        "Repetitions are trained in groups, one after the other (the csv names the group); P@1 is that of all "
        "repetitions so far, so a curve may dip while a new group starts to learn. "
        if any(row["repetitions"] for row in rows)
        else ""
    )
    absent = f"Left out, because their curve.csv cannot be read: {', '.join(broken)}. " if broken else ""
    how = "One line per run; markers are evaluations on the validation split. Bold: no other is better in less time."
    caption = f"{how} {absent}{groups_note}{context(used.values(), machines, 'one line each')}"
    return Picture(name, TITLE, caption, figure, rows)


def _draw(ax: Axes, curve: Sequence[tuple[float, float]], look: Style, bold: bool) -> None:
    width, alpha, size = (1.6, 1.0, 4.0) if bold else (1.0, 0.45, 3.0)
    ax.plot(
        *zip(*curve, strict=True),
        color=look.color,
        marker=look.marker,
        linestyle=look.line,
        markersize=size,
        linewidth=width,
        alpha=alpha,
        zorder=3 if bold else 2,
    )


def _leading(drawn: Sequence[tuple[str, Style, list[tuple[float, float]]]]) -> set[str]:
    """The labels whose curves end on the Pareto front of P@1 against training time."""
    return {drawn[i][0] for i in pareto([curve[-1] for _, _, curve in drawn])}


def _plottable(row: dict[str, Any]) -> bool:
    return all(row[name] is not None and math.isfinite(row[name]) for name in ("fit_s", "P@1"))
