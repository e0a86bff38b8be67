"""The runs of an experiment, each with its identity and what is already known of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.common.code_hash import code_hash
from bench.config.evaluation_inputs import EvaluationInputs
from bench.config.experiment import Experiment
from bench.config.spec import RunSpec
from bench.plan.datasets import prepare
from bench.results.answers import Answer
from bench.results.record import RunRecord
from bench.results.store import Store


@dataclass(frozen=True)
class Stale:
    """A result that does not answer the request as it is now, and why."""

    run_id: str
    why: str


@dataclass(frozen=True)
class PlannedRun:
    """A run of the plan; ``status`` is that of its record, None when there is none."""

    run_id: str
    spec: RunSpec
    status: str | None
    code: str = ""  # hash of the code that is to run
    question: str = ""  # hash of spec and data, see `RunSpec.question`
    stale: tuple[Stale, ...] = ()  # results of the same spec that are of other code or data
    evaluate: str = ""  # what has changed since its predictions were evaluated; empty where nothing has
    inputs: EvaluationInputs | None = None  # what decides its metrics now


def plan(experiment: Experiment, store: Store, on_build: Callable[[str], None]) -> list[PlannedRun]:
    """All runs of an experiment in the order they will run; datasets not yet on disk are built first.

    Raises InputError for data that cannot be had or read, and for methods whose code is not found.
    """
    wanted = {_data(spec): (spec.dataset, spec.dataset_overrides) for spec in experiment.runs}
    named = dict(zip(wanted, prepare(list(wanted.values()), on_build), strict=True))
    hashes = {target: code_hash(target) for target in dict.fromkeys(spec.target for spec in experiment.runs)}
    answers = answered(store)
    planned: dict[str, PlannedRun] = {}
    for spec in experiment.runs:
        data, code = named[_data(spec)], hashes[spec.target]
        run_id, question = spec.run_id(code, data.identity), spec.question(data.fingerprint)
        record = store.record(run_id)
        others = stale(answers.get(spec.request(), ()), run_id, data.fingerprint)
        inputs = data.evaluated.get(spec.train.evaluate_on)
        evaluate = outdated(record, inputs) if record else ""
        status = record.status if record else None
        planned[run_id] = PlannedRun(run_id, spec, status, code, question, others, evaluate, inputs)
    return list(planned.values())


def outdated(record: RunRecord, inputs: EvaluationInputs | None) -> str:
    """What has changed since the predictions of a run were evaluated; empty where nothing has, or where it has none."""
    if not record.ranked or inputs is None or record.evaluated == inputs:
        return ""
    return record.evaluated.changes(inputs) if record.evaluated else "not recorded by what it was evaluated"


def stale(answers: Sequence[Answer], run_id: str, fingerprint: str) -> tuple[Stale, ...]:
    """Of the results of one request those of other runs, with what is different now. ``fingerprint``: of the data."""
    found = []
    for answer in answers:
        old = answer.record.shared.get("data_fingerprint")
        why = "made by other code" if old in (None, fingerprint) else f"on other data ({old}, now {fingerprint})"
        if answer.record.run_id != run_id:
            found.append(Stale(answer.record.run_id, why))
    return tuple(found)


def answered(store: Store) -> dict[str, list[Answer]]:
    """Results by request (`RunSpec.request`), whatever code and data they are of."""
    found: dict[str, list[Answer]] = {}
    for answer in map(store.answer, store.records()):
        if answer.record.status == "ok" and answer.request is not None:
            found.setdefault(answer.request, []).append(answer)
    return found


def _data(spec: RunSpec) -> str:
    return json.dumps([spec.dataset, dict(spec.dataset_overrides)], sort_keys=True)
