"""Metrics again from kept predictions, and the metrics of rankings made elsewhere. No run is repeated; no torch.

    python -m bench.results.rescore FOLDER     (standard input: JSON list of run ids; standard output: JSON lines)

A line is a `Rescored`. FOLDER: results/<experiment>.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.columns import QUALITY
from bench.common import environment
from bench.common.child_processes import die_with_parent
from bench.common.errors import InputError
from bench.common.files import write_atomic
from bench.common.names import as_file_name, checked_name
from bench.config.evaluation_inputs import EvaluationInputs
from bench.config.spec import RunSpec
from bench.data import Dataset, load_dataset
from bench.data.evaluation import evaluation_inputs
from bench.data.formats.scores import read_scores
from bench.metrics.scorer import Scorer
from bench.results.answers import changes, replaced
from bench.results.predictions import RankedLabels, kept
from bench.results.record import Evaluation, RunRecord, Scalar
from bench.results.run_folder import RunFolder
from bench.results.store import Store


@dataclass(frozen=True, slots=True)
class Rescored:
    """How the kept predictions of a run were evaluated again.

    Args:
        run_id: of the run.
        changed: what differs from the last time, in words: other inputs of the metrics, and the P@1 of its own row.
        moved: the largest absolute change of a metric.
        left: why it was left as it was; empty where it was evaluated.
    """

    run_id: str
    changed: str = ""
    moved: float = 0.0
    left: str = ""

    def line(self) -> str:
        """For a person."""
        if self.left:
            return f"{self.run_id}: not evaluated again: {self.left}"
        if not self.moved:
            return f"{self.run_id}: unchanged{f' ({self.changed})' if self.changed else ''}"
        return f"{self.run_id}: changed by up to {self.moved:.2g} ({self.changed})"


def score_experiment(store: Store, only: Collection[str] | None = None) -> Iterator[Rescored]:
    """Evaluate the kept top-k of finished runs (``only``: of these) again; rewrites the records that change.

    A run is left as it is, with the reason, where its predictions cannot be read, where they are for other data than
    the dataset is now, and where they are too short: the filter has changed, and less than 5 labels of a point remain
    or labels that it excluded before may now be predicted.
    """
    datasets: dict[str, Dataset] = {}
    scorers: dict[tuple[str, str], Scorer] = {}
    for record in store.records():
        if not record.ranked or (only is not None and record.run_id not in only):
            continue
        try:
            name, overrides, on = predicted(store.runs / record.run_id)
            key = json.dumps([name, overrides], sort_keys=True)
            if key not in datasets:
                datasets[key] = load_dataset(name, **overrides)
            if (key, on) not in scorers:
                scorers[key, on] = Scorer(datasets[key], on)
            yield _score_again(record, store, scorers[key, on], evaluation_inputs(datasets[key], on))
        except InputError as error:
            yield Rescored(record.run_id, left=str(error))


def _score_again(record: RunRecord, store: Store, scorer: Scorer, inputs: EvaluationInputs) -> Rescored:
    """Rewrite a record where a metric or an input has changed."""
    folder = store.runs / record.run_id
    found = record.shared["data_fingerprint"]
    if found != inputs.data:
        return Rescored(record.run_id, left=f"its predictions are for data {found}; the dataset is now {inputs.data}")
    rankings = kept(folder / "topk.npz", len(record.ranked), len(scorer))
    if record.ranked_without not in (None, inputs.filter):
        return Rescored(record.run_id, left="the kept labels leave out pairs of an earlier filter")
    if not all(scorer.suffices(labels) for labels in rankings):
        return Rescored(record.run_id, left="without the labels that the filter excludes, too few are kept")
    scores = [scorer.score(labels) for labels in rankings]
    scored = record.scored(scores, inputs)
    if scored != record:
        write_atomic(folder / "record.json", json.dumps(scored.to_json(), indent=1) + "\n")
    moves = [
        abs((score.quality[name] or 0.0) - (before.quality.get(name) or 0.0))
        for before, score in zip(record.ranked, scores, strict=True)
        for name in QUALITY
    ]
    changed = record.evaluated.changes(inputs) if record.evaluated else ""
    moved = max(moves, default=0.0)
    if moved:
        before, after = (100 * (r.ranked[-1].quality.get("P@1") or 0.0) for r in (record, scored))
        changed = ", ".join(filter(None, [changed, f"P@1 {before:.2f} → {after:.2f} %"]))
        store.ledger.append("evaluated", record.run_id, reason=changed)
    return Rescored(record.run_id, changed, moved)


def score_file(store: Store, path: Path, method: str, dataset: str) -> RunRecord:
    """Add a ranking made elsewhere as a run of its own, without times or sizes; returns its record.

    It replaces an earlier ranking of the same method and dataset.

    The file is a CSR matrix in .npz, arrays ``labels`` and ``scores`` in .npz, or text pairs; see
    `bench.data.formats.scores.read_scores` for its checks.
    """
    checked_name(method, "--method")
    data = load_dataset(dataset)
    scorer = Scorer(data)
    read = read_scores(path, len(data.test), data.test.Y.shape[1])
    scores, labels = read[0].astype(np.float32), read[1].astype(np.int32)
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
    record = RunRecord(run_id, "ok", shared, own, evaluated=evaluation_inputs(data, "test"))
    folder.write_record(record)
    folder.complete()
    store.ledger.append("finished", run_id, status="ok", reason=f"scored from {path.name}")
    return record


def scored_line(store: Store, record: RunRecord) -> str:
    """What a scored file gave, and what it replaced, for a person."""
    quality = ", ".join(f"{name} {100 * record.own.metric(name):.2f} %" for name in ("P@1", "P@3", "P@5"))
    answers = store.answers()
    newest = replaced(answers, list(store.ledger.events()))
    old = [answer for answer in answers if (new := newest.get(answer.record.run_id)) and new.record == record]
    if not old:
        return f"{record.run_id}: scored: {quality}"
    before, because = old[-1].record, changes(old[-1], store.answer(record))
    was = f"P@1 {100 * (before.own.quality.get('P@1') or 0.0):.2f} %"
    return f"{record.run_id}: scored: {quality}; replaces {before.run_id} ({because}), {was}"


def main(folder: Path) -> int:
    """Evaluate the runs again whose ids are read, and print how it went."""
    die_with_parent()
    only = frozenset(json.load(sys.stdin))
    for rescored in score_experiment(Store(folder), only):
        print(json.dumps(asdict(rescored)), flush=True)
    return 0


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


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
