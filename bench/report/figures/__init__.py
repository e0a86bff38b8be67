"""The figures of an experiment, drawn from its table, learning curves and the records of its machines alone."""

from __future__ import annotations

from collections.abc import Callable
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


def build_figures(df: pd.DataFrame, runs: Path | None = None, only: str | None = None) -> list[Picture]:
    """All figures of a frame from ``load_results``, or the ``only`` one: a set for each dataset, then those over all.

    A dataset whose parameters are swept counts as one for each of their values. Those that cannot be drawn carry the
    ``reason``. ``runs`` is the folder of run directories, for the learning curves; the records of machines are in the
    folder ``env`` two levels up, as in ``results/``. Raises InputError for a broken one, and for an unknown figure.
    """
    runs = runs or Path("runs")
    groups = grouped(df)
    machines = read_machines(runs.parent.parent / "env", (row["env_id"] for group in groups for row in group.rows))
    draw = _ways_to_draw(groups, machines, runs)
    if only is not None and only not in draw:
        raise unknown_name("figure", only, draw)
    return [one(name) for name, one in draw.items() if only in (None, name)]


def _ways_to_draw(groups: list[Configuration], machines: Machines, runs: Path) -> dict[str, Callable[[str], Picture]]:
    """By the name of the figure, which it is given."""
    datasets = list(dict.fromkeys(group.dataset for group in groups))
    draw: dict[str, Callable[[str], Picture]] = {}
    for words in datasets:
        here = [group for group in groups if group.dataset == words]
        tail = "" if len(datasets) == 1 else "_" + "".join(c if c.isalnum() else "-" for c in words)
        draw |= {
            f"linear_cost_exponential_resolution{tail}": partial(resolution.draw, here, machines),
            f"p1_against_r{tail}": partial(p1_against_r.draw, here, machines),
            f"p1_against_b_at_equal_rb{tail}": partial(p1_against_b.draw, here, machines),
            f"p1_against_output_parameters{tail}": partial(_against_size, here, machines, "params_output"),
            f"p1_against_bytes{tail}": partial(_against_size, here, machines, "model_bytes"),
            f"p1_against_peak_memory{tail}": partial(_against_size, here, machines, "peak_bytes"),
            f"learning_curves{tail}": partial(learning_curves.draw, here, machines, runs),
            f"head_torso_tail{tail}": partial(by_frequency.draw, here, machines),
            f"parameter_split{tail}": partial(parameter_split.draw, here, machines),
            f"wall_time_against_workers{tail}": partial(against_workers.draw, here, machines),
        }
    if groups:
        draw["cost_against_labels"] = partial(against_labels.draw_cost, groups, machines)
        draw["decode_time_against_labels"] = partial(against_labels.draw_decoding, groups, machines)
    return draw


def _against_size(groups: list[Configuration], machines: Machines, size: str, name: str) -> Picture:
    return p1_against_size.draw(groups, machines, SIZES[size], name)


def write_figures(
    df: pd.DataFrame, out_dir: Path | str, runs: Path | str | None = None, only: str | None = None
) -> list[Path]:
    """Write every figure, or the ``only`` one, as `Picture.write` does; returns the paths.

    ``runs`` defaults to that folder beside ``out_dir``, as in ``results/<experiment>/``. InputError as `build_figures`.
    """
    out_dir = Path(out_dir)
    pictures = build_figures(df, Path(runs) if runs is not None else out_dir.parent / "runs", only)
    return [path for picture in pictures for path in picture.write(out_dir)]
