"""What an experiment's ledger and records say of its runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from rich.table import Table

from bench.common.code_hash import code_hash
from bench.common.errors import InputError
from bench.results.left_out.damage import damaged
from bench.results.record import RunRecord
from bench.results.run_folder import RunFolder
from bench.results.store import UNSETTLED, Store


def run_states(store: Store) -> dict[str, dict[str, Any]]:
    """State and reason of every run in the ledger, in the order they were first planned.

    ``running`` (a living process holds it, here or on another machine), else ``interrupted``; ``quarantined`` for a
    withdrawn result; ``unreadable`` for a damaged one; ``stale`` for one that was made by other code than there is now;
    else a record's status, or ``planned``. Runs that were forgotten are left out.
    """
    broken = {found.run_id: found.reason for found in damaged(store.runs)}
    open_starts = store.ledger.open_starts()
    code_now = cache(_code_now)
    states: dict[str, dict[str, Any]] = {}
    last = {entry["run_id"]: entry["event"] for entry in store.ledger.events()}
    forgotten = {run for run, event in last.items() if event == "forgotten" and not (store.runs / run).exists()}
    unlisted = (folder.name for folder in sorted(store.runs.glob("[!.]*")) if folder.name not in last)
    for run_id in (*last, *unlisted):  # a broken ledger may lack runs that have a folder
        if run_id in forgotten:
            continue
        record, withdrawn = store.record(run_id), store.quarantined(run_id)
        if run_id in open_starts:
            start = open_starts[run_id]
            reason = f"process {start.get('pid')} on {start.get('host')}, started {start.get('time')}"
            states[run_id] = {"state": "running" if store.run_locked(run_id) else "interrupted", "reason": reason}
        elif run_id in broken:
            states[run_id] = {"state": "unreadable", "reason": broken[run_id]}
        elif withdrawn is not None:
            states[run_id] = {"state": "quarantined", "reason": withdrawn}
        elif record is not None:
            reason = record.reason or ""
            states[run_id] = {"state": record.status, "reason": reason}
            if _is_stale(store, record, code_now):
                stale = f"{record.status}, made by other code"
                states[run_id] = {"state": "stale", "reason": f"{stale}; {reason}" if reason else stale}
        else:
            states[run_id] = {"state": "planned", "reason": ""}
    for entry in store.ledger.events():
        if entry["event"] == "interrupted" and states.get(entry["run_id"], {}).get("state") == "planned":
            states[entry["run_id"]] = {"state": "interrupted", "reason": entry.get("reason") or ""}
    return states


def _is_stale(store: Store, record: RunRecord, code_now: Callable[[str], str | None]) -> bool:
    """Whether a result was made by other code. Never for runs that were interrupted or skipped, for predictions made
    elsewhere, and for methods whose code is not on this machine."""
    question, code = store.question(record)
    if question is None or record.status in UNSETTLED:
        return False
    try:
        now = code_now(RunFolder(store.runs / record.run_id).spec().target)
    except (OSError, ValueError, KeyError, TypeError):  # of another version: its code cannot be compared
        return False
    return now is not None and now != code


def _code_now(target: str) -> str | None:
    try:
        return code_hash(target)
    except InputError:
        return None


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
