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
from bench.data.evaluation import evaluation_inputs
from bench.metrics.ranking import Floats
from bench.metrics.scorer import Scorer
from bench.results.predictions import kept
from bench.results.rescore import predicted
from bench.results.store import Store


class NotAvailable(LookupError):
    """The predictions or the data of a row are not on this machine; the message says which."""


class Points:
    """Values of each point, for rows of one experiment's table. Keeps the data and the last run that was read."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        self._datasets: dict[str, Dataset] = {}
        self._scorers: dict[tuple[str, str], Scorer] = {}
        self._last: tuple[str, npt.NDArray[np.int32], tuple[str, ...]] | None = None

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
        data = self._dataset(name, overrides, row["data_fingerprint"])
        fingerprint = row.get("evaluation_fingerprint")
        if fingerprint is not None and fingerprint != evaluation_inputs(data, on).fingerprint:
            raise NotAvailable(f"dataset {name} is evaluated otherwise now: another filter, or other constants")
        scorer = self._scorer(data, on)
        if self._last is None or self._last[0] != run_id:
            labels = kept(folder / "topk.npz", len(record.ranked), len(scorer))
            self._last = (run_id, labels, record.row_ids)
        _, labels, names = self._last
        if row["run_id"] not in names:
            raise InputError(f"{folder}: found rows {', '.join(names)}; expected {row['run_id']}, as table.csv has it")
        return scorer.score_points(labels[names.index(row["run_id"])])

    def _scorer(self, data: Dataset, on: str) -> Scorer:
        key = (data.fingerprint, on)
        if key not in self._scorers:
            self._scorers[key] = Scorer(data, on)
        return self._scorers[key]

    def _dataset(self, name: str, overrides: Mapping[str, Any], fingerprint: str) -> Dataset:
        """The data that a row is about."""
        key = json.dumps([name, overrides], sort_keys=True)
        if key not in self._datasets:
            try:
                found = dataset_fingerprint(name, **overrides)
            except InputError as error:
                raise NotAvailable(f"the data are not available ({error})") from None
            if found is None:
                raise NotAvailable(f"dataset {name} is not on this machine")
            self._datasets[key] = load_dataset(name, **overrides)
        data = self._datasets[key]
        if data.fingerprint != fingerprint:
            raise NotAvailable(f"dataset {name} on this machine is {data.fingerprint}, not {fingerprint}")
        return data
