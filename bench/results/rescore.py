"""Metrics again from kept predictions, and the metrics of rankings made elsewhere. No run is repeated; no torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from bench.columns import QUALITY
from bench.common import environment
from bench.common.errors import InputError
from bench.common.files import write_atomic
from bench.config.spec import RunSpec
from bench.data import Dataset, load_dataset
from bench.data.formats.scores import read_scores
from bench.metrics.scorer import deciles_of, evaluated_points, quality_of
from bench.results.predictions import RankedLabels, kept, without
from bench.results.record import ranked_rows
from bench.results.run_folder import RunFolder
from bench.results.store import Store


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
    `bench.data.formats.scores.read_scores` for its checks.
    """
    data = load_dataset(dataset)
    read = read_scores(path, len(data.test), data.test.Y.shape[1])
    scores, labels = read[0].astype(np.float32), read[1].astype(np.int32)
    if data.test_filter is not None:
        scores, labels = without((scores, labels), data.test_filter, labels.shape[1])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:6]
    run_id = f"{method}-{data.name}-{digest}"
    folder = RunFolder.create_foreign(store.runs, run_id, {"method": method, "dataset": dataset, "file": path.name})
    folder.write_predictions([RankedLabels(None, scores, labels)])
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


def predicted(folder: Path) -> tuple[str, dict[str, Any], str]:
    """Name and parameters of the dataset that a run predicts, and which of its points."""
    text = (folder / "spec.json").read_text()
    foreign = json.loads(text).get("foreign")
    if foreign:
        return foreign["dataset"], {}, "test"
    spec = RunSpec.from_json(text)
    return spec.dataset, dict(spec.dataset_overrides), spec.train.evaluate_on
