"""The figure ``linear_cost_exponential_resolution``: cost of R repetitions, and pairs of labels that they separate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from bench.columns import MIB
from bench.report.figures.drawing.labels import SIZE, Label, label_ends
from bench.report.figures.drawing.machine import Machines
from bench.report.figures.drawing.panels import Curves, draw_band, draw_curve, stack, whole_r
from bench.report.figures.drawing.picture import Picture, context, trace
from bench.report.figures.drawing.style import PAPER, RC
from bench.report.groups import Configuration, Stat, points_of
from bench.report.model_size import model_stat

TITLE = "Linear cost, exponential resolution"
LOWEST_PAIRS = 1e-3  # the bottom of the pairs axis; below it no two labels are expected to share all buckets


@dataclass(frozen=True)
class Cost:
    """A column that is a cost, shown as ``value · scale`` in ``unit``."""

    name: str
    stat: Callable[[Configuration], Stat | None]
    unit: str
    scale: float


COSTS = (
    (
        "Cost in output parameters",
        "millions",
        Cost("params_output", lambda g: g.stat("params_output"), "M parameters", 1e-6),
    ),
    ("Cost in training time, where it was measured", "seconds", Cost("fit_s", lambda g: g.stat("fit_s"), "s", 1.0)),
    ("Cost in bytes: weights and index", "MiB", Cost("model_bytes", model_stat, "MiB", 1 / MIB)),
)
Drawn = tuple[list[dict[str, Any]], list[Label]]
Panel = tuple[str, str, Callable[[Axes, Curves, list[int]], Drawn]]


def draw(
    groups: Sequence[Configuration], machines: Machines, name: str = "linear_cost_exponential_resolution"
) -> Picture:
    """``groups``: the configurations of one dataset. Not drawn without a hashed method at two values of R."""
    curves = Curves(groups)
    keep = [i for i in range(len(curves.all)) if curves.bold(i)]
    if not any(len(curves.all[i]) > 1 for i in keep):
        return Picture(name, TITLE, reason="no method with B and R was evaluated at two values of R")
    panels: list[Panel] = []
    for title, unit, cost in COSTS:
        if any(cost.stat(group) for i in keep for group in curves.all[i]):
            panels.append((title, unit, _cost(cost)))
    panels.append(("Pairs of labels that share all R buckets", "pairs", _pairs))
    panels.append((f"P@1 on {points_of(groups)}", "per cent", _quality))
    rows: list[dict[str, Any]] = []
    with matplotlib.rc_context(RC):
        figure, axes = stack([1.4] * len(panels), right=0.8)
        labels = []
        for ax, (title, unit, fill) in zip(axes, panels, strict=True):
            points, ends = fill(ax, curves, keep)
            rows += points
            labels.append(ends)
            ax.set_title(title)
            ax.set_ylabel(unit)
            ax.tick_params(labelbottom=ax is axes[-1])
        axes[-1].set_xlabel("R, repetitions")
        whole_r(axes[-1])
        for ax, ends in zip(axes, labels, strict=True):
            label_ends(ax, ends)
    return Picture(name, TITLE, _caption(curves, keep, rows, machines), figure, rows)


def line_fit(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float, float | None] | None:
    """Least-squares (slope, intercept, R²); R² is None below three points, all below two."""
    if len(set(xs)) < 2:
        return None
    slope, intercept = np.polyfit(np.asarray(xs, float), np.asarray(ys, float), 1)
    rest = math.fsum((y - slope * x - intercept) ** 2 for x, y in zip(xs, ys, strict=True))
    mean = math.fsum(ys) / len(ys)
    total = math.fsum((y - mean) ** 2 for y in ys)
    r2 = None if len(xs) < 3 else 1.0 if total == 0 else 1 - rest / total
    return float(slope), float(intercept), r2


def rounded_down(r2: float) -> str:
    """R² at four decimals, rounded down, apart from the last digits of the float."""
    return f"{math.floor(1e4 * (r2 + 1e-9)) / 1e4:.4f}"


def _measured(curves: Curves, i: int, panel: str, R: int, stat: Stat, scale: float = 1) -> dict[str, Any]:
    """A row of the csv for a measured point of curve ``i``; the unit of ``panel`` is in its name."""
    numbers = {"n_seeds": stat.n, "mean": stat.mean * scale, "min": stat.low * scale, "max": stat.high * scale}
    sources = trace(group for group in curves.all[i] if group.R == R)
    return {"panel": panel, "kind": "measured", **curves.identity(i), "R": R, **numbers, **sources}


def _computed(curves: Curves, i: int, panel: str, kind: str, R: int, value: float) -> dict[str, Any]:
    """A row of the csv for a point of curve ``i`` that is fitted or expected."""
    numbers = {"n_seeds": None, "mean": value, "min": None, "max": None}
    return {"panel": panel, "kind": kind, **curves.identity(i), "R": R, **numbers, **trace(curves.all[i])}


def _cost(cost: Cost) -> Callable[[Axes, Curves, list[int]], Drawn]:
    def fill(ax: Axes, curves: Curves, keep: list[int]) -> Drawn:
        rows, labels = [], []
        for i in keep:
            stats = [(g.R or 0, s) for g in curves.all[i] if (s := cost.stat(g)) is not None]
            if not stats:
                continue
            look = curves.look[i]
            xs, ys = [float(R) for R, _ in stats], [s.mean * cost.scale for _, s in stats]
            ax.plot(xs, ys, color=look.color, marker=look.marker, linestyle="", zorder=3)
            lows, highs = [s.low * cost.scale for _, s in stats], [s.high * cost.scale for _, s in stats]
            ax.vlines(xs, lows, highs, color=look.color)
            rows += [_measured(curves, i, cost.name, R, s) for R, s in stats]
            fit = line_fit(xs, [s.mean for _, s in stats])
            if fit is not None:
                slope, intercept, r2 = fit
                ends = [min(xs), max(xs)]
                ax.plot(ends, [(slope * x + intercept) * cost.scale for x in ends], color=look.color, linewidth=1.1)
                terms = {"slope_per_repetition": slope, "intercept": intercept, "r_squared": r2}
                rows += [
                    {**_computed(curves, i, cost.name, "fit", int(x), slope * x + intercept), **terms} for x in ends
                ]
            labels.append(Label(xs[-1], ys[-1], curves.label(i), look.color, look))
        ax.set_ylim(bottom=0)
        return rows, labels

    return fill


def _pairs(ax: Axes, curves: Curves, keep: list[int]) -> Drawn:
    """Expected pairs K(K-1)/2 · B^-R as lines, counts as markers, the first zero on the bottom edge."""
    rows: list[dict[str, Any]] = []
    ax.set_yscale("log")
    for i in keep:
        line, look = curves.all[i], curves.look[i]
        K, B = line[0].ok[0]["n_labels"], line[0].B
        if K is None or not B:
            continue
        top = max(group.R or 0 for group in line)
        expected = [(R, K * (K - 1) / 2 * float(B) ** -R) for R in range(1, top + 1)]
        rows += [_computed(curves, i, "unresolved_pairs", "expected", R, pairs) for R, pairs in expected]
        seen = [(R, pairs) for R, pairs in expected if pairs >= LOWEST_PAIRS / B]  # one step past the axis
        ax.plot([R for R, _ in seen], [p for _, p in seen], color=look.color, linestyle=look.line, linewidth=1.1)
        counted = [(g.R or 0, s) for g in line if (s := g.stat("unresolved_pairs")) is not None]
        rows += [_measured(curves, i, "unresolved_pairs", R, s) for R, s in counted]
        some = [(R, s.mean) for R, s in counted if s.mean >= LOWEST_PAIRS]
        none = [(R, LOWEST_PAIRS) for R, s in counted if s.mean < LOWEST_PAIRS][:1]
        for at, fill in ((some, look.color), (none, PAPER)):
            xs, ys = [R for R, _ in at], [pairs for _, pairs in at]
            color, marker = look.color, look.marker
            ax.plot(xs, ys, color=color, marker=marker, mfc=fill, linestyle="", clip_on=False, zorder=3)
        marker = look.marker if counted else ""
        ax.plot([], [], color=look.color, linestyle=look.line, marker=marker, label=_shown(curves.label(i)))
    legend = ax.legend(frameon=False, fontsize=SIZE, loc="upper right")  # the lines fall too steeply for labels
    for text in legend.get_texts():
        text.set_parse_math(False)
    ax.set_ylim(bottom=LOWEST_PAIRS)
    return rows, []


def _shown(name: str) -> str:
    """A label for a legend, which leaves out those that begin with '_'."""
    return f" {name}" if name.startswith("_") else name


def _quality(ax: Axes, curves: Curves, keep: list[int]) -> Drawn:
    rows, labels = [], []
    for i in keep:
        line, look = curves.all[i], curves.look[i]
        stats = [(g.R or 0, s) for g in line if (s := g.stat("P@1")) is not None]
        at = [R for R, _ in stats]
        draw_curve(ax, at, [100 * s.mean for _, s in stats], look)
        draw_band(ax, at, [100 * s.low for _, s in stats], [100 * s.high for _, s in stats], look)
        rows += [_measured(curves, i, "P@1_percent", R, s, 100) for R, s in stats]
        labels.append(Label(at[-1], 100 * stats[-1][1].mean, curves.label(i), look.color, look))
    ax.set_ylim(bottom=0)
    return rows, labels


def _caption(curves: Curves, keep: Sequence[int], rows: Sequence[dict[str, Any]], machines: Machines) -> str:
    slopes = [words for _, _, cost in COSTS if (words := _fits(cost, rows))]
    counted = any(r["panel"] == "unresolved_pairs" and r["kind"] == "measured" for r in rows)
    markers = "; markers: counted, open on the bottom edge at the first R that leaves none" if counted else ""
    return (
        "Cost grows in a straight line with R (markers: measured; lines: least squares), what can be "
        "distinguished exponentially. Bytes: all weights and the label index. Pairs: the expected K(K−1)/2 · B^−R as "
        f"lines{markers}. Fitted lines, for each repetition: {'; '.join(slopes) or 'none'}. "
        f"{context([group for i in keep for group in curves.all[i]], machines)}"
    )


def _fits(cost: Cost, rows: Sequence[dict[str, Any]]) -> str:
    """The fitted lines of one panel in words, such as ``0.132 M parameters (B = 1,024), R² ≥ 0.9999``."""
    fits = {(r["method"], r["B"]): r for r in rows if r["panel"] == cost.name and r["kind"] == "fit"}
    if not fits:
        return ""
    slopes = [(r["slope_per_repetition"] * cost.scale, r["B"]) for r in fits.values()]
    if len(slopes) > 3:
        slopes = [min(slopes), max(slopes)]
    shown = (" to " if len(fits) > 3 else ", ").join(f"{slope:.3g} (B = {B:,})" for slope, B in slopes)
    known = [r["r_squared"] for r in fits.values() if r["r_squared"] is not None]
    worst = f", R² ≥ {rounded_down(min(known))}" if known else ""
    return f"{shown} {cost.unit}{worst}"
