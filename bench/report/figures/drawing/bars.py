"""Horizontal bars: one row per configuration, its name at the left, panels side by side, every value as a number."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report.figures.drawing.labels import SIZE
from bench.report.figures.drawing.style import INK, PAPER, WIDTH_IN

ROW_IN, TOP_IN, BOTTOM_IN = 0.21, 0.5, 0.45
NAMES = 0.27  # share of the width for the names of the rows
HATCHES = ("", "////", "....", "xxxx")
GREYS = ("#333333", "#8c8c8c", "#d0d0d0", "#f2f2f2")


def row_panels(names: Sequence[str], widths: Sequence[float], gap: float = 0.035) -> tuple[Figure, list[Axes]]:
    """Panels side by side with a row per name, the first name on top; ``widths`` are relative to each other."""
    height = ROW_IN * len(names) + TOP_IN + BOTTOM_IN
    figure = Figure(figsize=(WIDTH_IN, height), dpi=100)
    room = 1 - NAMES - gap * (len(widths) - 1) - 0.02
    axes: list[Axes] = []
    left = NAMES
    for width in widths:
        own = room * width / sum(widths)
        box = (left, BOTTOM_IN / height, own, ROW_IN * len(names) / height)
        ax = figure.add_axes(box, sharey=axes[0] if axes else None)
        ax.tick_params(labelleft=not axes, left=False)
        ax.grid(axis="y", visible=False)
        ax.set_xlim(left=0)
        axes.append(ax)
        left += own + gap
    axes[0].set_yticks(range(len(names)), labels=list(names), fontsize=SIZE, parse_math=False)
    axes[0].set_ylim(len(names) - 0.4, -0.6)
    return figure, axes


def bars(
    ax: Axes, values: Sequence[float | None], colors: Sequence[str], texts: Sequence[str], at_least: float = 0.0
) -> None:
    """One bar per row, its value behind its end; no bar where the value is None. ``at_least``: end of the axis."""
    for y, (value, color, text) in enumerate(zip(values, colors, texts, strict=True)):
        if value is not None:
            ax.barh(y, value, height=0.68, color=color)
            _behind(ax, value, y, text)
    _room(ax, max([at_least, *(v for v in values if v is not None)]))


def stacked(
    ax: Axes, parts: Sequence[Sequence[float | None]], totals: Sequence[float | None], texts: Sequence[str]
) -> None:
    """Bars of several parts (one sequence per part) in different greys and hatches; the text stands behind the bar.

    ``totals``: the sums of the parts, None where nothing was measured.
    """
    for y, (values, total, text) in enumerate(zip(zip(*parts, strict=True), totals, texts, strict=True)):
        start = 0.0
        for value, grey, hatch in zip(values, GREYS, HATCHES, strict=False):
            ax.barh(y, value or 0.0, left=start, height=0.68, color=grey, hatch=hatch, edgecolor=INK, linewidth=0.4)
            start += value or 0.0
        if total is not None:
            _behind(ax, start, y, text)
    _room(ax, max((t for t in totals if t is not None), default=0.0))


def key(ax: Axes, names: Sequence[str]) -> None:
    """The legend of stacked bars, above the titles."""
    for name, grey, hatch in zip(names, GREYS, HATCHES, strict=False):
        ax.barh(0, 0, color=grey, hatch=hatch, edgecolor=INK, linewidth=0.4, label=name)
    ax.legend(
        frameon=False,
        fontsize=SIZE,
        loc="lower left",
        bbox_to_anchor=(-0.03, 1 + 0.22 * 72 / (ax.bbox.height * 72 / ax.figure.dpi)),
        borderaxespad=0.0,
        ncols=len(names),
        columnspacing=1.0,
        handlelength=1.4,
        handletextpad=0.4,
    )


def _behind(ax: Axes, x: float, y: float, text: str) -> None:
    ax.annotate(
        text, (x, y), xytext=(3, 0), textcoords="offset points", va="center", fontsize=SIZE - 1.5, color=INK
    ).set_bbox({"facecolor": PAPER, "edgecolor": "none", "pad": 0.4, "alpha": 0.8})


def _room(ax: Axes, longest: float) -> None:
    """Limits of the axis that leave room for the text behind the longest bar."""
    points = ax.get_window_extent().width * 72 / ax.figure.dpi
    written = max((len(t.get_text()) for t in ax.texts), default=0) * 0.62 * (SIZE - 1.5) + 6
    ax.set_xlim(0, (longest or 1.0) / max(1 - written / points, 0.3))
