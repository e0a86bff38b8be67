"""Draws codes.png, codes.pdf and codes.csv beside this file: python docs/figures/codes.py

Three buckets per repetition, and R = 2, 3 or 4: 6, 9 and 12 outputs give 9, 27 and 81 codes for labels.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from bench.common.files import write_atomic  # noqa: E402
from bench.report.figures.drawing.picture import Picture  # noqa: E402
from bench.report.figures.drawing.style import BLUE, FAINT, GREY, INK, ORANGE, PAPER, RC, VERMILLION, for_text  # noqa: E402
from mach.theory.collisions import parameters, unresolved_pairs  # noqa: E402

B, SHOWN = 3, (2, 3, 4)
LABELS = {"circle": (2, 3, 1, 2), "square": (2, 3, 3, 1), "triangle": (2, 3, 1, 3)}  # bucket in repetitions 1 to 4
LOOK = {"circle": ("o", BLUE), "square": ("s", ORANGE), "triangle": ("^", VERMILLION)}
VERDICTS = {3: "all in one cell", 1: "one separated", 0: "all separated"}  # by pairs that share a cell
GAP = 0.55  # between the grids of one panel, in cells


def rows() -> list[dict[str, Any]]:
    """The numbers drawn: outputs and cells of R repetitions, and the code of each label that is shown."""
    out: list[dict[str, Any]] = []
    lookup = np.array(list(LABELS.values())).T - 1
    for R, pairs in enumerate(unresolved_pairs(lookup), 1):
        outputs = parameters(1, 1, B, R, B**R)["params_output"] // 2  # a weight and a bias each
        numbers = {"outputs": outputs, "cells": B**R, "pairs_of_shown_labels_in_one_cell": int(pairs)}
        out.append({"R": R, "kind": "cost", **numbers})
    for R in SHOWN:
        for label, buckets in LABELS.items():
            out.append({"R": R, "kind": "code", "label": label, "code": code(buckets[:R])})
    return out


def code(buckets: tuple[int, ...]) -> str:
    return "-".join(map(str, buckets))


def cell(buckets: tuple[int, ...]) -> tuple[float, float]:
    """Lower left corner of a code's cell: row in a grid by repetition 1, column by 2, the grid's by 3 and 4."""
    row, column, grid_row, grid_column = (*buckets, 1, 1)[:4]
    step = B + GAP
    return (grid_column - 1) * step + column - 1, (B - grid_row) * step + B - row


def draw_panel(ax: Axes, left: float, R: int, costs: dict[int, dict[str, Any]]) -> None:
    """Above the cells of R repetitions, below their outputs, and the codes of the shown labels."""
    step = B + GAP
    width, height = B if R < 4 else 2 * step + B, 2 * step + B
    for index in np.ndindex(*[B] * R):
        x, y = cell(tuple(i + 1 for i in index))
        ax.add_patch(Rectangle((left + x, y), 1, 1, facecolor=PAPER, edgecolor=GREY, linewidth=0.7))
    small = {"fontsize": 7, "color": GREY}
    if R > 2:
        for grid in range(B):
            y = (B - 1 - grid) * step + B / 2
            ax.text(left - 0.35, y, str(grid + 1), ha="right", va="center", **small)
        ax.text(left - 1.0, height / 2, "bucket in repetition 3", rotation=90, ha="right", va="center", **small)
    else:
        for i in range(B):
            ax.text(left - 0.35, height - i - 0.5, str(i + 1), ha="right", va="center", **small)
            ax.text(left + i + 0.5, height + 0.2, str(i + 1), ha="center", va="bottom", **small)
        ax.text(left - 1.0, height - B / 2, "repetition 1", rotation=90, ha="right", va="center", **small)
        ax.text(left + B / 2, height + 0.95, "bucket in repetition 2", ha="center", va="bottom", **small)
    if R == 4:
        for grid in range(B):
            ax.text(left + grid * step + B / 2, height + 0.2, str(grid + 1), ha="center", va="bottom", **small)
        ax.text(left + width / 2, height + 0.95, "bucket in repetition 4", ha="center", va="bottom", **small)
    cells, outputs = costs[R]["cells"], costs[R]["outputs"]
    ax.text(left + width / 2, height + 2.2, f"R = {R}: {cells} cells", ha="center", fontsize=9, weight="bold")
    together: dict[tuple[int, ...], list[str]] = {}
    for label, buckets in LABELS.items():
        together.setdefault(buckets[:R], []).append(label)
    for buckets, labels in together.items():
        x, y = cell(buckets)
        ax.add_patch(Rectangle((left + x, y), 1, 1, facecolor="#e9e9e9", edgecolor=INK, linewidth=1.4, zorder=2))
        for i, label in enumerate(labels):
            marker, color = LOOK[label]
            at = left + x + 0.5 + 0.27 * (i - (len(labels) - 1) / 2)
            ax.plot(at, y + 0.5, marker, color=color, markersize=3, zorder=3)
    pairs = costs[R]["pairs_of_shown_labels_in_one_cell"]
    draw_outputs(ax, left + width / 2, R, outputs, VERDICTS[pairs])


def draw_outputs(ax: Axes, middle: float, R: int, outputs: int, verdict: str) -> None:
    """One column of B outputs per repetition; below it the bucket of each label."""
    left, low = middle - R / 2 * 1.3, -6.2
    for r in range(R):
        x = left + r * 1.3 + 0.15
        ax.text(x + 0.5, low + B + 0.15, f"r{r + 1}", ha="center", va="bottom", fontsize=7, color=GREY)
        for bucket in range(B):
            box = Rectangle((x, low + B - 1 - bucket), 1, 1, facecolor=FAINT, edgecolor=INK, linewidth=0.7)
            ax.add_patch(box)
            ax.text(x + 0.5, low + B - 0.5 - bucket, str(bucket + 1), ha="center", va="center", fontsize=7)
        for i, (label, buckets) in enumerate(LABELS.items()):
            y = low - 1.0 - 0.95 * i
            ax.text(x + 0.5, y, str(buckets[r]), ha="center", va="center", fontsize=8)
            if r == 0:
                ax.plot(x - 0.45, y, LOOK[label][0], color=LOOK[label][1], markersize=4)
    bold = {"ha": "center", "weight": "bold"}
    ax.text(middle, low + B + 1.15, f"{R} × {B} = {outputs} outputs", fontsize=9, **bold)
    ax.text(middle, low - 4.15, verdict, fontsize=8, **bold)


def draw_growth(ax: Axes, costs: dict[int, dict[str, Any]]) -> None:
    drawn = list(costs)
    for name, words, color, marker, line in (
        ("cells", "cells for labels:\n{0} to the power R", BLUE, "o", "-"),
        ("outputs", "outputs:\n{0} times R", VERMILLION, "s", (0, (5.0, 2.0))),
    ):
        heights = [costs[r][name] for r in drawn]
        ax.plot(drawn, heights, marker=marker, linestyle=line, color=color)
        for r, height in zip(drawn, heights, strict=True):
            ax.annotate(str(height), (r, height), (0, 5 if name == "cells" else -11), textcoords="offset points",
                        ha="center", fontsize=8, color=for_text(color))  # fmt: skip
        ax.annotate(words.format(B), (drawn[-1], heights[-1]), (10, 0), textcoords="offset points", va="center",
                    fontsize=8, color=for_text(color), annotation_clip=False)  # fmt: skip
    ax.set_xlabel("R, repetitions of 3 buckets")
    ax.set_xticks(drawn)
    ax.set_ylim(-14, 95)
    ax.set_yticks([0, 27, 54, 81])


def draw() -> Picture:
    table = rows()
    costs = {row["R"]: row for row in table if row["kind"] == "cost"}
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(6.4, 6.9))
        grids = figure.add_axes((0.0, 0.25, 1.0, 0.75))
        for R, left in zip(SHOWN, (2.2, 8.6, 15.0), strict=True):
            draw_panel(grids, left, R, costs)
        side = {"fontsize": 7, "color": GREY, "ha": "left", "va": "center"}
        grids.text(-0.6, -4.7, "outputs,\none per\nbucket", **side)
        grids.text(-0.6, -8.15, "bucket\nof three\nlabels", **side)
        inside = "inside every grid: row = bucket in repetition 1, column = bucket in repetition 2"
        grids.text(15 + (2 * (B + GAP) + B) / 2, -0.75, inside, ha="center", fontsize=6, color=GREY)
        grids.set_xlim(-0.6, 26)
        grids.set_ylim(-10.7, 13.4)
        grids.set_aspect("equal")
        grids.axis("off")
        draw_growth(figure.add_axes((0.1, 0.05, 0.55, 0.18)), costs)
    return Picture("codes", "Linear cost, exponential resolution", figure=figure, rows=table)


if __name__ == "__main__":
    picture = draw()
    for kind in ("png", "pdf"):
        write_atomic(HERE / f"codes.{kind}", picture.render(kind))
    write_atomic(HERE / "codes.csv", picture.csv())
