"""The runs of an experiment, each with its identity and what is already known of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from bench.common.code_hash import code_hash
from bench.config.experiment import Experiment
from bench.config.spec import RunSpec
from bench.plan.datasets import prepare
from bench.results.store import Store


@dataclass(frozen=True)
class PlannedRun:
    """A run of the plan; ``status`` is that of its record, None when there is none."""

    run_id: str
    spec: RunSpec
    status: str | None
    code: str = ""  # hash of the code that is to run
    question: str = ""  # hash of spec and data, see `RunSpec.question`
    stale: tuple[str, ...] = ()  # runs of the same spec and data with a result made by other code


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
        others = tuple(other for other in answers.get(question, ()) if other != run_id)
        planned[run_id] = PlannedRun(run_id, spec, record.status if record else None, code, question, others)
    return list(planned.values())


def answered(store: Store) -> dict[str, list[str]]:
    """Runs with a result, by the hash of spec and data, whatever code made it."""
    found: dict[str, list[str]] = {}
    for record in store.records():
        question = store.question(record)[0]
        if record.status == "ok" and question is not None:
            found.setdefault(question, []).append(record.run_id)
    return found


def _data(spec: RunSpec) -> str:
    return json.dumps([spec.dataset, dict(spec.dataset_overrides)], sort_keys=True)
