"""The data that runs need, built and named in a process of its own, so that the launcher holds none of it.

    python -m bench.plan.datasets     (standard input: JSON list of [dataset, overrides]; standard output: JSON lines)

A line is ``{"building": dataset}``, or at the end ``{"data": [...]}`` with an object for each dataset (`Named`), or
``{"error": text}``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.common.child_processes import die_with_parent, python
from bench.common.errors import InputError
from bench.common.files import is_full
from bench.config.evaluation_inputs import EvaluationInputs


@dataclass(frozen=True)
class Named:
    """A dataset on disk.

    Args:
        fingerprint: of its content.
        identity: what of it is part of a run's identity.
        evaluated: for ``test`` and ``validation`` points, what decides the metrics.
    """

    fingerprint: str
    identity: str
    evaluated: Mapping[str, EvaluationInputs]

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Named:
        evaluated = {on: EvaluationInputs.from_json(inputs) for on, inputs in content["evaluated"].items()}
        return cls(content["fingerprint"], content["identity"], evaluated)

    def to_json(self) -> dict[str, Any]:
        evaluated = {on: inputs.to_json() for on, inputs in self.evaluated.items()}
        return {"fingerprint": self.fingerprint, "identity": self.identity, "evaluated": evaluated}


def prepare(wanted: Sequence[tuple[str, Mapping[str, Any]]], on_build: Callable[[str], None]) -> list[Named]:
    """Name each dataset (name and overrides of its card), building it first where it is not yet on disk.

    Raises InputError for data that cannot be found or read, OSError when there is no room for them.
    """
    command, env = python("bench.plan.datasets")
    child = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    with child:
        child.stdin.write(json.dumps([[name, dict(overrides)] for name, overrides in wanted]))
        child.stdin.close()
        last: dict[str, Any] = {}
        for line in child.stdout:
            last = json.loads(line)
            if "building" in last:
                on_build(last["building"])
    if "error" in last:
        raise InputError(last["error"])
    if "full" in last:
        raise OSError(*last["full"])
    if "data" not in last:
        raise InputError(f"the process that prepares data ended with exit status {child.returncode} and no result")
    return [Named.from_json(found) for found in last["data"]]


def _name(dataset: str, overrides: Mapping[str, Any], emit: Callable[[dict[str, Any]], None]) -> Named:
    from bench.data import dataset_fingerprint, prepare_dataset
    from bench.data.dataset import identity_of
    from bench.data.evaluation import POINTS, cached_evaluation_inputs

    found = dataset_fingerprint(dataset, **overrides)
    if found is None:
        emit({"building": dataset})
        prepare_dataset(dataset, **overrides)
        found = dataset_fingerprint(dataset, **overrides)
    if found is None:
        raise RuntimeError(f"dataset {dataset} was built but has no fingerprint")
    inputs = {on: cached_evaluation_inputs(dataset, on, **overrides) for on in POINTS}
    return Named(found, identity_of(found, dataset), {on: known for on, known in inputs.items() if known})


def main() -> int:
    """The child's side."""
    die_with_parent()
    # Only lines of JSON go to the pipe; what is printed while data are built goes to the standard error.
    pipe = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def emit(event: dict[str, Any]) -> None:
        print(json.dumps(event), file=pipe, flush=True)

    try:
        emit({"data": [_name(dataset, overrides, emit).to_json() for dataset, overrides in json.load(sys.stdin)]})
    except InputError as error:
        emit({"error": str(error)})
    except OSError as error:
        if not is_full(error) and error.filename is not None:
            emit({"error": f"{error.filename}: cannot be read or written ({error.strerror})"})
            return 1
        if not is_full(error):
            raise
        emit({"full": [error.errno, error.strerror, error.filename]})
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
