"""The figures ``p1_against_output_parameters``, ``_bytes`` and ``_peak_memory``: Pareto fronts and failures."""

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

FAR = 8.0  # a capacity this many times beyond the axis would leave no room for the points


@dataclass(frozen=True)
class Size:
    """An axis: ``of`` gives the size of a configuration (or of its failed runs) in the unit of the file."""

    name: str
    title: str
    axis: str
    scale: float
    of: Callable[[Configuration, bool], float | None]
    note: str  # what the size includes, for the caption
    has_capacity: bool = True


def _parameters(group: Configuration, of_failed: bool) -> float | None:
    return group.mean("params_output", of_failed) or None  # no output layer: no position on a log axis


def _model(group: Configuration, of_failed: bool) -> float | None:
    stat = model_stat(group, of_failed)
    return stat.mean or None if stat else None


def _peak(group: Configuration, of_failed: bool) -> float | None:
    """The largest peak over seeds, of the GPU where runs used one; for runs that did not fit, the prediction.

    None where a method kept nothing on the GPU, such as methods that train no network.
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
        "Input and hidden parameters are not in this figure: a method with R independent encoders has R times as many "
        "(see the figure of the parameter split).",
        has_capacity=False,
    ),
    "model_bytes": Size(
        "model_bytes",
        "P@1 against the bytes of the model",
        "weights and label index, or model on disk (MiB, log scale)",
        1 / MIB,
        _model,
        "Bytes: all weights, input layers included, and the table from labels to buckets; for methods that keep their "
        "model as files, the files. Training takes more: gradients, the optimiser's state and activations.",
    ),
    "peak_bytes": Size(
        "peak_bytes",
        "P@1 against peak memory",
        "peak memory of training and prediction (MiB, log scale)",
        1 / MIB,
        _peak,
        "Measured on whole runs, data and libraries included; no memory is measured for an R below the trained one.",
    ),
}


def draw(groups: Sequence[Configuration], machines: Machines, size: Size, name: str) -> Picture:
    """``groups``: the configurations of one dataset. Not drawn when none has a P@1 and that size."""
    scatter = _scatter(groups, size)
    if not scatter.shown:
        return Picture(name, size.title, reason=f"no finished run has both a P@1 and {size.axis.split(' (')[0]}")
    unfit, unknown = _unfit(groups, size)
    capacities = _capacities(groups, machines) if size.has_capacity else {}
    heights = [y for _, y in scatter.points] + scatter.levels
    with matplotlib.rc_context(RC):
        figure, axes = whole_and_top(heights, right=0.97, main=[y for _, y in scatter.points])
        for ax in axes:
            _draw(ax, scatter)
            _axis(ax, points_of(groups), [x for x, _ in scatter.points] + [x for _, x, _ in unfit])
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
            below = axes[-1].get_ylim() if ax is not axes[-1] else None  # points of the lower panel have labels there
            own = _labels(ax, scatter)
            labels += [replace(label, leader=below is None or not below[0] <= label.y <= below[1]) for label in own]
            along = [(float(x), y) for y in scatter.levels for x in np.geomspace(*ax.get_xlim(), 80)]
            not_covered = [scatter.points[i] for i in scatter.bold] + along
            label_points(ax, labels, not_covered, [scatter.bold.index(i) for i in scatter.front])
    curves = scatter.curves
    measured = zip(scatter.shown, scatter.sizes, strict=True)
    rows = [_row(curves, group, size, x, i in scatter.front) for i, (group, x) in enumerate(measured)]
    rows += [_unfit_row(curves, g, size, x) for _, x, g in unfit]
    for capacity, env_id in capacities.values():
        rows.append({"dataset": groups[0].dataset, "kind": "capacity", size.name: capacity, "env_id": env_id})
    sentences = _sentences(size, unfit, unknown, bool(capacities))
    caption = context(scatter.shown, machines, "means; the csv has the smallest and the largest")
    return Picture(name, size.title, " ".join([*sentences, caption]), figure, rows)


@dataclass(frozen=True)
class Scatter:
    """``points[i]`` is (size as shown, P@1 in per cent) of ``shown[i]``, ``sizes[i]`` its size in the unit of the file.

    ``front``: indices of the Pareto front, smallest size first. ``flats``: the best configuration of each method
    without R; those ``without`` a size are level lines. ``look``: the style of each configuration, by id.
    """

    curves: Curves
    shown: list[Configuration]
    sizes: list[float]
    points: list[tuple[float, float]]
    front: list[int]
    flats: list[Configuration]
    without: list[Configuration]
    look: dict[int, Style]

    @property
    def bold(self) -> list[int]:
        """Indices of the points on the front and of the methods without R."""
        return [i for i, group in enumerate(self.shown) if i in self.front or group in self.flats]

    @property
    def levels(self) -> list[float]:
        """P@1 in per cent of each configuration ``without`` a size."""
        return [100 * (group.mean("P@1") or 0.0) for group in self.without]


def _scatter(groups: Sequence[Configuration], size: Size) -> Scatter:
    placed = [(g, x) for g in groups if g.mean("P@1") is not None and (x := size.of(g, False))]
    points = [(x * size.scale, 100 * (g.mean("P@1") or 0.0)) for g, x in placed]
    flats, curves = flat_groups(groups), Curves(groups)
    without = [g for g in flats if not size.of(g, False)]
    return Scatter(
        curves=curves,
        shown=[g for g, _ in placed],
        sizes=[x for _, x in placed],
        points=points,
        front=pareto(points),
        flats=flats,
        without=without,
        look=_looks(groups, curves),
    )


def _draw(ax: Axes, scatter: Scatter) -> None:
    """Faint curves over R, all markers, the bold front, and level lines."""
    at_point = {id(g): point for g, point in zip(scatter.shown, scatter.points, strict=True)}
    for i, line in enumerate(scatter.curves.all):
        at = [at_point[id(g)] for g in line if id(g) in at_point]
        alpha, color = 0.45 if scatter.curves.bold(i) else 0.15, scatter.curves.look[i].color
        ax.plot([x for x, _ in at], [y for _, y in at], color=color, alpha=alpha, linewidth=0.8)
    _markers(ax, scatter)
    ax.plot(*zip(*(scatter.points[i] for i in scatter.front), strict=True), color=INK, linewidth=1.8, zorder=2.5)
    for group, level in zip(scatter.without, scatter.levels, strict=True):
        ax.axhline(level, color=scatter.look[id(group)].color, linestyle=(0, (1.2, 1.6)))


def _unfit(groups: Sequence[Configuration], size: Size) -> tuple[list[tuple[str, float, Configuration]], list[str]]:
    """(label, position on the axis, configuration) of those that ran out of memory; names of those of unknown size."""
    known, unknown = [], []
    for group in groups:
        status = next((row["status"] for row in group.failed if row["status"] in OUT_OF_MEMORY), None)
        if status is None or group.ok:
            continue
        x = size.of(group, True)
        if x:
            known.append((f"did not fit: {_named(group)}", x * size.scale, group))
        else:
            unknown.append(_named(group))
    return known, unknown


def _capacities(groups: Sequence[Configuration], machines: Machines) -> dict[str, tuple[int, str]]:
    """(bytes, environment) of the largest memory of the machines and of the GPUs of the runs, by its name in words."""
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
    """A dashed vertical line at a capacity and its label, or only words at the right edge where it is far beyond."""
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


def _markers(ax: Axes, scatter: Scatter) -> None:
    """All points, one call per style; the bold ones larger, in front, and opaque."""
    together: dict[tuple[Style, bool], list[tuple[float, float]]] = {}
    bold = set(scatter.bold)
    for i, group in enumerate(scatter.shown):
        together.setdefault((scatter.look[id(group)], i in bold), []).append(scatter.points[i])
    for (style, is_bold), at in together.items():
        size, alpha, order = (6.5, 1.0, 4) if is_bold else (3.0, 0.3, 3)
        xs, ys = zip(*at, strict=True)
        ax.plot(xs, ys, color=style.color, marker=style.marker, ms=size, alpha=alpha, linestyle="", zorder=order)


def _labels(ax: Axes, scatter: Scatter) -> list[Label]:
    """Methods without R, then along the front the first point of each curve, and the last point."""
    shown, points, front, look = scatter.shown, scatter.points, scatter.front, scatter.look
    labels = [Label(*points[i], g.method, look[id(g)].color) for i, g in enumerate(shown) if g in scatter.flats]
    for before, i in zip([None, *front], front, strict=False):
        changes = before is None or shown[before].line != shown[i].line
        if shown[i].hashed and (changes or i == front[-1]):
            labels.append(Label(*points[i], _named(shown[i]), look[id(shown[i])].color))
    left = ax.get_xlim()[0]
    levels = zip(scatter.without, scatter.levels, strict=True)
    return labels + [Label(left, level, f"{group.method} (no size known)", GREY) for group, level in levels]


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


def _sentences(size: Size, unfit: Sequence[Any], unknown: Sequence[str], has_capacity: bool) -> list[str]:
    """The caption without its last sentences."""
    sentences = [
        "Bold line: the Pareto front, where nothing as small has a higher P@1; the settings behind it are faint.",
        size.note,
    ]
    if has_capacity:
        sentences.append("Dashed vertical line (an arrow where it is far beyond the axis): the memory of the machine.")
    if unfit:
        sentences.append("Crosses on the upper edge: runs that ran out of memory, at their known or predicted size.")
    if unknown:
        sentences.append(f"Did not fit either, at an unknown size: {'; '.join(unknown)}.")
    return sentences
