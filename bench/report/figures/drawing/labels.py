"""Direct labels that do not overlap: beside the ends of curves, and beside points."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patheffects import withStroke
from matplotlib.transforms import BboxBase

from bench.report.figures.drawing.style import FAINT, GREY, INK, PAPER, Style, for_text

SIZE = 8.0  # points
GAP = 1.3  # line height, in font sizes
BESIDE = (1.035, 1.085)  # where the sample of a look stands, in widths of the axes


@dataclass(frozen=True)
class Label:
    """``look``: shown as a short sample of line and marker before the text, where the label stands beside the axes.
    ``leader``: may stand further away with a thin line to its point where there is no room beside it."""

    x: float
    y: float
    text: str
    color: str = INK
    look: Style | None = None
    leader: bool = True


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
        label, at = labels[i], height / full
        ax.annotate(
            "",
            xy=(label.x, label.y),
            xytext=(BESIDE[0], at),
            textcoords="axes fraction",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": FAINT, "lw": 0.7, "shrinkA": 0, "shrinkB": 2},
        )
        if label.look is not None:
            marker, middle = label.look.marker, sum(BESIDE) / 2
            sample: dict[str, Any] = {"color": label.look.color, "transform": ax.transAxes, "clip_on": False}
            ax.plot(BESIDE, (at, at), linestyle=label.look.line, linewidth=1.2, **sample)
            ax.plot([middle], [at], linestyle="", marker=marker, markersize=3.8, **sample)
        left = BESIDE[1 if label.look else 0] + 0.01
        shown: dict[str, Any] = {"color": for_text(label.color), "fontsize": SIZE, "va": "center", "parse_math": False}
        ax.text(left, at, label.text, transform=ax.transAxes, **shown)


def _spread(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Ascending heights moved as little as needed (least squares) to be ``gap`` apart, from low to high.

    Where there is no room for all, they extend below ``low``.
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


_NEAR = [(6, 0, "left"), (-6, 0, "right"), (0, 9, "center"), (0, -9, "center")]
_NEAR += [(5, 7, "left"), (5, -7, "left"), (-5, 7, "right"), (-5, -7, "right")]
_FAR = [
    (round(reach * math.cos(angle)), round(reach * math.sin(angle)), "left" if math.cos(angle) > 0 else "right")
    for reach in (16, 26, 38, 52, 70, 90, 115)
    for angle in (math.radians(15 + 30 * step) for step in (0, 5, 11, 6, 1, 4, 10, 7, 2, 3, 9, 8))
]
_HALO = [withStroke(linewidth=2.2, foreground=PAPER)]


def label_points(
    ax: Axes, labels: Sequence[Label], points: Sequence[tuple[float, float]], path: Sequence[int] = ()
) -> None:
    """Write each label beside its point where it covers no earlier label and none of ``points``; where there is no
    room, further away with a thin line to its point; where there is no room at all, leave it out.

    ``path``: indices of points connected by a line that labels do not cover either. Earlier labels have priority.
    Labels outside the limits of the axes are left out.
    """
    renderer = FigureCanvasAgg(ax.figure.figure).get_renderer()
    scale = ax.figure.dpi / 72.0
    spots = ax.transData.transform(points)
    line = spots[list(path)]
    along = [a + _steps(a, b, scale) * (b - a) for a, b in itertools.pairwise(line)]
    rings = [(spots, 3.5 * scale), *((piece, 0.8 * scale) for piece in along)]
    occupied = np.concatenate([np.hstack([around - reach, around + reach]) for around, reach in rings])
    for label in labels:
        x, y = ax.transData.transform((label.x, label.y))
        if not (ax.bbox.x0 - 1 <= x <= ax.bbox.x1 + 1 and ax.bbox.y0 - 1 <= y <= ax.bbox.y1 + 1):
            continue
        text = ax.annotate(
            label.text,
            xy=(label.x, label.y),
            xytext=(0, 0),
            textcoords="offset points",
            va="center",
            fontsize=SIZE - 0.5,
            color=for_text(label.color),
            path_effects=_HALO,
            parse_math=False,  # names with $ are text
        )
        size = text.get_window_extent(renderer)
        offsets = _NEAR + _FAR if label.leader else _NEAR
        spot = _free(ax.bbox, (x, y), (size.width, size.height), scale, occupied, offsets)
        text.remove()
        if spot is None:
            continue
        dx, dy, side, box = spot
        occupied = np.vstack([occupied, box + np.array([-2, -1, 2, 1]) * scale])  # with its halo
        leader = {"arrowstyle": "-", "color": GREY, "lw": 0.5, "shrinkA": 0, "shrinkB": 3}
        ax.annotate(
            label.text,
            xy=(label.x, label.y),
            xytext=(dx, dy),
            textcoords="offset points",
            ha=side,
            va="center",
            fontsize=SIZE - 0.5,
            color=for_text(label.color),
            path_effects=_HALO,
            parse_math=False,
            arrowprops=leader if math.hypot(dx, dy) > 10 else None,
            zorder=6,
        )


def _steps(a: Any, b: Any, scale: float) -> Any:
    """Fractions [n, 1] of the line from a to b, in pixels: a step every 4 points, so that no label fits between."""
    return np.linspace(0, 1, 2 + int(math.hypot(*(b - a)) / (4 * scale)))[:, None]


def _free(
    frame: BboxBase,
    at: tuple[float, float],
    size: tuple[float, float],
    scale: float,
    occupied: Any,
    offsets: Sequence[tuple[int, int, str]],
) -> tuple[int, int, str, Any] | None:
    """(dx, dy, side, box in pixels) of the first free spot within the frame for a text of that size."""
    width, height = size
    for dx, dy, side in offsets:
        left = at[0] + dx * scale - {"left": 0.0, "center": 0.5, "right": 1.0}[side] * width
        bottom = at[1] + dy * scale - height / 2
        box = np.array([left, bottom, left + width, bottom + height])
        inside = box[0] >= frame.x0 and box[1] >= frame.y0 and box[2] <= frame.x1 and box[3] <= frame.y1 + 2 * scale
        if inside and ((occupied[:, :2] > box[2:]).any(axis=1) | (occupied[:, 2:] < box[:2]).any(axis=1)).all():
            return dx, dy, side, box
    return None
