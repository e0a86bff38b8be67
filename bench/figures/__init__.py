"""The figures of an experiment, drawn from its table (and learning curves) alone."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from bench.figures import learning_curves, p1_against_output_parameters, p1_against_r, resolution
from bench.figures.picture import Picture
from bench.summary import grouped

__all__ = ["Picture", "build_figures", "write_figures"]


def build_figures(df: pd.DataFrame, runs: Path | None = None) -> list[Picture]:
    """All figures of a frame from ``load_results``, one set a dataset; those not drawn carry the ``reason``.

    ``runs`` is the folder of run directories, for the learning curves. Raises InputError for a broken one.
    """
    groups = grouped(df)
    datasets = list(dict.fromkeys(group.dataset for group in groups))
    pictures: list[Picture] = []
    for dataset in datasets:
        here = [group for group in groups if group.dataset == dataset]
        tail = "" if len(datasets) == 1 else "_" + "".join(c if c.isalnum() else "-" for c in dataset)
        pictures.append(resolution.draw(here, f"linear_cost_exponential_resolution{tail}"))
        pictures.append(p1_against_r.draw(here, f"p1_against_r{tail}"))
        pictures.append(p1_against_output_parameters.draw(here, f"p1_against_output_parameters{tail}"))
        pictures.append(learning_curves.draw(here, runs or Path("runs"), f"learning_curves{tail}"))
    return pictures


def write_figures(df: pd.DataFrame, out_dir: Path | str, runs: Path | str | None = None) -> list[Path]:
    """Write every figure as .png, .pdf, .svg, .csv (plotted numbers) and .txt (caption); returns the paths.

    A figure whose data are absent is only a .txt that gives the reason. ``runs`` defaults to that
    folder beside ``out_dir``, as in ``results/<experiment>/``.
    """
    out_dir = Path(out_dir)
    pictures = build_figures(df, Path(runs) if runs is not None else out_dir.parent / "runs")
    return [path for picture in pictures for path in picture.write(out_dir)]
