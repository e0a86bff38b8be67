"""What an experiment's ledger and records say of its runs."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from rich.table import Table

from bench.store import Store


def run_states(store: Store) -> dict[str, dict[str, Any]]:
    """State and reason of every run in the ledger, in the order they were first planned.

    ``quarantined`` for a withdrawn result, else a record's status, or else ``running`` (its process is alive on this
    machine), ``interrupted`` (it is not) or ``planned``.
    """
    open_starts = store.ledger.open_starts()
    states: dict[str, dict[str, Any]] = {}
    for entry in store.ledger.events():
        run_id = entry["run_id"]
        if run_id in states:
            continue
        record, withdrawn = store.record(run_id), store.quarantined(run_id)
        if run_id in open_starts:
            start = open_starts[run_id]
            alive = start.get("host") == socket.gethostname() and _alive(int(start.get("pid", 0)), run_id)
            reason = f"process {start.get('pid')} on {start.get('host')}, started {start['time']}"
            states[run_id] = {"state": "running" if alive else "interrupted", "reason": reason}
        elif withdrawn is not None:
            states[run_id] = {"state": "quarantined", "reason": withdrawn}
        elif record is not None:
            states[run_id] = {"state": record["status"], "reason": record.get("reason") or ""}
        else:
            states[run_id] = {"state": "planned", "reason": ""}
    for entry in store.ledger.events():
        if entry["event"] == "interrupted" and states[entry["run_id"]]["state"] == "planned":
            states[entry["run_id"]] = {"state": "interrupted", "reason": entry.get("reason") or ""}
    return states


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


def _alive(pid: int, run_id: str) -> bool:
    """Whether a process still executes this run; a recycled process number does not count."""
    try:
        return run_id.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
