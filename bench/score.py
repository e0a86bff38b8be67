"""Metrics again from kept predictions, and the metrics of rankings made elsewhere. No run is repeated; no torch."""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import environment
from bench.columns import QUALITY
from bench.data import Dataset, Split, load_dataset
from bench.data.passport import label_counts
from bench.data.scores import read_scores
from bench.errors import InputError
from bench.files import write_atomic
from bench.frequency import deciles, quality_by_group
from bench.metrics import evaluate
from bench.predict import Prediction, without
from bench.spec import RunSpec
from bench.store import RunFolder, Store


def score_experiment(store: Store) -> dict[str, float]:
    """Evaluate the kept top-k of every finished run again and rewrite its record where a metric moved.

    Returns, for each run that has predictions, the largest absolute change of a metric. Raises InputError when the
    predictions cannot be read or the dataset on disk is not the one that was predicted.
    """
    datasets: dict[str, Dataset] = {}
    changes = {}
    for record in store.records():
        folder = store.runs / record["run_id"]
        rows = ranked_rows(record)
        if not rows:
            continue
        name, overrides, on = predicted(folder)
        key = json.dumps([name, overrides], sort_keys=True)
        if key not in datasets:
            datasets[key] = load_dataset(name, **overrides)
        data = datasets[key]
        found = record["shared"]["data_fingerprint"]
        if found != data.fingerprint:
            raise InputError(f"{folder}: predictions are for data {found}; {name} on disk is {data.fingerprint}")
        points = evaluated_points(data, on)
        rankings = kept(folder / "topk.npz", len(rows), len(points))
        before, moved = json.dumps(record), 0.0
        for row, labels in zip(rows, rankings, strict=True):
            quality = quality_of(labels, data, points)
            moved = max([moved, *(abs((quality[name] or 0.0) - row.get(name, 0.0)) for name in QUALITY)])
            row.update(quality)
        record["deciles"] = [deciles_of(labels, data, points) for labels in rankings]
        if json.dumps(record) != before:  # also where an older record lacks a metric
            write_atomic(folder / "record.json", json.dumps(record, indent=1) + "\n")
        changes[record["run_id"]] = moved
    return changes


def score_file(store: Store, path: Path, method: str, dataset: str) -> str:
    """Add a ranking made elsewhere as a run of its own, without times or sizes; returns its run id.

    The file is a CSR matrix in .npz, arrays ``labels`` and ``scores`` in .npz, or text pairs; see
    `bench.data.scores.read_scores` for its checks.
    """
    data = load_dataset(dataset)
    read = read_scores(path, len(data.test), data.test.Y.shape[1])
    scores, labels = read[0].astype(np.float32), read[1].astype(np.int32)
    if data.test_filter is not None:
        scores, labels = without((scores, labels), data.test_filter, labels.shape[1])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:6]
    run_id = f"{method}-{data.name}-{digest}"
    folder = RunFolder.create_foreign(store.runs, run_id, {"method": method, "dataset": dataset, "file": path.name})
    folder.write_predictions([Prediction(None, scores, labels)])
    shared = {
        "method": method,
        "dataset": data.name,
        "data_fingerprint": data.fingerprint,
        "env_id": environment.env_id(),
        "n_train": len(data.train),
        "n_test": len(data.test),
        "n_features": data.train.X.shape[1],
        "n_labels": data.train.Y.shape[1],
    }
    row, by_decile = quality_of(labels, data, data.test), deciles_of(labels, data, data.test)
    folder.write_record({"status": "ok", "shared": shared, "rows": [row], "deciles": [by_decile]})
    folder.complete()
    store.ledger.append("finished", run_id, status="ok", reason=f"scored from {path.name}")
    return run_id


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
    """Metrics by frequency decile of ranked labels [N, k]; see `bench.frequency.deciles`."""
    return deciles(labels, points.Y, label_counts(data.train.Y))


def ranked_rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a record that have predictions: all, or those of fewer repetitions where the run itself failed."""
    rows: list[dict[str, Any]] = record["rows"]
    return rows if record["status"] == "ok" else rows[:-1]


def predicted(folder: Path) -> tuple[str, dict[str, Any], str]:
    """Name and parameters of the dataset that a run predicts, and which of its points."""
    text = (folder / "spec.json").read_text()
    foreign = json.loads(text).get("foreign")
    if foreign:
        return foreign["dataset"], {}, "test"
    spec = RunSpec.from_json(text)
    return spec.dataset, dict(spec.dataset_overrides), spec.train.evaluate_on


def kept(path: Path, n_rows: int, n_points: int) -> npt.NDArray[np.int32]:
    """Ranked labels [n_rows, n_points, k] of a run's topk.npz; InputError when they cannot be read or do not fit."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            labels = arrays["labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: not readable predictions: {error}") from error
    if labels.ndim != 3 or labels.shape[:2] != (n_rows, n_points):
        raise InputError(f"{path}, key labels: found shape {labels.shape}; expected ({n_rows}, {n_points}, k)")
    return np.asarray(labels, dtype=np.int32)
