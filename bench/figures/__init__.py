"""The figures of an experiment, drawn from its table, learning curves and the records of its machines alone."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from bench.figures import (
    against_labels,
    by_frequency,
    learning_curves,
    p1_against_b,
    p1_against_r,
    p1_against_size,
    parameter_split,
    resolution,
)
from bench.figures.machine import read_machines
from bench.figures.p1_against_size import SIZES
from bench.figures.picture import Picture
from bench.summary import Group, grouped

__all__ = ["Picture", "build_figures", "write_figures"]


def build_figures(df: pd.DataFrame, runs: Path | None = None) -> list[Picture]:
    """All figures of a frame from ``load_results``: a set for each dataset, then those over all datasets.

    A dataset whose parameters are swept counts as one for each of their values. Those that cannot be drawn carry the
    ``reason``. ``runs`` is the folder of run directories, for the learning curves; the records of machines are in the
    folder ``env`` two levels up, as in ``results/``. Raises InputError for a broken one.
    """
    runs = runs or Path("runs")
    groups = grouped(df)
    machines = read_machines(runs.parent.parent / "env", (row["env_id"] for group in groups for row in group.rows))
    datasets = _by_dataset(groups)
    pictures: list[Picture] = []
    for words, here in datasets.items():
        tail = "" if len(datasets) == 1 else "_" + "".join(c if c.isalnum() else "-" for c in words)
        pictures += [
            resolution.draw(here, machines, f"linear_cost_exponential_resolution{tail}"),
            p1_against_r.draw(here, machines, f"p1_against_r{tail}"),
            p1_against_b.draw(here, machines, f"p1_against_b_at_equal_rb{tail}"),
            p1_against_size.draw(here, machines, SIZES["params_output"], f"p1_against_output_parameters{tail}"),
            p1_against_size.draw(here, machines, SIZES["model_bytes"], f"p1_against_bytes{tail}"),
            p1_against_size.draw(here, machines, SIZES["peak_bytes"], f"p1_against_peak_memory{tail}"),
            learning_curves.draw(here, machines, runs, f"learning_curves{tail}"),
            by_frequency.draw(here, machines, f"head_torso_tail{tail}"),
            parameter_split.draw(here, machines, f"parameter_split{tail}"),
        ]
    if groups:
        pictures += [against_labels.draw_cost(groups, machines), against_labels.draw_decoding(groups, machines)]
    return pictures


def _by_dataset(groups: list[Group]) -> dict[str, list[Group]]:
    """The configurations on the same data; swept parameters of a dataset are part of its name."""
    found: dict[str, list[Group]] = {}
    for group in groups:
        swept = [f"{k.removeprefix('dataset.')} {v}" for k, v in group.settings.items() if k.startswith("dataset.")]
        found.setdefault(" ".join([group.dataset, *swept]), []).append(group)
    return found


def write_figures(df: pd.DataFrame, out_dir: Path | str, runs: Path | str | None = None) -> list[Path]:
    """Write every figure as .png, .pdf, .svg, .csv (plotted numbers) and .txt (caption); returns the paths.

    A figure whose data are absent is only a .txt that gives the reason. ``runs`` defaults to that
    folder beside ``out_dir``, as in ``results/<experiment>/``.
    """
    out_dir = Path(out_dir)
    pictures = build_figures(df, Path(runs) if runs is not None else out_dir.parent / "runs")
    return [path for picture in pictures for path in picture.write(out_dir)]
