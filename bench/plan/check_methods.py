"""The methods and settings of an experiment, checked in a process of its own, so that the launcher imports no method.

    python -m bench.plan.check_methods     (standard input: JSON list of [target, settings])

Each line of the standard output is the answer to one pair: ``{"settings": {...}}``, ``{"error": text}``, or ``{}``
where the method's module cannot be imported here.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.common.child_processes import die_with_parent, python
from bench.common.code_hash import code_hash, find_users_own
from bench.common.errors import InputError
from bench.config.experiment import Experiment
from bench.config.spec import RunSpec
from bench.results.store import Store

Pair = tuple[str, str]  # target, and settings as JSON
Ask = Callable[[Sequence[tuple[str, Mapping[str, Any]]]], Sequence[Mapping[str, Any]]]


def checked(experiment: Experiment, store: Store, ask: Ask | None = None) -> Experiment:
    """The experiment with settings of the types that its methods expect. Nothing is built or written.

    ``ask`` answers the pairs; default: in a process of its own.

    InputError, one line per error, for a setting that is unknown, missing, of another type or out of its range, and for
    a method with a misspelt name. Runs that the same code has finished are not checked again: where all are finished,
    no process is started.
    """
    hashes = {target: code_hash(target) for target in {spec.target for spec in experiment.runs}}
    finished = finished_runs(store)
    new = [spec for spec in experiment.runs if (spec.canonical(), hashes[spec.target]) not in finished]
    pairs = list(dict.fromkeys(_pair(spec) for spec in new))
    if not pairs:
        return experiment
    asked = [(target, json.loads(settings)) for target, settings in pairs]
    answers = dict(zip(pairs, (ask or _ask)(asked), strict=True))
    errors = list(dict.fromkeys(answer["error"] for answer in answers.values() if "error" in answer))
    if errors:
        where = f"{experiment.file}: " if experiment.file else ""
        raise InputError("\n".join(where + error for error in errors))
    runs = [spec.with_settings(answers.get(_pair(spec), {}).get("settings", spec.settings)) for spec in experiment.runs]
    return replace(experiment, runs=tuple(runs))


def finished_runs(store: Store) -> set[tuple[str, str]]:
    """(canonical spec, hash of the code) of each finished run of an experiment; unreadable ones are left out."""
    found = set()
    for path in store.runs.glob("[!.]*/record.json"):
        try:
            if json.loads(path.read_text())["status"] == "ok":
                found.add(_spec_and_code(path.parent / "spec.json"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return found


def _spec_and_code(path: Path) -> tuple[str, str]:
    text = path.read_text()
    return RunSpec.from_json(text).canonical(), str(json.loads(text)["code"])


def _pair(spec: RunSpec) -> Pair:
    return spec.target, json.dumps(dict(spec.settings))


def _ask(pairs: Sequence[tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The child's answers, in the order of the pairs."""
    command, env = python("bench.plan.check_methods")
    done = subprocess.run(command, env=env, input=json.dumps(pairs), stdout=subprocess.PIPE, text=True, check=False)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode or len(answers) != len(pairs):
        raise InputError(f"the process that checks methods ended with exit status {done.returncode} and no result")
    return answers


def answers_here(pairs: Sequence[tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The answers of this process, which imports the methods."""
    return [answer(target, settings) for target, settings in pairs]


def answer(target: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The child's answer to one pair."""
    from bench.model.methods import Method

    find_users_own()
    try:
        importlib.import_module(target.rpartition(".")[0])
    except Exception:  # a library that is missing here may be there where the run is executed; the run reports it
        return {}
    try:
        method = Method.load(target, settings)
    except InputError as error:
        return {"error": str(error)}
    try:
        _ = method.encoders, method.processes  # what follows from the settings alone
    except ValueError as error:
        return {"error": f"method {target}: {error}"}
    return {"settings": dict(method.settings)}


def main() -> int:
    """The child's side."""
    die_with_parent()
    # Only lines of JSON go to the pipe; what imported modules print goes to the standard error.
    pipe = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        for target, settings in json.load(sys.stdin):
            print(json.dumps(answer(target, settings)), file=pipe, flush=True)
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
