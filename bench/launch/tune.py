"""Choose settings under equal conditions: the best trial of each method on validation points, and its origin.

`bench.config.experiment` draws the trials, `bench.launch` runs them like any run, and this module reads the results.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from bench.common.files import write_atomic
from bench.config.experiment import TRIAL, Experiment
from bench.config.spec import RunSpec
from bench.plan.plan import PlannedRun
from bench.results.kept_inputs import CHOSEN
from bench.results.store import Store

SHOWN = ("P@1", "P@3", "P@5")
HEADER = """\
# Written by `machbench run {name}`, which overwrites it from its trials: copy it before you edit it.
# An experiment: each method with the settings that were best on the validation points, measured on the test points.
# `tuned` says where the settings come from.
"""


@dataclass(frozen=True)
class Trial:
    """The runs of one trial, one per seed, and the mean of their quality; None when some run has no result."""

    number: int
    runs: tuple[PlannedRun, ...]
    quality: Mapping[str, float] | None

    @property
    def spec(self) -> RunSpec:
        return self.runs[0].spec


def write_chosen(experiment: Experiment, runs: Sequence[PlannedRun], store: Store) -> Path | None:
    """results/<experiment>/chosen.yaml, an experiment with the chosen settings; None when the experiment tunes nothing.

    Depends on the plan and the records alone, so that the same trials write the same bytes.
    """
    if experiment.tuning is None:
        return None
    path = store.root / CHOSEN
    together: dict[tuple[str, str, str], list[PlannedRun]] = {}
    for run in runs:
        point = (run.spec.dataset, repr(sorted(run.spec.dataset_overrides.items())), run.spec.method)
        together.setdefault(point, []).append(run)
    tuned: list[dict[str, Any]] = []
    datasets: dict[tuple[str, str], list[RunSpec]] = {}
    for (dataset, overrides, _), members in together.items():
        trials = list(_trials(members, store, experiment.tuning.metric))
        best = choose(trials, experiment.tuning.metric)
        tuned.append(_provenance(trials, best, store))
        datasets.setdefault((dataset, overrides), []).append((best or trials[0]).spec)
    content = {
        "name": f"{experiment.name}_chosen",
        "description": f"Settings chosen by `{experiment.name}` on validation points, measured on the test points.",
        "dataset": [_dataset(specs) for specs in datasets.values()],
        "seeds": experiment.config.get("seeds", 0),
        "methods": {name: {"method": _file(experiment, name)} for name in experiment.config["methods"]},
        "time_limit_s": experiment.time_limit_s,
        "memory_limit_bytes": experiment.memory_limit_bytes,
        "tuned": {"experiment": experiment.name, **asdict(experiment.tuning), "methods": tuned},
    }
    text = OmegaConf.to_yaml(OmegaConf.create({key: value for key, value in content.items() if value is not None}))
    return write_atomic(path, HEADER.format(name=experiment.name) + text)


def choose(trials: Iterable[Trial], metric: str) -> Trial | None:
    """The trial with the highest ``metric``, of equals the earliest; None when no trial has a result."""
    ok = [(trial.quality[metric], -trial.number, trial) for trial in trials if trial.quality is not None]
    return max(ok, key=lambda entry: entry[:2])[2] if ok else None


def _trials(runs: Iterable[PlannedRun], store: Store, metric: str) -> Iterator[Trial]:
    numbered: dict[int, list[PlannedRun]] = {}
    for run in runs:
        numbered.setdefault(run.spec.swept[TRIAL], []).append(run)
    for number, members in sorted(numbered.items()):
        records = [store.record(run.run_id) for run in members if store.quarantined(run.run_id) is None]
        rows = [record.own for record in records if record is not None and record.status == "ok"]
        names = dict.fromkeys((*SHOWN, metric))
        mean = {name: sum(row.metric(name) for row in rows) / len(rows) for name in names if rows}
        yield Trial(number, tuple(members), mean if len(rows) == len(members) else None)


def _provenance(trials: Sequence[Trial], best: Trial | None, store: Store) -> dict[str, Any]:
    """Where the settings of one method on one dataset come from; without a best trial they are the defaults."""
    chosen, default = best or trials[0], trials[0]
    record = store.record(chosen.runs[0].run_id)
    spec, searched = chosen.spec, _searched([trial.spec for trial in trials])
    return {
        "dataset": spec.dataset_name,
        **({"parameters": dict(spec.dataset_overrides)} if spec.dataset_overrides else {}),
        "method": spec.method,
        "data_fingerprint": record.shared.get("data_fingerprint") if record else None,
        "run_ids": [run.run_id for run in chosen.runs],
        "trial": chosen.number,
        "trials": len(trials),
        "trials_ok": sum(trial.quality is not None for trial in trials),
        "settings": {name: _flat(spec)[name] for name in searched},
        "default_settings": {name: _flat(default.spec)[name] for name in searched},
        "validation": None if best is None else dict(best.quality or {}),
        "default_validation": None if default.quality is None else dict(default.quality),
    }


def _flat(spec: RunSpec) -> dict[str, Any]:
    return {**asdict(spec.train), **spec.settings}


def _searched(specs: Sequence[RunSpec]) -> list[str]:
    """Names of the settings that differ between trials."""
    first = _flat(specs[0])
    return [name for name in first if any(_flat(spec)[name] != first[name] for spec in specs)]


def _dataset(specs: Sequence[RunSpec]) -> dict[str, Any]:
    """A dataset of the chosen experiment, with every setting written out: later defaults do not affect it."""
    train = [{**asdict(spec.train), "evaluate_on": "test"} for spec in specs]
    shared = {key: value for key, value in train[0].items() if all(other[key] == value for other in train)}
    own = [{key: value for key, value in settings.items() if key not in shared} for settings in train]
    methods = {spec.method: {**spec.settings, **rest} for spec, rest in zip(specs, own, strict=True)}
    return {"name": specs[0].dataset, **specs[0].dataset_overrides, "train": shared, "methods": methods}


def _file(experiment: Experiment, name: str) -> str:
    """The method's file in the experiment: a name under configs/method/ or a path."""
    return str((experiment.config["methods"][name] or {}).get("method", name))
