"""The figure ``parameter_split``: parameters of input, hidden and output layers, and the index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.ticker import MaxNLocator

from bench.columns import MIB, STATUS_WORDS, three_digits
from bench.report.figures.drawing.bars import bars, key, row_panels, stacked
from bench.report.figures.drawing.machine import Machines
from bench.report.figures.drawing.panels import Curves, chosen
from bench.report.figures.drawing.picture import Picture, context, trace
from bench.report.figures.drawing.style import GREY, RC, Style
from bench.report.groups import Configuration

TITLE = "Where the parameters are"
PARTS = ("input", "hidden", "output")


def draw(groups: Sequence[Configuration], machines: Machines, name: str = "parameter_split") -> Picture:
    """``groups``: the configurations of one dataset. Not drawn when no run has these counts."""
    found = [(g, label, look) for g, label, look in chosen(groups, Curves(groups)) if _split(g)]
    if not found:
        return Picture(name, TITLE, reason="no finished run has counts of its input, hidden and output parameters")
    lost = [(g, _failed_name(g), Style(GREY, "", "-")) for g in groups if not g.ok and _split(g)]
    rows = sorted([*found, *lost], key=lambda c: c[0].mean("params_total", True) or 0.0)
    shown = [group for group, _, _ in rows]
    with matplotlib.rc_context(RC):
        figure, axes = row_panels([label for _, label, _ in rows], [2.4, 1.3, 1])
        parts = [[(g.mean(f"params_{part}", True) or 0.0) / 1e6 for g in shown] for part in PARTS]
        totals = [(g.mean("params_total", True) or 0.0) / 1e6 for g in shown]
        stacked(axes[0], parts, totals, [three_digits(v) for v in totals])
        key(axes[0], PARTS)
        axes[0].set_xlabel("parameters (millions)")
        colors = [look.color for _, _, look in rows]
        bars(axes[1], parts[-1], colors, [three_digits(v) for v in parts[-1]])
        axes[1].set_title("output layer alone")
        axes[1].set_xlabel("parameters (millions)")
        index = [(g.mean("index_bytes", True) or 0.0) / MIB for g in shown]
        bars(axes[2], index, colors, [three_digits(v) if v else "" for v in index])
        axes[2].set_title("index")
        axes[2].set_xlabel("MiB")
        for ax in axes:
            ax.xaxis.set_major_locator(MaxNLocator(nbins=4))
    caption = (
        "Trained parameters, those of all repetitions together; the index is the table from labels to buckets. "
        "For each method its best settings, for a method with B and R the largest R of each B. "
        f"{context([g for g, _, _ in found], machines, 'sizes do not depend on them')}"
    )
    return Picture(name, TITLE, caption, figure, [_row(group) for group in shown])


def _split(group: Configuration) -> bool:
    return all(group.mean(f"params_{part}", True) is not None for part in (*PARTS, "total"))


def _failed_name(group: Configuration) -> str:
    size = f" B = {group.B:,}" if group.B is not None else ""
    return f"{group.method}{size}: {STATUS_WORDS[group.failed[0]['status']]}"


def _row(group: Configuration) -> dict[str, Any]:
    row: dict[str, Any] = {"dataset": group.dataset, "method": group.method, "B": group.B, "R": group.R}
    row |= {"status": "ok" if group.ok else group.failed[0]["status"]}
    for column in (*(f"params_{part}" for part in (*PARTS, "total")), "index_bytes"):
        row[column] = group.mean(column, True)
    return row | trace([group], of_failed=True)
