"""P@1 against what it costs in output parameters, bytes and peak memory: Pareto fronts, and what did not fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from bench.columns import MIB, OUT_OF_MEMORY
from bench.report.figures.drawing.labels import SIZE, Label, label_points
from bench.report.figures.drawing.machine import GIB, Machines, on_gpu
from bench.report.figures.drawing.panels import Curves, flat_groups, log_ticks, pareto, whole_and_top
from bench.report.figures.drawing.picture import Picture, context, trace
from bench.report.figures.drawing.style import GREY, INK, RC, VERMILLION, Style, styles
from bench.report.groups import Configuration, points_of
from bench.report.model_size import model_stat

FAR = 8.0  # a capacity this many times beyond the axis would leave the points no room


@dataclass(frozen=True)
class Size:
    """An axis: ``of`` gives a configuration's size in the file's unit, its failed runs' when asked for."""

    name: str
    title: str
    axis: str
    scale: float
    of: Callable[[Configuration, bool], float | None]
    told: str
    has_capacity: bool = True


def _parameters(group: Configuration, of_failed: bool) -> float | None:
    return group.mean("params_output", of_failed) or None  # no output layer: no place on a log axis


def _model(group: Configuration, of_failed: bool) -> float | None:
    stat = model_stat(group, of_failed)
    return stat.mean or None if stat else None


def _peak(group: Configuration, of_failed: bool) -> float | None:
    """The largest over seeds, of the memory that is scarce; for runs that did not fit, what was predicted.

    None where a method kept nothing on a GPU that was there to be used, as those that train no network.
    """
    gpu = on_gpu(group.rows)
    column = "peak_gpu_allocated_bytes" if gpu else "peak_host_bytes"
    stat = group.stat("predicted_peak_bytes", True) if of_failed else group.stat(column)
    return stat.high if stat and (stat.high >= MIB or not gpu) else None


SIZES = {
    "params_output": Size(
        "params_output",
        "P@1 against output parameters",
        "output parameters (millions, log scale)",
        1e-6,
        _parameters,
        "Input and hidden parameters are not in this picture: a method with R independent encoders has R of them "
        "(see the picture of the parameter split).",
        has_capacity=False,
    ),
    "model_bytes": Size(
        "model_bytes",
        "P@1 against the bytes of the model",
        "weights and label index, or model on disk (MiB, log scale)",
        1 / MIB,
        _model,
        "Bytes: all weights, input layers included, and the table from labels to buckets; for methods that keep their "
        "model as files, those. Training takes more: gradients, the optimiser's state and activations.",
    ),
    "peak_bytes": Size(
        "peak_bytes",
        "P@1 against peak memory",
        "peak memory of training and prediction (MiB, log scale)",
        1 / MIB,
        _peak,
        "Measured on whole runs, data and libraries included; a smaller R than was trained has no memory of its own.",
    ),
}


