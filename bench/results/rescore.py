"""Metrics again from kept predictions, and the metrics of rankings made elsewhere. No run is repeated; no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.columns import QUALITY
from bench.common import environment
from bench.common.errors import InputError
from bench.common.files import write_atomic
from bench.common.names import as_file_name, checked_name
from bench.config.spec import RunSpec
from bench.data import Dataset, load_dataset
from bench.data.formats.scores import read_scores
from bench.metrics.scorer import Scorer, without
from bench.results.predictions import RankedLabels, kept
from bench.results.record import Evaluation, RunRecord, Scalar
from bench.results.run_folder import RunFolder
from bench.results.store import Store


def score_experiment(store: Store, skip: Callable[[InputError], None] | None = None) -> dict[str, float]:
    """Evaluate the kept top-k of every finished run again and rewrite its record where a metric moved.

    Returns, for each run that has predictions, the largest absolute change of a metric. Raises InputError when the
    dataset on disk is not the one that was predicted. Where predictions cannot be read, ``skip`` gets the error and the
    other runs go on; without it, the error is raised.
    """
    datasets: dict[str, Dataset] = {}
    scorers: dict[tuple[str, str], Scorer] = {}
    changes = {}
    for record in store.records():
        if not record.ranked:
            continue
        folder = store.runs / record.run_id
        try:
            name, overrides, on = predicted(folder)
        except InputError as error:
            if skip is None:
                raise
            skip(error)
            continue
        key = json.dumps([name, overrides], sort_keys=True)
        if key not in datasets:
            datasets[key] = load_dataset(name, **overrides)
        data = datasets[key]
        found = record.shared["data_fingerprint"]
        if found != data.fingerprint:
            raise InputError(f"{folder}: predictions are for data {found}; {name} on disk is {data.fingerprint}")
        if (key, on) not in scorers:
            scorers[key, on] = Scorer(data, on)
        try:
            changes[record.run_id] = _score_again(record, folder, scorers[key, on])
        except InputError as error:
            if skip is None:
                raise
            skip(error)
    return changes


def _score_again(record: RunRecord, folder: Path, scorer: Scorer) -> float:
    """Rewrite a record where a metric has moved, or where an older record lacks one; the largest absolute change."""
    rankings = kept(folder / "topk.npz", len(record.ranked), len(scorer))
    scores = [scorer.score(labels) for labels in rankings]
    scored = record.scored(scores)
    if scored != record:
        write_atomic(folder / "record.json", json.dumps(scored.to_json(), indent=1) + "\n")
    changes = [
        abs((score.quality[name] or 0.0) - (before.quality.get(name) or 0.0))
        for before, score in zip(record.ranked, scores, strict=True)
        for name in QUALITY
    ]
    return max(changes, default=0.0)


def score_file(store: Store, path: Path, method: str, dataset: str) -> str:
    """Add a ranking made elsewhere as a run of its own, without times or sizes; returns its run id.

    The file is a CSR matrix in .npz, arrays ``labels`` and ``scores`` in .npz, or text pairs; see
    `bench.data.formats.scores.read_scores` for its checks.
    """
    checked_name(method, "--method")
    data = load_dataset(dataset)
    scorer = Scorer(data)
    read = read_scores(path, len(data.test), data.test.Y.shape[1])
    scores, labels = read[0].astype(np.float32), read[1].astype(np.int32)
    if scorer.left_out is not None:
        scores, labels = without((scores, labels), scorer.left_out, labels.shape[1])
    named = method.encode() if as_file_name(method) != method else b""  # two methods do not share a folder
    digest = hashlib.sha256(path.read_bytes() + named).hexdigest()[:6]
    run_id = f"{as_file_name(method)}-{as_file_name(data.name)}-{digest}"
    folder = RunFolder.create_foreign(store.runs, run_id, {"method": method, "dataset": dataset, "file": path.name})
    folder.write_predictions([RankedLabels(None, scores, labels)])
    shared: dict[str, Scalar] = {
        "method": method,
        "dataset": data.name,
        "data_fingerprint": data.fingerprint,
        "env_id": environment.env_id(),
        "n_train": len(data.train),
        "n_test": len(data.test),
        "n_features": data.train.X.shape[1],
        "n_labels": data.train.Y.shape[1],
    }
    own = Evaluation().scored(scorer.score(labels))
    folder.write_record(RunRecord(run_id, "ok", shared, own))
    folder.complete()
    store.ledger.append("finished", run_id, status="ok", reason=f"scored from {path.name}")
    return run_id


def predicted(folder: Path) -> tuple[str, dict[str, Any], str]:
    """Name and parameters of the dataset that a run predicts, and which of its points."""
    try:
        text = (folder / "spec.json").read_text()
        foreign = json.loads(text).get("foreign")
        if foreign:
            return foreign["dataset"], {}, "test"
        spec = RunSpec.from_json(text)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / 'spec.json'}: not a readable spec: {error}") from None
    return spec.dataset, dict(spec.dataset_overrides), spec.train.evaluate_on
