"""What an experiment's ledger and records say of its runs."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from rich.table import Table

from bench.common.code_hash import code_hash
from bench.common.errors import InputError
from bench.config.evaluation_inputs import EvaluationInputs
from bench.results.answers import Answer, changes, replaced
from bench.results.left_out.damage import damaged
from bench.results.store import UNSETTLED, Store


def run_states(store: Store) -> dict[str, dict[str, Any]]:
    """State and reason of every run in the ledger, in the order they were first planned.

    ``running`` (a living process holds it, here or on another machine), else ``interrupted``; ``quarantined`` for a
    withdrawn result; ``unreadable`` for a damaged one; ``replaced`` for one with a newer answer to the same request;
    ``stale`` for one of other code, data, filter or propensity constants than there are now; else a record's status, or
    ``planned``. Runs that were forgotten are left out.
    """
    broken = {found.run_id: found.reason for found in damaged(store.runs)}
    open_starts = store.ledger.open_starts()
    now = _Now()
    answers = {answer.record.run_id: answer for answer in store.answers()}
    newest = replaced(list(answers.values()), list(store.ledger.events()))
    states: dict[str, dict[str, Any]] = {}
    last = {entry["run_id"]: entry["event"] for entry in store.ledger.events()}
    forgotten = {run for run, event in last.items() if event == "forgotten" and not (store.runs / run).exists()}
    unlisted = (folder.name for folder in sorted(store.runs.glob("[!.]*")) if folder.name not in last)
    for run_id in (*last, *unlisted):  # a broken ledger may lack runs that have a folder
        if run_id in forgotten:
            continue
        answer, withdrawn = answers.get(run_id), store.quarantined(run_id)
        if run_id in open_starts:
            start = open_starts[run_id]
            reason = f"process {start.get('pid')} on {start.get('host')}, started {start.get('time')}"
            states[run_id] = {"state": "running" if store.run_locked(run_id) else "interrupted", "reason": reason}
        elif run_id in broken:
            states[run_id] = {"state": "unreadable", "reason": broken[run_id]}
        elif withdrawn is not None:
            states[run_id] = {"state": "quarantined", "reason": withdrawn}
        elif answer is not None:
            states[run_id] = _of_result(answer, newest.get(run_id), now, store.runs / run_id)
        else:
            states[run_id] = {"state": "planned", "reason": ""}
    for entry in store.ledger.events():
        if entry["event"] == "interrupted" and states.get(entry["run_id"], {}).get("state") == "planned":
            states[entry["run_id"]] = {"state": "interrupted", "reason": entry.get("reason") or ""}
    return states


def _of_result(answer: Answer, newer: Answer | None, now: _Now, folder: Path) -> dict[str, Any]:
    record = answer.record
    reason = record.reason or ""
    if newer is not None:
        because = ": ".join(filter(None, [f"{record.status}, by {newer.record.run_id}", changes(answer, newer)]))
        return {"state": "replaced", "reason": because}
    why = now.different(answer, folder)
    if not why:
        return {"state": record.status, "reason": reason}
    return {"state": "stale", "reason": "; ".join(filter(None, [f"{record.status}, {why}", reason]))}


class _Now:
    """The code and the data as they are now; each is looked up once."""

    def __init__(self) -> None:
        self._code = cache(_code_now)
        self._inputs = cache(_inputs_now)

    def different(self, answer: Answer, folder: Path) -> str:
        """In words, what is not as it was for a result; empty where all is.

        Nothing is for runs that were interrupted or skipped. Code and data that are not on this machine do not count.
        """
        record = answer.record
        if record.status in UNSETTLED or answer.request is None:
            return ""
        if answer.question is not None:
            code = self._code(answer.target)
            if code is not None and code != answer.code:
                return "made by other code"
        inputs = self._inputs(*_evaluates(folder)) if record.ranked else None
        data = record.shared.get("data_fingerprint")
        if inputs is None or data is None:
            return ""
        if data != inputs.data:
            return f"on other data than there are now: data {data} → {inputs.data}"
        if record.evaluated is not None and (changed := record.evaluated.changes(inputs)):
            return f"evaluated otherwise than now: {changed}"
        return ""


def _evaluates(folder: Path) -> tuple[str, str, str]:
    """Dataset, overrides as JSON, and points that a run evaluates."""
    from bench.results.rescore import predicted

    name, overrides, on = predicted(folder)
    return name, json.dumps(overrides, sort_keys=True), on


def _inputs_now(dataset: str, overrides: str, on: str) -> EvaluationInputs | None:
    from bench.data.evaluation import cached_evaluation_inputs

    try:
        return cached_evaluation_inputs(dataset, on, **json.loads(overrides))
    except InputError:
        return None


def _code_now(target: str) -> str | None:
    try:
        return code_hash(target)
    except InputError:
        return None


def stale_line(store: Store) -> str | None:
    """What a command that shows results says of those that are stale; None where none is."""
    stale = {run_id: state for run_id, state in run_states(store).items() if state["state"] == "stale"}
    if not stale:
        return None
    run_id, state = next(iter(stale.items()))
    which = f"{run_id} is stale" if len(stale) == 1 else f"{len(stale)} runs are stale, such as {run_id}"
    return f"{which} ({state['reason']}); `machbench run {store.root.name}` answers anew"


def status_table(folder: Path) -> Table:
    """The states as a table for the terminal."""
    states = run_states(Store(folder))
    counts: dict[str, int] = {}
    for state in states.values():
        counts[state["state"]] = counts.get(state["state"], 0) + 1
    title = ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "no runs"
    table = Table("run", "state", "reason", title=f"{folder.name}: {title}", title_justify="left")
    for run_id, state in states.items():
        table.add_row(run_id, state["state"], state["reason"])
    return table