def draw(groups: Sequence[Configuration], machines: Machines, size: Size, name: str) -> Picture:
    """``groups``: the configurations of one dataset. Not drawn when none has a P@1 and that size."""
    placed = [(g, x) for g in groups if g.mean("P@1") is not None and (x := size.of(g, False))]
    if not placed:
        return Picture(name, size.title, reason=f"no finished run has both a P@1 and {size.axis.split(' (')[0]}")
    shown = [g for g, _ in placed]
    points = [(x * size.scale, 100 * (g.mean("P@1") or 0.0)) for g, x in placed]
    front = pareto(points)
    flats = flat_groups(groups)
    without = [g for g in flats if not size.of(g, False)]
    unfit, unplaced = _unfit(groups, size)
    capacities = _capacities(groups, machines) if size.has_capacity else {}
    curves = Curves(groups)
    look = _looks(groups, curves)
    heights = [y for _, y in points] + [100 * (g.mean("P@1") or 0.0) for g in without]
    place = {id(g): at for g, at in zip(shown, points, strict=True)}
    bold = [i for i, g in enumerate(shown) if i in front or g in flats]
    with matplotlib.rc_context(RC):
        figure, axes = whole_and_top(heights, right=0.97, main=[y for _, y in points])
        for ax in axes:
            for i, line in enumerate(curves.all):
                at = [place[id(g)] for g in line if id(g) in place]
                alpha = 0.45 if curves.bold(i) else 0.15
                ax.plot([x for x, _ in at], [y for _, y in at], color=curves.look[i].color, alpha=alpha, linewidth=0.8)
            _markers(ax, shown, points, set(bold), look)
            ax.plot(*zip(*(points[i] for i in front), strict=True), color=INK, linewidth=1.8, zorder=2.5)
            for group in without:
                ax.axhline(100 * (group.mean("P@1") or 0.0), color=look[id(group)].color, linestyle=(0, (1.2, 1.6)))
            _axis(ax, points_of(groups), [x for x, _ in points] + [x for _, x, _ in unfit])
        axes[-1].set_xlabel(size.axis)
        for _, x, _ in unfit:
            axes[0].plot(x, 1.0, "X", color=VERMILLION, ms=7, clip_on=False, transform=axes[0].get_xaxis_transform())
        lines = [
            label for what, (capacity, _) in capacities.items() if (label := _capacity(axes, size, what, capacity))
        ]
        for ax in axes:
            low, high = ax.get_ylim()
            labels = [replace(line, y=low + 0.06 * (high - low)) for line in lines]
            if ax is axes[0]:
                labels += [Label(x, high, text, VERMILLION) for text, x, _ in unfit]
            named = _labels(ax, shown, points, front, flats, without, look)
            below = axes[-1].get_ylim() if ax is not axes[-1] else None  # what the lower panel shows is named there
            labels += [replace(m, leader=below is None or not below[0] <= m.y <= below[1]) for m in named]
            levels = [100 * (g.mean("P@1") or 0.0) for g in without]
            along = [(float(x), y) for y in levels for x in np.geomspace(*ax.get_xlim(), 80)]
            kept_clear = [points[i] for i in bold] + along
            label_points(ax, labels, kept_clear, [bold.index(i) for i in front])
    rows = [_row(curves, g, size, x, i in front) for i, (g, x) in enumerate(placed)]
    rows += [_unfit_row(curves, g, size, x) for _, x, g in unfit]
    for capacity, env_id in capacities.values():
        rows.append({"dataset": groups[0].dataset, "kind": "capacity", size.name: capacity, "env_id": env_id})
    return Picture(name, size.title, _caption(size, shown, unfit, unplaced, capacities, machines), figure, rows)


def _unfit(groups: Sequence[Configuration], size: Size) -> tuple[list[tuple[str, float, Configuration]], list[str]]:
    """(label, place on the axis, configuration) of those that ran out of memory; names of those without a place."""
    placed, unplaced = [], []
    for group in groups:
        status = next((row["status"] for row in group.failed if row["status"] in OUT_OF_MEMORY), None)
        if status is None or group.ok:
            continue
        x = size.of(group, True)
        if x:
            placed.append((f"did not fit: {_named(group)}", x * size.scale, group))
        else:
            unplaced.append(_named(group))
    return placed, unplaced


def _capacities(groups: Sequence[Configuration], machines: Machines) -> dict[str, tuple[int, str]]:
    """(bytes, environment) of the largest memory that the runs had, by what has it in words."""
    found: dict[str, tuple[int, str]] = {}
    for group in groups:
        for row in group.rows:
            machine, gpu = machines.get(row["env_id"] or ""), on_gpu([row])
            capacity = machine.capacity(gpu) if machine else None
            what = "memory of the GPU" if gpu else "memory of the machine"
            if capacity and capacity > found.get(what, (0, ""))[0]:
                found[what] = capacity, row["env_id"]
    return found


def _capacity(axes: Sequence[Axes], size: Size, what: str, capacity: int) -> Label | None:
    """A dashed upright line at a capacity and its label, or only words at the right edge where it is far beyond."""
    x, text = capacity * size.scale, f"{what}: {capacity / GIB:.1f} GiB"
    if x > FAR * axes[0].get_xlim()[1]:
        axes[0].text(0.995, 0.04, f"{text} →", transform=axes[0].transAxes, ha="right", fontsize=SIZE - 0.5, color=INK)
        return None
    for ax in axes:
        ax.axvline(x, color=INK, linestyle=(0, (4, 3)), linewidth=1.0, zorder=1.5)
    return Label(x, 0.0, text, INK)


def _looks(groups: Sequence[Configuration], curves: Curves) -> dict[int, Style]:
    own = styles(g.method for g in groups)
    return {id(g): own[g.method] for g in groups} | {
        id(g): curves.look[i] for i, line in enumerate(curves.all) for g in line
    }


