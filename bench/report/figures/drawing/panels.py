"""Panels above each other, curves over R, horizontal lines for methods without R."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from bench.report.figures.drawing.style import RC, WIDTH_IN, Style, for_bucket_count, styles
from bench.report.groups import Configuration, lines, varying

NEAR = 10.0  # per cent points: the height of the panel that shows the top of the scale
ZOOM_FROM = 20.0


def stack(heights: Sequence[float], right: float = 0.74, sharex: bool = True) -> tuple[Figure, list[Axes]]:
    """Panels above each other, heights in inches, with room at the right for direct labels."""
    gap, top, bottom = 0.42, 0.3, 0.5
    total = sum(heights) + gap * (len(heights) - 1) + top + bottom
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(WIDTH_IN, total), dpi=100)
        axes: list[Axes] = []
        above = top
        for height in heights:
            box = (0.12, 1 - (above + height) / total, right - 0.12, height / total)
            axes.append(figure.add_axes(box, sharex=axes[0] if axes and sharex else None))
            above += height + gap
    return figure, axes


def whole_and_top(
    values: Sequence[float], right: float = 0.74, main: Sequence[float] | None = None
) -> tuple[Figure, list[Axes]]:
    """Axes for percentages: the whole scale and, where they spread widely, below it the top of the same scale.

    ``main``: the values that are not level lines; where only level lines are at the top of the scale, the second panel
    shows the top of ``main``.
    """
    top, title = max(values), f"The top {NEAR:g} points of the same scale"
    if main and max(main) < top - NEAR / 2:
        top, title = max(main), f"The {NEAR:g} points below the best that is not a level line"
    if max(values) - min(values) <= ZOOM_FROM:
        figure, axes = stack([3.4], right)
    else:
        figure, axes = stack([2.6, 2.8], right)
        axes[0].set_title("Whole scale")
        axes[0].tick_params(labelbottom=False)
        axes[1].set_title(title)
        axes[1].set_ylim(top - NEAR, top + 0.1 * NEAR)
    axes[0].set_ylim(0, max(values) * 1.15 or 1.0)  # an axis from 0 also where all values are 0
    return figure, axes


class Curves:
    """The curves over R of the hashed methods on one dataset, each with a label and the style of its method and B.

    Of several settings of one method and B (such as learning rates), the one with the highest P@1 is ``bold``;
    the others are drawn faint and without a label.
    """

    def __init__(self, groups: Sequence[Configuration]) -> None:
        looks = styles(group.method for group in groups)
        self.all = lines(groups)
        best: dict[tuple[str, int | None], tuple[float, int]] = {}
        for i, line in enumerate(self.all):
            top = max(group.mean("P@1") or 0.0 for group in line)
            key = (line[0].method, line[0].B)
            if key not in best or top > best[key][0]:
                best[key] = (top, i)
        self._bold = {i for _, i in best.values()}
        self.look: list[Style] = []
        for line in self.all:
            sizes = sorted({other[0].B or 0 for other in self.all if other[0].method == line[0].method})
            rank = sizes.index(line[0].B or 0)
            self.look.append(for_bucket_count(looks[line[0].method], rank, len(sizes)))
        self.settings = varying(group for line in self.all for group in line)

    def bold(self, i: int) -> bool:
        return i in self._bold

    def label(self, i: int) -> str:
        group = self.all[i][0]
        return f"{group.method} B = {group.B:,}"

    def identity(self, i: int) -> dict[str, Any]:
        """The columns that identify curve ``i`` in the csv of a figure."""
        group = self.all[i][0]
        settings = {name: group.settings[name] for name in self.settings}
        return {"dataset": group.dataset, "method": group.method, "B": group.B, **settings}


def draw_curve(ax: Axes, xs: Sequence[float], mids: Sequence[float], look: Style, bold: bool = True) -> None:
    ax.plot(
        xs,
        mids,
        color=look.color,
        marker=look.marker if bold else "",
        linestyle=look.line,
        alpha=1.0 if bold else 0.3,
        linewidth=None if bold else 0.9,
        zorder=3 if bold else 2,
    )


def draw_band(ax: Axes, xs: Sequence[float], lows: Sequence[float], highs: Sequence[float], look: Style) -> None:
    if any(high > low for low, high in zip(lows, highs, strict=True)):
        ax.fill_between(xs, lows, highs, color=look.color, alpha=0.18, linewidth=0, zorder=1)


def log_ticks(axis: Axis) -> None:
    """More numbers on a log axis of less than two decades, which has few powers of ten or none."""
    low, high = axis.get_view_interval()
    decades = math.log10(high / low)
    if decades < 2:
        few: Sequence[float] = (1.0, 2.0, 3.0, 4.0, 5.0, 7.0) if decades > 0.4 else range(1, 10)
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades > 0.7 else few))


def whole_r(ax: Axes) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=9))
    ax.margins(x=0.03)
    ax.set_xlim(left=max(0.5, ax.get_xlim()[0]))


def flat_groups(groups: Sequence[Configuration]) -> list[Configuration]:
    """The best configuration (by P@1) of each method that has no R: one horizontal line each."""
    best: dict[str, Configuration] = {}
    for group in groups:
        value = group.mean("P@1")
        if not group.hashed and value is not None and value > (_p1(best.get(group.method)) or -1.0):
            best[group.method] = group
    return list(best.values())


def chosen(groups: Sequence[Configuration], curves: Curves) -> list[tuple[Configuration, str, Style]]:
    """The configurations that represent a method, each with label and style: the best configuration of a method without
    R; for a hashed method, for each B, the largest R of its best settings."""
    looks = styles(group.method for group in groups)
    found = [(group, group.method, looks[group.method]) for group in flat_groups(groups)]
    found += [(line[-1], curves.label(i), curves.look[i]) for i, line in enumerate(curves.all) if curves.bold(i)]
    return found


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, quality) on the Pareto front: no point of the same cost or less is better; cheapest
    first."""
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[i][1] > points[front[-1]][1]:
            front.append(i)
    return front


def _p1(group: Configuration | None) -> float | None:
    return None if group is None else group.mean("P@1")
