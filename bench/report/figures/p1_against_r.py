"""The figure ``p1_against_r``: one curve for each B, the methods without R as horizontal lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import matplotlib
from matplotlib.axes import Axes

from bench.report.figures.drawing.labels import Label, label_ends
from bench.report.figures.drawing.machine import Machines
from bench.report.figures.drawing.panels import Curves, draw_band, draw_curve, flat_groups, whole_and_top, whole_r
from bench.report.figures.drawing.picture import Picture, context, trace
from bench.report.figures.drawing.style import RC, Style, styles
from bench.report.groups import Configuration, Stat, points_of

TITLE = "P@1 against the number of repetitions R"


def draw(groups: Sequence[Configuration], machines: Machines, name: str = "p1_against_r") -> Picture:
    """``groups``: the configurations of one dataset. Not drawn without a hashed method that has a P@1."""
    curves = Curves(groups)
    if not curves.all:
        return Picture(name, TITLE, reason="no finished run of a method with B and R")
    flats = flat_groups(groups)
    shown = [group for line in curves.all for group in line] + flats
    values = [100 * (group.mean("P@1") or 0.0) for group in shown]
    looks = styles(group.method for group in groups)
    with matplotlib.rc_context(RC):
        figure, axes = whole_and_top(values, main=values[: len(shown) - len(flats)])
        rows: list[dict[str, Any]] = []
        for i, line in enumerate(curves.all):
            rows += [_row(curves.identity(i), group) for group in line]
        rows += [_row({"dataset": g.dataset, "method": g.method, "B": None}, g) for g in flats]
        for ax in axes:
            _draw(ax, curves, flats, looks)
            ax.set_ylabel(f"P@1 on {points_of(groups)} (%)")
        axes[-1].set_xlabel("R, repetitions")
        whole_r(axes[-1])
        for ax in axes:
            label_ends(ax, _labels(ax, curves, flats, looks))
    derived = any(row["derived_from"] is not None for group in shown for row in group.ok)
    prefix = (
        "; a smaller R is the first R repetitions of the model at the largest, so points of a curve are correlated"
        if derived
        else ""
    )
    caption = f"One curve for each number of buckets B{prefix}. Horizontal lines: methods without R."
    return Picture(name, TITLE, f"{caption} {context(shown, machines)}", figure, rows)


def _draw(ax: Axes, curves: Curves, flats: Sequence[Configuration], looks: dict[str, Style]) -> None:
    for i, line in enumerate(curves.all):
        stats = [_stat(group) for group in line]
        at = [group.R or 0 for group in line]
        draw_curve(ax, at, [100 * s.mean for s in stats], curves.look[i], curves.bold(i))
        if curves.bold(i):
            draw_band(ax, at, [100 * s.low for s in stats], [100 * s.high for s in stats], curves.look[i])
    for group in flats:
        stat, look = _stat(group), looks[group.method]
        ax.axhline(100 * stat.mean, color=look.color, linestyle=look.line, linewidth=1.4)
        if stat.high > stat.low:
            ax.axhspan(100 * stat.low, 100 * stat.high, color=look.color, alpha=0.12, linewidth=0)


def _labels(ax: Axes, curves: Curves, flats: Sequence[Configuration], looks: dict[str, Style]) -> list[Label]:
    low, high = ax.get_ylim()
    right = ax.get_xlim()[1]
    found = []
    for i, line in enumerate(curves.all):
        if curves.bold(i):
            found.append(
                Label(
                    line[-1].R or 0, 100 * _stat(line[-1]).mean, curves.label(i), curves.look[i].color, curves.look[i]
                )
            )
    for group in flats:
        found.append(
            Label(
                right,
                100 * _stat(group).mean,
                group.method,
                looks[group.method].color,
                replace(looks[group.method], marker=""),
            )
        )
    return [label for label in found if low <= label.y <= high]


def _stat(group: Configuration) -> Stat:
    stat = group.stat("P@1")
    assert stat is not None
    return stat


def _row(identity: dict[str, Any], group: Configuration) -> dict[str, Any]:
    stat = _stat(group)
    percent = {"P@1_percent_mean": 100 * stat.mean, "P@1_percent_min": 100 * stat.low}
    return {
        **identity,
        "R": group.R,
        "n_seeds": stat.n,
        **percent,
        "P@1_percent_max": 100 * stat.high,
        **trace([group]),
    }