def _axis(ax: Axes, points: str, sizes: Sequence[float]) -> None:
    if min(sizes) == max(sizes):  # no limits can be found around one small number
        ax.set_xlim(min(sizes) / 2, 2 * min(sizes))
    ax.set_xscale("log")
    ax.margins(x=0.1)
    ax.set_ylabel(f"P@1 on {points} (%)")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}" if x >= 1 else f"{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    log_ticks(ax.xaxis)


def _markers(
    ax: Axes,
    shown: Sequence[Configuration],
    points: Sequence[tuple[float, float]],
    bold: set[int],
    look: dict[int, Style],
) -> None:
    """All points, those of one look in one go; the bold ones larger, in front, and opaque."""
    together: dict[tuple[Style, bool], list[tuple[float, float]]] = {}
    for i, group in enumerate(shown):
        together.setdefault((look[id(group)], i in bold), []).append(points[i])
    for (style, is_bold), at in together.items():
        size, alpha, order = (6.5, 1.0, 4) if is_bold else (3.0, 0.3, 3)
        xs, ys = zip(*at, strict=True)
        ax.plot(xs, ys, color=style.color, marker=style.marker, ms=size, alpha=alpha, linestyle="", zorder=order)


def _labels(
    ax: Axes,
    shown: Sequence[Configuration],
    points: Sequence[tuple[float, float]],
    front: Sequence[int],
    flats: Sequence[Configuration],
    without: Sequence[Configuration],
    look: dict[int, Style],
) -> list[Label]:
    """Methods without R, then along the front the points where one curve takes over from another, and the last."""
    labels = [Label(*points[i], g.method, look[id(g)].color) for i, g in enumerate(shown) if g in flats]
    for before, i in zip([None, *front], front, strict=False):
        changes = before is None or shown[before].line != shown[i].line
        if shown[i].hashed and (changes or i == front[-1]):
            labels.append(Label(*points[i], _named(shown[i]), look[id(shown[i])].color))
    left = ax.get_xlim()[0]
    return labels + [Label(left, 100 * (g.mean("P@1") or 0), f"{g.method} (no size told)", GREY) for g in without]


def _named(group: Configuration) -> str:
    size = [f"{name} = {value:,}" for name, value in (("B", group.B), ("R", group.R)) if value is not None]
    return " ".join([group.method, ", ".join(size)]).strip()


def _identity(curves: Curves, group: Configuration, kind: str) -> dict[str, Any]:
    settings = {name: group.settings[name] for name in curves.settings}
    return {"dataset": group.dataset, "kind": kind, "method": group.method, "B": group.B, **settings, "R": group.R}


def _row(curves: Curves, group: Configuration, size: Size, x: float, on_front: bool) -> dict[str, Any]:
    stat = group.stat("P@1")
    assert stat is not None
    return {
        **_identity(curves, group, "measured"),
        "n_seeds": stat.n,
        size.name: x,
        "P@1_percent_mean": 100 * stat.mean,
        "P@1_percent_min": 100 * stat.low,
        "P@1_percent_max": 100 * stat.high,
        "on_front": on_front,
        **trace([group]),
    }


def _unfit_row(curves: Curves, group: Configuration, size: Size, x: float) -> dict[str, Any]:
    return {**_identity(curves, group, "out of memory"), size.name: x / size.scale, **trace([group], of_failed=True)}


def _caption(
    size: Size,
    shown: Sequence[Configuration],
    unfit: Sequence[Any],
    unplaced: Sequence[str],
    capacities: dict[str, tuple[int, str]],
    machines: Machines,
) -> str:
    front = "Bold line: the Pareto front, where nothing as small has a higher P@1; the settings behind it are faint."
    crosses = (
        "Crosses on the upper edge: runs without a result for want of memory, at the size known of them beforehand."
    )
    told = [front, size.told]
    if capacities:
        told.append("Dashed upright line (an arrow where it is far beyond the axis): the memory of the machine.")
    if unfit:
        told.append(crosses)
    if unplaced:
        told.append(f"Did not fit either, at a size that is not known: {'; '.join(unplaced)}.")
    return f"{' '.join(told)} {context(shown, machines, 'means; the csv has the smallest and the largest')}"
