"""Direct labels that do not overlap: beside the ends of curves, and beside points."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg

from bench.figures.style import FAINT, INK, for_text

SIZE = 8.0  # points
GAP = 1.3  # line height, in font sizes


@dataclass(frozen=True)
class Label:
    x: float
    y: float
    text: str
    color: str = INK


def label_ends(ax: Axes, labels: Sequence[Label]) -> None:
    """Write each label right of the axes at the height of its (x, y), moved apart, a thin line to its curve.

    Call it when limits and layout are final.
    """
    to_points = 72.0 / ax.figure.dpi
    bottom = ax.bbox.y0 * to_points
    heights = [float(ax.transData.transform((label.x, label.y))[1]) * to_points - bottom for label in labels]
    order = sorted(range(len(labels)), key=lambda i: heights[i])
    full = ax.bbox.height * to_points
    placed = _spread([heights[i] for i in order], GAP * SIZE, low=0.0, high=full + SIZE)
    for i, height in zip(order, placed, strict=True):
        label = labels[i]
        ax.annotate(
            label.text,
            xy=(label.x, label.y),
            xytext=(1.035, height / full),
            textcoords="axes fraction",
            color=for_text(label.color),
            fontsize=SIZE,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": FAINT,
                "lw": 0.7,
                "shrinkA": 1,
                "shrinkB": 2,
                "relpos": (0, 0.5),
            },
        )


def _spread(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Ascending heights moved as little as needed (least squares) to stand ``gap`` apart, from low to high.

    Where there is no room for all of them they overrun ``low``, still apart.
    """
    blocks: list[list[float]] = []  # sum of wished positions of the block's first label, count
    for i, height in enumerate(heights):
        blocks.append([height - i * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] >= blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += count
    flat = [total / count for total, count in blocks for _ in range(int(count))]
    highest = high - (len(heights) - 1) * gap
    return [min(max(base, low), highest) + i * gap for i, base in enumerate(flat)]


_OFFSETS = [(6, 0, "left"), (-6, 0, "right"), (0, 7, "center"), (0, -7, "center")]
_OFFSETS += [(5, 6, "left"), (5, -6, "left"), (-5, 6, "right"), (-5, -6, "right")]
_OFFSETS += [(0, 16, "center"), (0, -16, "center"), (12, 12, "left"), (12, -12, "left"), (-12, 12, "right")]


def label_points(
    ax: Axes, labels: Sequence[Label], points: Sequence[tuple[float, float]], path: Sequence[int] = ()
) -> None:
    """Write each label beside its point where it covers no earlier label and no point; else leave it out.

    ``path`` are the indices of points that a line connects, which labels keep clear of too.

    Earlier labels come first, so give the important ones first. Labels outside the axes' limits are left out.
    """
    canvas = FigureCanvasAgg(ax.figure.figure)
    renderer = canvas.get_renderer()
    scale = ax.figure.dpi / 72.0
    spots = ax.transData.transform(points)
    line = spots[list(path)]
    steps = np.linspace(0, 1, 60)[:, None]
    along = [a + steps * (b - a) for a, b in itertools.pairwise(line)]
    rings = [(spots, 3 * scale), *((piece, 0.8 * scale) for piece in along)]
    taken = np.concatenate([np.hstack([around - reach, around + reach]) for around, reach in rings])
    for label in labels:
        x, y = ax.transData.transform((label.x, label.y))
        if not (ax.bbox.x0 - 1 <= x <= ax.bbox.x1 + 1 and ax.bbox.y0 - 1 <= y <= ax.bbox.y1 + 1):
            continue
        for dx, dy, side in _OFFSETS:
            text = ax.annotate(
                label.text,
                xy=(label.x, label.y),
                xytext=(dx, dy),
                textcoords="offset points",
                ha=side,
                va="center",
                fontsize=SIZE - 0.5,
                color=for_text(label.color),
            )
            box = text.get_window_extent(renderer)
            inside = (
                box.x0 >= ax.bbox.x0
                and box.y0 >= ax.bbox.y0
                and box.x1 <= ax.bbox.x1
                and box.y1 <= ax.bbox.y1 + 8 * scale
            )
            apart = (taken[:, :2] > box.max).any(axis=1) | (taken[:, 2:] < box.min).any(axis=1)
            if inside and apart.all():
                taken = np.vstack([taken, box.extents])
                break
            text.remove()
