"""P@1 against the number of output parameters, with the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from bench.figures.labels import Label, label_points
from bench.figures.panels import NEAR, ZOOM_FROM, Curves, flat_groups, stack
from bench.figures.picture import Picture, context
from bench.figures.style import GREY, INK, RC, Style, styles
from bench.summary import Group, points_of

TITLE = "P@1 against output parameters"


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (cost, quality) that no other beats (none as cheap is better), cheapest first."""
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[i][1] > points[front[-1]][1]:
            front.append(i)
    return front


def draw(groups: Sequence[Group], name: str = "p1_against_output_parameters") -> Picture:
    """``groups``: the configurations of one dataset. Not drawn when none has a P@1 and output parameters."""
    shown = [g for g in groups if g.mean("P@1") is not None and g.mean("params_output")]
    if not shown:
        return Picture(name, TITLE, reason="no finished run has both a P@1 and output parameters")
    points = [(g.mean("params_output") or 0.0, 100 * (g.mean("P@1") or 0.0)) for g in shown]
    front = pareto(points)
    flats = flat_groups(groups)
    without = [g for g in flats if not g.mean("params_output")]
    place = {id(g): i for i, g in enumerate(shown)}
    looks, curves = styles(g.method for g in groups), Curves(groups)
    look = {id(g): curves.look[i] for i, line in enumerate(curves.all) for g in line}
    best_flat = {id(g) for g in flats}
    together: dict[tuple[Style, bool], list[tuple[float, float]]] = {}
    for i, group in enumerate(shown):
        bold = i in front or id(group) in best_flat
        together.setdefault((look.get(id(group), looks[group.method]), bold), []).append(points[i])
    heights = [y for _, y in points]
    lowest = min([*heights, *(100 * (g.mean("P@1") or 0.0) for g in without)])
    zoom = max(heights) - lowest > ZOOM_FROM
    with matplotlib.rc_context(RC):
        figure, axes = stack([2.6, 2.8] if zoom else [3.4], right=0.97)
        for ax in axes:
            for line in curves.all:
                xs = [points[place[id(g)]][0] for g in line if id(g) in place]
                ys = [points[place[id(g)]][1] for g in line if id(g) in place]
                ax.plot(xs, ys, color=look[id(line[0])].color, alpha=0.35, linewidth=0.9)
            for (style, bold), at in together.items():
                _markers(ax, at, style, bold)
            ax.plot(*zip(*(points[i] for i in front), strict=True), color=INK, linewidth=1.8, zorder=2.5)
            for group in without:
                ax.axhline(
                    100 * (group.mean("P@1") or 0.0),
                    color=looks[group.method].color,
                    linestyle=(0, (1.2, 1.6)),
                )
            ax.set_xscale("log")
            ax.margins(x=0.1)
            ax.set_ylabel(f"P@1 on {points_of(groups)} (%)")
            ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1e6:g}"))
            ax.xaxis.set_minor_formatter(NullFormatter())
        axes[0].set_ylim(0, max(heights) * 1.1)
        if zoom:
            axes[0].set_title("Whole scale")
            axes[0].tick_params(labelbottom=False)
            axes[1].set_title(f"The top {NEAR:g} points of the same scale")
            axes[1].set_ylim(max(heights) - NEAR, max(heights) + 1.2)
        axes[-1].set_xlabel("output parameters (millions, log scale)")
        for ax in axes:
            labels = [Label(*points[place[id(g)]], g.method, looks[g.method].color) for g in flats if id(g) in place]
            labels += _front_labels(shown, points, front, look)
            left = ax.get_xlim()[0]
            labels += [Label(left, 100 * (g.mean("P@1") or 0), f"{g.method} (no output layer)", GREY) for g in without]
            label_points(ax, labels, points, front)
    rows = [_row(curves, g, i in front) for i, g in enumerate(shown)]
    told = context(shown, "means; the csv has the smallest and the largest")
    caption = (
        "Bold line: the Pareto front, where no setting with as few output parameters has a higher P@1; the "
        "hashed settings behind it are faint. Input and hidden parameters are not in this picture: a method "
        f"with R independent encoders has R of them (see the cost table). {told}"
    )
    return Picture(name, TITLE, caption, figure, rows)


def _markers(ax: Axes, points: Sequence[tuple[float, float]], style: Style, bold: bool) -> None:
    size, alpha, order = (6.5, 1.0, 4) if bold else (4.0, 0.4, 3)
    xs, ys = zip(*points, strict=True)
    ax.plot(xs, ys, color=style.color, marker=style.marker, ms=size, alpha=alpha, linestyle="", zorder=order)


def _front_labels(
    shown: Sequence[Group],
    points: Sequence[tuple[float, float]],
    front: Sequence[int],
    look: dict[int, Style],
) -> list[Label]:
    """Along the front, the hashed points where one curve takes over from another, and the last one."""
    labels = []
    for before, i in zip([None, *front], front, strict=False):
        group = shown[i]
        changes = before is None or shown[before].line != group.line
        if group.hashed and (changes or i == front[-1]):
            labels.append(Label(*points[i], f"{group.method} B = {group.B:,}, R = {group.R}", look[id(group)].color))
    return labels


def _row(curves: Curves, group: Group, on_front: bool) -> dict[str, Any]:
    stat = group.stat("P@1")
    assert stat is not None
    return {
        "dataset": group.dataset,
        "method": group.method,
        "B": group.B,
        **{name: group.settings[name] for name in curves.settings},
        "R": group.R,
        "n_seeds": stat.n,
        "params_output": group.mean("params_output"),
        "P@1_percent_mean": 100 * stat.mean,
        "P@1_percent_min": 100 * stat.low,
        "P@1_percent_max": 100 * stat.high,
        "on_front": on_front,
    }
