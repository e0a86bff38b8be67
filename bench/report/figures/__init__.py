"""The figures of an experiment, by name. To add one: a module with ``draw`` in this folder, and a line in a list below.

A figure is drawn from table.csv, the learning curves and the records of the machines alone. What figures share (axes,
labels, panels, styles of methods, captions) is in `bench.report.figures.drawing`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd

from bench.common.errors import unknown_name
from bench.report.figures import (
    against_labels,
    against_workers,
    by_frequency,
    learning_curves,
    p1_against_b,
    p1_against_r,
    p1_against_size,
    parameter_split,
    resolution,
)
from bench.report.figures.drawing.machine import Machines, read_machines
from bench.report.figures.drawing.picture import Picture
from bench.report.figures.p1_against_size import SIZES
from bench.report.groups import Configuration, grouped

__all__ = ["Picture", "build_figures", "write_figures"]


@dataclass(frozen=True)
class Source:
    """What a figure is drawn from: configurations, the records of machines, and the folder of run directories."""

    groups: Sequence[Configuration]
    machines: Machines
    runs: Path


Draw = Callable[[Source, str], Picture]  # the second argument is the name of the figure

FOR_EACH_DATASET: dict[str, Draw] = {
    "linear_cost_exponential_resolution": lambda s, name: resolution.draw(s.groups, s.machines, name),
    "p1_against_r": lambda s, name: p1_against_r.draw(s.groups, s.machines, name),
    "p1_against_b_at_equal_rb": lambda s, name: p1_against_b.draw(s.groups, s.machines, name),
    "p1_against_output_parameters": lambda s, name: _against_size(s, "params_output", name),
    "p1_against_bytes": lambda s, name: _against_size(s, "model_bytes", name),
    "p1_against_peak_memory": lambda s, name: _against_size(s, "peak_bytes", name),
    "learning_curves": lambda s, name: learning_curves.draw(s.groups, s.machines, s.runs, name),
    "head_torso_tail": lambda s, name: by_frequency.draw(s.groups, s.machines, name),
    "parameter_split": lambda s, name: parameter_split.draw(s.groups, s.machines, name),
    "wall_time_against_workers": lambda s, name: against_workers.draw(s.groups, s.machines, name),
}
OVER_DATASETS: dict[str, Draw] = {
    "cost_against_labels": lambda s, name: against_labels.draw_cost(s.groups, s.machines, name),
    "decode_time_against_labels": lambda s, name: against_labels.draw_decoding(s.groups, s.machines, name),
}


def build_figures(df: pd.DataFrame, runs: Path | None = None, only: str | None = None) -> list[Picture]:
    """All figures of a frame from ``load_results``, or the ``only`` one: a set for each dataset, then those over all.

    A dataset whose parameters are swept counts as one for each of their values. Figures that cannot be drawn carry the
    ``reason``. ``runs`` is the folder of run directories, for the learning curves; the records of machines are in the
    folder ``env`` two levels up, as in ``results/``. Raises InputError for a broken record of a machine, and for
    an unknown figure; a broken learning curve is left out.
    """
    runs = runs or Path("runs")
    groups = grouped(df)
    machines = read_machines(runs.parent.parent / "env", (row["env_id"] for group in groups for row in group.rows))
    draw = _by_name(Source(groups, machines, runs))
    if only is not None and only not in draw:
        raise unknown_name("figure", only, draw)
    return [one(name) for name, one in draw.items() if only in (None, name)]


def _by_name(source: Source) -> dict[str, Callable[[str], Picture]]:
    """A function that draws each figure, by its name, which ends in the dataset where there are several."""
    datasets = list(dict.fromkeys(group.dataset for group in source.groups))
    draw: dict[str, Callable[[str], Picture]] = {}
    for dataset in datasets:
        own = replace(source, groups=[group for group in source.groups if group.dataset == dataset])
        tail = "" if len(datasets) == 1 else "_" + "".join(c if c.isalnum() else "-" for c in dataset)
        draw |= {f"{name}{tail}": partial(one, own) for name, one in FOR_EACH_DATASET.items()}
    if source.groups:
        draw |= {name: partial(one, source) for name, one in OVER_DATASETS.items()}
    return draw


def _against_size(source: Source, size: str, name: str) -> Picture:
    return p1_against_size.draw(source.groups, source.machines, SIZES[size], name)


def write_figures(
    df: pd.DataFrame, out_dir: Path | str, runs: Path | str | None = None, only: str | None = None
) -> list[Path]:
    """Write every figure, or the ``only`` one, as `Picture.write` does; returns the paths.

    ``runs`` defaults to that folder beside ``out_dir``, as in ``results/<experiment>/``. InputError as `build_figures`.
    """
    out_dir = Path(out_dir)
    pictures = build_figures(df, Path(runs) if runs is not None else out_dir.parent / "runs", only)
    return [path for picture in pictures for path in picture.write(out_dir)]
