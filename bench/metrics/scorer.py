"""Quality of rankings on the evaluated points of a dataset."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bench.columns import QUALITY
from bench.common.errors import InputError
from bench.data import Dataset, Split
from bench.data.passport import label_counts
from bench.metrics.by_frequency import deciles, quality_by_group
from bench.metrics.ranking import evaluate


def evaluated_points(data: Dataset, on: str) -> Split:
    """The points that quality is measured on: ``test`` or ``validation``. InputError when there are none."""
    points = data.validation if on == "validation" else data.test
    if not len(points):
        raise InputError(f"dataset {data.name}: found no {on} points to measure quality on; expected at least one")
    return points


def quality_of(labels: npt.NDArray[np.integer[Any]], data: Dataset, points: Split) -> dict[str, float | None]:
    """The contract's metrics of ranked labels [N, k] for N points of a dataset, and those of head, torso and tail."""
    A, B = data.propensity
    quality = evaluate(labels, points.Y, data.train.Y, A=A, B=B)
    by_group = quality_by_group(labels, points.Y, label_counts(data.train.Y))
    return {name: quality[name] for name in QUALITY} | by_group


def deciles_of(labels: npt.NDArray[np.integer[Any]], data: Dataset, points: Split) -> dict[str, list[float | None]]:
    """Metrics by frequency decile of ranked labels [N, k]; see `bench.metrics.by_frequency.deciles`."""
    return deciles(labels, points.Y, label_counts(data.train.Y))
