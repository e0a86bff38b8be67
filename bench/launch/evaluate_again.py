"""Finished runs whose filter, propensity constants or metrics have changed: evaluated again before any run starts."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import replace

from bench.common.child_processes import python
from bench.common.errors import InputError
from bench.launch.progress import Progress
from bench.plan.plan import PlannedRun
from bench.results.store import Store


def evaluated_again(runs: Sequence[PlannedRun], store: Store, progress: Progress) -> list[PlannedRun]:
    """The runs of the plan, where needed evaluated again from their kept predictions, in a process of its own.

    Runs whose predictions do not suffice get no status, as if they had no result: they are repeated.
    """
    due = {run.run_id: run for run in runs if run.evaluate and store.quarantined(run.run_id) is None}
    if not due:
        return list(runs)
    insufficient = set()
    for answer in _rescored(list(due), store):
        run_id, left, changed = answer["run_id"], answer["left"], answer["changed"]
        if left:
            insufficient.add(run_id)
            progress.note(f"{run_id}: {due[run_id].evaluate}; cannot be evaluated again, {left}; runs again")
        elif changed:
            progress.note(f"{run_id}: evaluated again: {changed}")
    return [replace(run, status=None) if run.run_id in insufficient else run for run in runs]


def _rescored(run_ids: Sequence[str], store: Store) -> list[dict[str, str]]:
    """The child's answers (`bench.results.rescore.Rescored`)."""
    command, env = python("bench.results.rescore")
    done = subprocess.run(
        [*command, str(store.root)], env=env, input=json.dumps(run_ids), stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise InputError(f"the process that evaluates predictions again ended with exit status {done.returncode}")
    return [json.loads(line) for line in done.stdout.splitlines()]
