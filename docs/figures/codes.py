"""Draws codes.png, codes.pdf and codes.csv beside this file: python docs/figures/codes.py

Three buckets a world, and 2, 3 or 4 worlds: 6, 9 and 12 outputs are paid for, 9, 27 and 81 codes tell labels apart.
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

B, WORLDS = 3, (2, 3, 4)
LABELS = {"circle": (2, 3, 1, 2), "square": (2, 3, 3, 1), "triangle": (2, 3, 1, 3)}  # bucket in worlds 1 to 4, from 1
LOOK = {"circle": ("o", BLUE), "square": ("s", ORANGE), "triangle": ("^", VERMILLION)}
VERDICTS = {3: "all in one cell", 1: "one told apart", 0: "all told apart"}  # by pairs that share a cell
GAP = 0.55  # between the grids of one panel, in cells


def rows() -> list[dict[str, Any]]:
    """The numbers drawn: what R worlds pay and tell apart, and the code of each label that is shown."""
    out: list[dict[str, Any]] = []
    lookup = np.array(list(LABELS.values())).T - 1
    for worlds, pairs in enumerate(unresolved_pairs(lookup), 1):
        outputs = parameters(1, 1, B, worlds, B**worlds)["params_output"] // 2  # a weight and a bias for each
        told = {"outputs": outputs, "cells": B**worlds, "pairs_of_shown_labels_in_one_cell": int(pairs)}
        out.append({"worlds": worlds, "kind": "cost", **told})
    for worlds in WORLDS:
        for label, buckets in LABELS.items():
            out.append({"worlds": worlds, "kind": "code", "label": label, "code": code(buckets[:worlds])})
    return out


def code(buckets: tuple[int, ...]) -> str:
    return "-".join(map(str, buckets))


def cell(buckets: tuple[int, ...]) -> tuple[float, float]:
    """Lower left corner of a code's cell: row in a grid by world 1, column by 2, the grid's by 3 and 4."""
    row, column, grid_row, grid_column = (*buckets, 1, 1)[:4]
    step = B + GAP
    return (grid_column - 1) * step + column - 1, (B - grid_row) * step + B - row


def draw_panel(ax: Axes, left: float, worlds: int, costs: dict[int, dict[str, Any]]) -> None:
    """The cells of ``worlds`` worlds above, the outputs that they pay for below, and the codes of the shown labels."""
    step = B + GAP
    width, height = B if worlds < 4 else 2 * step + B, 2 * step + B
    for index in np.ndindex(*[B] * worlds):
        x, y = cell(tuple(i + 1 for i in index))
        ax.add_patch(Rectangle((left + x, y), 1, 1, facecolor=PAPER, edgecolor=GREY, linewidth=0.7))
    small = {"fontsize": 7, "color": GREY}
    if worlds > 2:
        for grid in range(B):
            y = (B - 1 - grid) * step + B / 2
            ax.text(left - 0.35, y, str(grid + 1), ha="right", va="center", **small)
        ax.text(left - 1.0, height / 2, "bucket in world 3", rotation=90, ha="right", va="center", **small)
    else:
        for i in range(B):
            ax.text(left - 0.35, height - i - 0.5, str(i + 1), ha="right", va="center", **small)
            ax.text(left + i + 0.5, height + 0.2, str(i + 1), ha="center", va="bottom", **small)
        ax.text(left - 1.0, height - B / 2, "world 1", rotation=90, ha="right", va="center", **small)
        ax.text(left + B / 2, height + 0.95, "bucket in world 2", ha="center", va="bottom", **small)
    if worlds == 4:
        for grid in range(B):
            ax.text(left + grid * step + B / 2, height + 0.2, str(grid + 1), ha="center", va="bottom", **small)
        ax.text(left + width / 2, height + 0.95, "bucket in world 4", ha="center", va="bottom", **small)
    cells, outputs = costs[worlds]["cells"], costs[worlds]["outputs"]
    ax.text(left + width / 2, height + 2.2, f"{worlds} worlds: {cells} cells", ha="center", fontsize=9, weight="bold")
    together: dict[tuple[int, ...], list[str]] = {}
    for label, buckets in LABELS.items():
        together.setdefault(buckets[:worlds], []).append(label)
    for buckets, labels in together.items():
        x, y = cell(buckets)
        ax.add_patch(Rectangle((left + x, y), 1, 1, facecolor="#e9e9e9", edgecolor=INK, linewidth=1.4, zorder=2))
        for i, label in enumerate(labels):
            marker, color = LOOK[label]
            at = left + x + 0.5 + 0.27 * (i - (len(labels) - 1) / 2)
            ax.plot(at, y + 0.5, marker, color=color, markersize=3, zorder=3)
    pairs = costs[worlds]["pairs_of_shown_labels_in_one_cell"]
    draw_outputs(ax, left + width / 2, worlds, outputs, VERDICTS[pairs])


def draw_outputs(ax: Axes, middle: float, worlds: int, outputs: int, verdict: str) -> None:
    """One column of B outputs a world; then the code of each label, a bucket under each world."""
    left, low = middle - worlds / 2 * 1.3, -6.2
    for world in range(worlds):
        x = left + world * 1.3 + 0.15
        ax.text(x + 0.5, low + B + 0.15, f"w{world + 1}", ha="center", va="bottom", fontsize=7, color=GREY)
        for bucket in range(B):
            box = Rectangle((x, low + B - 1 - bucket), 1, 1, facecolor=FAINT, edgecolor=INK, linewidth=0.7)
            ax.add_patch(box)
            ax.text(x + 0.5, low + B - 0.5 - bucket, str(bucket + 1), ha="center", va="center", fontsize=7)
        for i, (label, buckets) in enumerate(LABELS.items()):
            y = low - 1.0 - 0.95 * i
            ax.text(x + 0.5, y, str(buckets[world]), ha="center", va="center", fontsize=8)
            if world == 0:
                ax.plot(x - 0.45, y, LOOK[label][0], color=LOOK[label][1], markersize=4)
    told = {"ha": "center", "weight": "bold"}
    ax.text(middle, low + B + 1.15, f"{worlds} × {B} = {outputs} outputs", fontsize=9, **told)
    ax.text(middle, low - 4.15, verdict, fontsize=8, **told)


def draw_growth(ax: Axes, costs: dict[int, dict[str, Any]]) -> None:
    worlds = list(costs)
    for name, words, color, marker, line in (
        ("cells", "cells to tell labels apart:\n{0} to the power R", BLUE, "o", "-"),
        ("outputs", "outputs to pay for:\n{0} times R", VERMILLION, "s", (0, (5.0, 2.0))),
    ):
        heights = [costs[r][name] for r in worlds]
        ax.plot(worlds, heights, marker=marker, linestyle=line, color=color)
        for r, height in zip(worlds, heights, strict=True):
            ax.annotate(str(height), (r, height), (0, 5 if name == "cells" else -11), textcoords="offset points",
                        ha="center", fontsize=8, color=for_text(color))  # fmt: skip
        ax.annotate(words.format(B), (worlds[-1], heights[-1]), (10, 0), textcoords="offset points", va="center",
                    fontsize=8, color=for_text(color), annotation_clip=False)  # fmt: skip
    ax.set_xlabel("R, worlds of 3 buckets")
    ax.set_xticks(worlds)
    ax.set_ylim(-14, 95)
    ax.set_yticks([0, 27, 54, 81])


def draw() -> Picture:
    table = rows()
    costs = {row["worlds"]: row for row in table if row["kind"] == "cost"}
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(6.4, 6.9))
        grids = figure.add_axes((0.0, 0.25, 1.0, 0.75))
        for worlds, left in zip(WORLDS, (2.2, 8.6, 15.0), strict=True):
            draw_panel(grids, left, worlds, costs)
        side = {"fontsize": 7, "color": GREY, "ha": "left", "va": "center"}
        grids.text(-0.6, -4.7, "outputs,\none a\nbucket", **side)
        grids.text(-0.6, -8.15, "bucket\nof three\nlabels", **side)
        inside = "inside every grid: row = bucket in world 1, column = bucket in world 2"
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
