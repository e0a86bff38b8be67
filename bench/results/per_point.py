"""What a run's kept predictions add to each metric, point by point; nothing is built or downloaded for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.common.errors import InputError
from bench.data import Dataset, dataset_fingerprint, load_dataset
from bench.metrics.ranking import Floats, best_weight_sums, evaluate_points, inverse_propensity
from bench.metrics.scorer import evaluated_points
from bench.results.predictions import kept
from bench.results.record import ranked_rows, record_rows
from bench.results.rescore import predicted
from bench.results.store import Store

KS = (1, 3, 5)


class NotAvailable(LookupError):
    """The predictions or the data of a row are not on this machine; the message says which."""


class Points:
    """Values a point, for rows of one experiment's table. Keeps the data and the last run that was asked for."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        self._data: dict[str, tuple[Dataset, Floats]] = {}
        self._best: dict[tuple[str, str], Floats] = {}  # denominators of PSP, the same for all rankings of the points
        self._last: tuple[str, npt.NDArray[np.int32], list[str]] | None = None

    def of(self, row: Mapping[str, Any]) -> dict[str, Floats]:
        """By metric, what each of the evaluated points adds [N]: see `bench.metrics.ranking.evaluate_points`.

        Raises NotAvailable where the run's folder or its data are not there, InputError where they cannot be read.
        """
        run_id = row["derived_from"] or row["run_id"]
        folder = self.store.runs / run_id
        record = self.store.record(run_id)
        if record is None or not (folder / "topk.npz").is_file():
            raise NotAvailable("the kept predictions (runs/) are not beside the table")
        name, overrides, on = predicted(folder)
        data, weights = self._dataset(name, overrides, row["data_fingerprint"])
        points = evaluated_points(data, on)
        if self._last is None or self._last[0] != run_id:
            labels = kept(folder / "topk.npz", len(ranked_rows(record)), len(points))
            self._last = (run_id, labels, [str(r["run_id"]) for r in record_rows("", record)])
        _, labels, names = self._last
        if row["run_id"] not in names:
            raise InputError(f"{folder}: found rows {', '.join(names)}; expected {row['run_id']}, as table.csv has it")
        at = (data.fingerprint, on)
        if at not in self._best:
            self._best[at] = best_weight_sums(points.Y, weights, max(KS))
        return evaluate_points(labels[names.index(row["run_id"])], points.Y, weights, ks=KS, best_sums=self._best[at])

    def _dataset(self, name: str, overrides: Mapping[str, Any], fingerprint: str) -> tuple[Dataset, Floats]:
        """The data that a row is about, and its labels' weights 1/p."""
        key = json.dumps([name, overrides], sort_keys=True)
        if key not in self._data:
            try:
                found = dataset_fingerprint(name, **overrides)
            except InputError as error:
                raise NotAvailable(f"the data are not at hand ({error})") from None
            if found is None:
                raise NotAvailable(f"dataset {name} is not on this machine")
            data = load_dataset(name, **overrides)
            A, B = data.propensity
            self._data[key] = data, inverse_propensity(data.train.Y, A, B)
        data, weights = self._data[key]
        if data.fingerprint != fingerprint:
            raise NotAvailable(f"dataset {name} on this machine is {data.fingerprint}, not {fingerprint}")
        return data, weights
