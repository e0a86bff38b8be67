"""The figure ``wall_time_against_workers``: what distributing independent repetitions saves, and what it cannot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from bench.report.figures.drawing.labels import Label, label_ends
from bench.report.figures.drawing.machine import Machines
from bench.report.figures.drawing.panels import Curves, flat_groups, log_ticks, stack
from bench.report.figures.drawing.picture import Picture, context, trace
from bench.report.figures.drawing.style import INK, RC, Style, styles
from bench.report.groups import Configuration

TITLE = "Wall time against the number of workers"
PANELS = (("fit_s", "Training"), ("elapsed_s", "The whole run: also loading, building, and predicting with every R"))


@dataclass(frozen=True)
class Spread:
    """A run of R independent repetitions: means over seeds of its seconds, and the processes that trained it."""

    group: Configuration
    label: str
    look: Style
    R: int
    fit_s: float
    elapsed_s: float | None
    processes: int

    def training(self, workers: int) -> float:
        """Seconds of the busiest worker: it trains ⌈R/workers⌉ repetitions, each 1/R of the training."""
        return math.ceil(self.R / workers) * self.fit_s / self.R

    def whole(self, workers: int) -> float | None:
        """Seconds of the whole run. None where they are not known, because some repetitions were trained before."""
        if self.elapsed_s is None or self.elapsed_s < self.training(self.processes):
            return None
        return self.elapsed_s - self.training(self.processes) + self.training(workers)


def draw(groups: Sequence[Configuration], machines: Machines, name: str = "wall_time_against_workers") -> Picture:
    """``groups``: the configurations of one dataset. Not drawn without a run of several independent repetitions."""
    found = spread(groups)
    if not found:
        return Picture(
            name, TITLE, reason="no finished run of two or more independent repetitions has training seconds"
        )
    flats = [group for group in flat_groups(groups) if group.mean("fit_s") and group.mean("params_output")]
    looks = styles(group.method for group in groups)
    most = max(run.R for run in found)
    rows: list[dict[str, Any]] = []
    with matplotlib.rc_context(RC):
        figure, axes = stack([2.6, 2.6], right=0.72)
        ends = []
        for ax, (column, title) in zip(axes, PANELS, strict=True):
            labels = []
            for run in found:
                points = _points(run, column, most)
                rows += [_row(run.group, column, kind, workers, seconds) for kind, workers, seconds in points]
                labels += _draw(ax, run, points)
            for group in flats:
                level = group.mean(column)
                if level:
                    look = looks[group.method]
                    ax.axhline(level, color=look.color, linestyle=look.line, linewidth=1.2)
                    labels.append(Label(most, level, group.method, look.color, replace(look, marker="")))
                    rows.append(_row(group, column, "measured", 1, level))
            ends.append(labels)
            ax.set_title(title)
            ax.set_ylabel("seconds")
            ax.set_xscale("log", base=2)
            ax.set_yscale("log")
            ax.xaxis.set_major_locator(FixedLocator([2**n for n in range(most.bit_length())]))
            ax.xaxis.set_minor_locator(NullLocator())
            for axis in (ax.xaxis, ax.yaxis):
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
                axis.set_minor_formatter(NullFormatter())
            log_ticks(ax.yaxis)
            ax.tick_params(labelbottom=ax is axes[-1])
            ax.margins(x=0.04)
        axes[-1].set_xlabel("workers (log scale)")
        for ax, labels in zip(axes, ends, strict=True):
            label_ends(ax, labels)
    shown = [run.group for run in found] + flats
    return Picture(name, TITLE, f"{_caption(found)} {context(shown, machines, 'means')}", figure, rows)


def spread(groups: Sequence[Configuration]) -> list[Spread]:
    """For each hashed method and B the run with the largest R at the best settings, if its encoders are independent."""
    curves, found = Curves(groups), []
    for i, line in enumerate(curves.all):
        group = line[-1]
        R, fit_s = int(group.R or 0), group.mean("fit_s")
        if not curves.bold(i) or R < 2 or not fit_s or group.mean("encoder_trained_by"):
            continue
        processes = round(group.mean("training_processes") or 1)
        found.append(Spread(group, curves.label(i), curves.look[i], R, fit_s, group.mean("elapsed_s"), processes))
    return found


def _points(run: Spread, column: str, most: int) -> list[tuple[str, int, float]]:
    """(kind, workers, seconds) of a panel: computed where another worker saves time, and measured."""
    useful = sorted({math.ceil(run.R / each) for each in range(1, run.R + 1)} | {1})
    seconds = run.training if column == "fit_s" else run.whole
    computed = [("computed", workers, value) for workers in useful if (value := seconds(workers)) is not None]
    if computed and useful[-1] < most:  # more workers than repetitions change nothing
        computed.append(("computed", most, computed[-1][2]))
    own = run.fit_s if column == "fit_s" and run.processes == 1 else None
    if column == "elapsed_s" and computed:
        own = run.elapsed_s
    return computed + ([] if own is None else [("measured", run.processes, own)])


def _draw(ax: Axes, run: Spread, points: Sequence[tuple[str, int, float]]) -> list[Label]:
    line = [(workers, seconds) for kind, workers, seconds in points if kind == "computed"]
    for kind, workers, seconds in points:
        if kind == "measured":
            ax.plot([workers], [seconds], run.look.marker, color=run.look.color, mec=INK, mew=0.8, ms=7, zorder=4)
    if not line:
        return []
    xs, ys = zip(*line, strict=True)
    ax.plot(xs, ys, color=run.look.color, linestyle=run.look.line, marker=run.look.marker, ms=3.2, zorder=3)
    return [Label(xs[-1], ys[-1], f"{run.label}, R = {run.R}", run.look.color, run.look)]


def _row(group: Configuration, column: str, kind: str, workers: int, seconds: float) -> dict[str, Any]:
    identity = {"panel": column, "kind": kind, "dataset": group.dataset, "method": group.method, "B": group.B}
    return {**identity, "R": group.R, "workers": workers, "seconds": seconds, **trace([group])}


def _caption(found: Sequence[Spread]) -> str:
    counts = sorted({run.processes for run in found})
    words = " or ".join("one process" if count == 1 else f"{count} processes" for count in counts)
    return (
        "The R repetitions of a run are independent, so each can have its own worker. Large markers with an edge: "
        f"measured, trained by {words}. Lines: computed from the measured seconds; of W workers the busiest trains "
        "⌈R/W⌉ repetitions, and everything else is as measured. Level lines: networks that are not distributed, on one "
        "worker."
    )
