"""Linear cost, exponential resolution: what R repetitions cost, and what they tell apart, over one R axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from bench.figures.labels import SIZE, Label, label_ends
from bench.figures.panels import Curves, draw_band, draw_curve, stack, whole_r
from bench.figures.picture import Picture, context
from bench.figures.style import GREY, PAPER, RC
from bench.summary import Group, Stat, points_of

TITLE = "Linear cost, exponential resolution"
LOWEST_PAIRS = 1e-3  # the bottom of the pairs axis; below it no two labels are expected to share all buckets
Drawn = tuple[list[dict[str, Any]], list[Label]]
Panel = tuple[str, str, Callable[[Axes, Curves, list[int]], Drawn]]


def draw(groups: Sequence[Group], name: str = "linear_cost_exponential_resolution") -> Picture:
    """``groups``: the configurations of one dataset. Not drawn without a hashed method at two values of R."""
    curves = Curves(groups)
    keep = [i for i in range(len(curves.all)) if curves.bold(i)]
    if not any(len(curves.all[i]) > 1 for i in keep):
        return Picture(name, TITLE, reason="no method with B and R was evaluated at two values of R")
    panels: list[Panel] = []
    if _measured(curves, keep, "params_output"):
        panels.append(("Cost in output parameters", "millions", _cost("params_output", 1e-6)))
    if _measured(curves, keep, "fit_s"):
        panels.append(("Cost in training time, where it was measured", "seconds", _cost("fit_s", 1.0)))
    panels += [
        ("Pairs of labels that share all R buckets", "pairs", _pairs),
        ("Codes that R repetitions can give", "codes", _codes),
        (f"P@1 on {points_of(groups)}", "per cent", _quality),
    ]
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
    return Picture(name, TITLE, _caption(curves, keep, rows), figure, rows)


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


def _measured(curves: Curves, keep: Sequence[int], column: str) -> bool:
    return any(group.stat(column) for i in keep for group in curves.all[i])


def _point(curves: Curves, i: int, panel: str, kind: str, R: int | None, stat: Stat | float, scale: float = 1) -> Any:
    """A row of the csv; the unit of ``panel`` is in its name."""
    if isinstance(stat, float):
        numbers: dict[str, Any] = {"n_seeds": None, "mean": stat * scale, "min": None, "max": None}
    else:
        numbers = {
            "n_seeds": stat.n,
            "mean": stat.mean * scale,
            "min": stat.low * scale,
            "max": stat.high * scale,
        }
    return {"panel": panel, "kind": kind, **curves.identity(i), "R": R, **numbers}


def _cost(column: str, scale: float) -> Callable[[Axes, Curves, list[int]], Drawn]:
    def fill(ax: Axes, curves: Curves, keep: list[int]) -> Drawn:
        rows, labels = [], []
        for i in keep:
            stats = [(g.R or 0, s) for g in curves.all[i] if (s := g.stat(column)) is not None]
            if not stats:
                continue
            look = curves.look[i]
            xs, ys = [float(R) for R, _ in stats], [s.mean * scale for _, s in stats]
            ax.plot(xs, ys, color=look.color, marker=look.marker, linestyle="", zorder=3)
            ax.vlines(xs, [s.low * scale for _, s in stats], [s.high * scale for _, s in stats], color=look.color)
            rows += [_point(curves, i, column, "measured", R, s) for R, s in stats]
            fit = line_fit(xs, [s.mean for _, s in stats])
            if fit is not None:
                slope, intercept, r2 = fit
                ends = [min(xs), max(xs)]
                ax.plot(ends, [(slope * x + intercept) * scale for x in ends], color=look.color, linewidth=1.1)
                terms = {"slope_per_repetition": slope, "intercept": intercept, "r_squared": r2}
                rows += [{**_point(curves, i, column, "fit", int(x), slope * x + intercept), **terms} for x in ends]
            labels.append(Label(xs[-1], ys[-1], curves.label(i), look.color))
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
        rows += [_point(curves, i, "unresolved_pairs", "expected", R, pairs) for R, pairs in expected]
        seen = [(R, pairs) for R, pairs in expected if pairs >= LOWEST_PAIRS / B]  # one step past the axis
        ax.plot([R for R, _ in seen], [p for _, p in seen], color=look.color, linestyle=look.line, linewidth=1.1)
        counted = [(g.R or 0, s) for g in line if (s := g.stat("unresolved_pairs")) is not None]
        rows += [_point(curves, i, "unresolved_pairs", "measured", R, s) for R, s in counted]
        some = [(R, s.mean) for R, s in counted if s.mean >= LOWEST_PAIRS]
        none = [(R, LOWEST_PAIRS) for R, s in counted if s.mean < LOWEST_PAIRS][:1]
        for at, fill in ((some, look.color), (none, PAPER)):
            xs, ys = [R for R, _ in at], [pairs for _, pairs in at]
            color, marker = look.color, look.marker
            ax.plot(xs, ys, color=color, marker=marker, mfc=fill, linestyle="", clip_on=False, zorder=3)
        marker = look.marker if counted else ""
        ax.plot([], [], color=look.color, linestyle=look.line, marker=marker, label=curves.label(i))
    ax.legend(frameon=False, fontsize=SIZE, loc="upper right")  # the lines fall too steeply for labels at their ends
    ax.set_ylim(bottom=LOWEST_PAIRS)
    return rows, []


def _codes(ax: Axes, curves: Curves, keep: list[int]) -> Drawn:
    rows, labels = [], []
    ax.set_yscale("log")
    for i in keep:
        line, look = curves.all[i], curves.look[i]
        codes = [(group.R or 0, float(group.B or 0) ** (group.R or 0)) for group in line]
        draw_curve(ax, [R for R, _ in codes], [c for _, c in codes], look)
        rows += [_point(curves, i, "codes", "computed", R, c) for R, c in codes]
        labels.append(Label(*codes[-1], curves.label(i), look.color))
    K = curves.all[keep[0]][0].ok[0]["n_labels"]
    if K:
        ax.axhline(K, color=GREY, linewidth=1.0, linestyle=(0, (1.2, 1.6)))
        labels.append(Label(ax.get_xlim()[1], K, f"K = {K:,} labels", GREY))
    return rows, labels


def _quality(ax: Axes, curves: Curves, keep: list[int]) -> Drawn:
    rows, labels = [], []
    for i in keep:
        line, look = curves.all[i], curves.look[i]
        stats = [(g.R or 0, s) for g in line if (s := g.stat("P@1")) is not None]
        at = [R for R, _ in stats]
        draw_curve(ax, at, [100 * s.mean for _, s in stats], look)
        draw_band(ax, at, [100 * s.low for _, s in stats], [100 * s.high for _, s in stats], look)
        rows += [_point(curves, i, "P@1_percent", "measured", R, s, 100) for R, s in stats]
        labels.append(Label(at[-1], 100 * stats[-1][1].mean, curves.label(i), look.color))
    ax.set_ylim(bottom=0)
    return rows, labels


def _caption(curves: Curves, keep: Sequence[int], rows: Sequence[dict[str, Any]]) -> str:
    told = []
    for panel, unit, scale in (("params_output", "M parameters", 1e-6), ("fit_s", "s", 1.0)):
        fits = {r["B"]: r for r in rows if r["panel"] == panel and r["kind"] == "fit"}
        for B, row in fits.items():
            r2 = "" if row["r_squared"] is None else f" (R² = {row['r_squared']:.4f})"
            told.append(f"B = {B:,}: {row['slope_per_repetition'] * scale:.3g} {unit} a repetition{r2}")
    counted = any(r["panel"] == "unresolved_pairs" and r["kind"] == "measured" for r in rows)
    markers = "; markers: counted, open on the bottom edge at the first R that leaves none" if counted else ""
    return (
        "Cost grows in a straight line with R (markers: measured; lines: least squares), what can be told "
        "apart exponentially. Pairs: the expected K(K−1)/2 · B^−R as lines"
        f"{markers}. Codes: B^R, beside the number of labels K. Fitted lines: {'; '.join(told) or 'none'}. "
        f"{context(group for i in keep for group in curves.all[i])}"
    )
