"""The runs of an experiment, each with its identity and what is already known of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.code import code_hash
from bench.data import dataset_fingerprint, load_card, prepare_dataset
from bench.experiment import Experiment
from bench.spec import RunSpec
from bench.store import Store


@dataclass(frozen=True)
class PlannedRun:
    """A run of the plan; ``status`` is that of its record, None when there is none."""

    run_id: str
    spec: RunSpec
    status: str | None


def plan(experiment: Experiment, store: Store, on_build: Callable[[str], None]) -> list[PlannedRun]:
    """All runs of an experiment in the order they will run; datasets not yet on disk are built first.

    Raises InputError for data that cannot be had or read, and for methods whose code is not found.
    """
    fingerprints: dict[str, str] = {}
    hashes: dict[str, str] = {}
    planned: dict[str, PlannedRun] = {}
    for spec in experiment.runs:
        data = f"{spec.dataset} {sorted(spec.dataset_overrides.items())}"
        if data not in fingerprints:
            fingerprints[data] = _fingerprint(spec, on_build)
        if spec.target not in hashes:
            hashes[spec.target] = code_hash(spec.target)
        run_id = spec.run_id(hashes[spec.target], fingerprints[data])
        record = store.record(run_id)
        planned[run_id] = PlannedRun(run_id, spec, record["status"] if record else None)
    return list(planned.values())


def _fingerprint(spec: RunSpec, on_build: Callable[[str], None]) -> str:
    found = dataset_fingerprint(spec.dataset, **spec.dataset_overrides)
    if found is None:
        on_build(spec.dataset)
        prepare_dataset(spec.dataset, **spec.dataset_overrides)
        found = dataset_fingerprint(spec.dataset, **spec.dataset_overrides)
    if found is None:
        raise RuntimeError(f"dataset {spec.dataset} was built but has no fingerprint")
    return identity_of(found, spec)


def identity_of(fingerprint: str, spec: RunSpec) -> str:
    """What of the data is part of a run's identity.

    The card decides how many train points are held out; that changes the run, but not the data's fingerprint.
    """
    return f"{fingerprint} {load_card(spec.dataset).validation_points}"
