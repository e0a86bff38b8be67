"""Which runs of an experiment's results its YAML file asks for as it is now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bench.common.code_hash import code_hash
from bench.common.errors import InputError
from bench.config.experiment import Experiment
from bench.config.spec import RunSpec
from bench.data import dataset_fingerprint
from bench.data.dataset import identity_of
from bench.results.store import Store


def runs_in_file(experiment: Experiment, store: Store) -> set[str]:
    """Ids of the runs, with a folder or in the ledger alone, whose spec is one of the experiment's, whatever code and
    data they had. Predictions made elsewhere are in no file."""
    wanted = {_identity(spec) for spec in experiment.runs}
    found = set(_ids(experiment))
    for path in store.runs.glob("[!.]*/spec.json"):
        try:
            spec = RunSpec.from_json(path.read_text())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # made elsewhere, or damaged
            continue
        if _identity(spec) in wanted:
            found.add(path.parent.name)
    return found


def _ids(experiment: Experiment) -> Iterator[str]:
    """Ids that the runs have with the code and the data that are here: of those that never started nothing else is
    known."""
    for spec in experiment.runs:
        try:
            code, data = code_hash(spec.target), dataset_fingerprint(spec.dataset, **spec.dataset_overrides)
            if data is not None:
                identity = identity_of(data, spec.dataset)
                yield from (one.run_id(code, identity) for one in (spec, _whole(spec)))
        except InputError:  # no such code or data here
            continue


def _identity(spec: RunSpec) -> str:
    return _whole(spec).question("")


def _whole(spec: RunSpec) -> RunSpec:
    """With whole numbers as such: 1e3 and 1000 are one value of a setting."""
    settings = {
        key: int(value) if isinstance(value, float) and value.is_integer() else value
        for key, value in spec.settings.items()
    }
    return replace(spec, settings=settings)
