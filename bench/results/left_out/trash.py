"""Forget runs: their folders go to a trash folder in the experiment's results, and can be brought back."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.columns import BY_NAME
from bench.common.errors import InputError
from bench.common.files import sync, write_atomic
from bench.config.conditions import Condition, check_conditions, hold
from bench.results.ledger import DONE
from bench.results.left_out.damage import Damage, damage, read_run
from bench.results.run_folder import CHECKPOINTS
from bench.results.status import run_states
from bench.results.store import Store

TRASH = ".trash"  # in an experiment's folder: a folder per forgetting, by its time
NOTE = "note.json"  # in such a folder: when, why, and which runs


def rows_of_runs(store: Store) -> dict[str, dict[str, Any]]:
    """For every run of an experiment, by id, what conditions can be about: its own row, or what the ledger has of it.

    ``status`` is the state that `machbench status` shows.
    """
    started = {entry["run_id"]: entry.get("shared") for entry in store.ledger.events() if entry["event"] == "started"}
    rows: dict[str, dict[str, Any]] = {}
    for run_id, state in run_states(store).items():
        record = store.record(run_id)
        shared = started.get(run_id)
        known = record.rows(store.root.name)[-1] if record else shared if isinstance(shared, Mapping) else {}
        rows[run_id] = {**known, "experiment": store.root.name, "run_id": run_id, "status": state["state"]}
    return rows


def choose(store: Store, conditions: Sequence[Condition], only: Collection[str] | None = None) -> list[str]:
    """Ids of the runs for which all conditions hold, of those in ``only``. InputError for an unknown key, when there is
    none, and for one that is executed at the moment."""
    rows = rows_of_runs(store)
    check_conditions(conditions, dict.fromkeys([*BY_NAME, *(key for row in rows.values() for key in row)]))
    chosen = [run_id for run_id, row in rows.items() if hold(conditions, row) and (only is None or run_id in only)]
    if not chosen:
        raise InputError(f"{store.root}: found none of its {len(rows)} runs that is meant; nothing was forgotten")
    for run_id in chosen:
        if store.run_locked(run_id):
            raise InputError(f"{run_id}: found a process that executes it; expected a run that is over")
    return chosen


def forget(store: Store, run_ids: Sequence[str], reason: str) -> Path:
    """Move runs with their checkpoints to the trash; returns the folder there. Call while holding the store's lock."""
    folder = _new_folder(store.root / TRASH, reason, run_ids)
    for run_id in run_ids:
        _move(store.runs / run_id, folder / run_id)
        _move(store.root / CHECKPOINTS / run_id, folder / CHECKPOINTS / run_id)
        store.ledger.append("forgotten", run_id, reason=reason, trash=folder.name)
    return folder


def set_aside(store: Store, run_id: str) -> Damage | None:
    """Move the folder of a run to the trash where its result is lost, so that the run can be repeated; what was broken,
    else None. Call while holding the run's lock."""
    found = damage(store.runs / run_id)
    if found is None or not found.lost:
        return None
    folder = _new_folder(store.root / TRASH, found.reason, [run_id])
    _move(store.runs / run_id, folder / run_id)
    store.ledger.append("set_aside", run_id, reason=found.reason, trash=folder.name)
    return found


def restore(store: Store, conditions: Sequence[Condition]) -> list[str]:
    """Bring forgotten runs back; returns their ids. Call while holding the store's lock.

    Without conditions those that were forgotten last, else all that have a folder in the trash and for which the
    conditions hold; of a run that was forgotten twice the last. InputError when there is none, and when a run has a
    newer result.
    """
    found = dict(_forgotten(store, last=not conditions))
    rows = {run_id: _row(store, folder, run_id) for run_id, folder in found.items()}
    check_conditions(conditions, dict.fromkeys([*BY_NAME, *(key for row in rows.values() for key in row)]))
    chosen = [run_id for run_id, row in rows.items() if hold(conditions, row)]
    if not chosen:
        raise InputError(f"{store.root / TRASH}: found none of {len(rows)} forgotten runs that is meant")
    for run_id in chosen:
        if (store.runs / run_id).exists():
            raise InputError(f"{store.runs / run_id}: found a newer result; forget it first, or choose others")
    for run_id in chosen:
        _move(found[run_id] / run_id, store.runs / run_id)
        _move(found[run_id] / CHECKPOINTS / run_id, store.root / CHECKPOINTS / run_id)
        store.ledger.append("restored", run_id, trash=found[run_id].name)
    return chosen


def _forgotten(store: Store, last: bool) -> Iterator[tuple[str, Path]]:
    """Forgotten runs that were not restored since, with their folder in the trash, in order."""
    where: dict[str, str] = {}
    for entry in store.ledger.events():
        if entry["event"] == "forgotten" and isinstance(entry.get("trash"), str):
            where.pop(entry["run_id"], None)
            where[entry["run_id"]] = entry["trash"]
        elif entry["event"] == "restored":
            where.pop(entry["run_id"], None)
    final = next(reversed(where.values()), None)
    for run_id, name in where.items():
        if not last or name == final:
            yield run_id, store.root / TRASH / Path(name).name


def _row(store: Store, folder: Path, run_id: str) -> dict[str, Any]:
    """What conditions can be about, of a run in the trash."""
    events = [entry for entry in store.ledger.events() if entry["run_id"] == run_id]
    ended = [entry for entry in events if entry["event"] in DONE]
    row: dict[str, Any] = {"status": ended[-1].get("status") if ended else "planned"}
    try:
        record = read_run(folder / run_id)
    except InputError:
        record = None
    if record is not None:
        row = record.rows(store.root.name)[-1]
    return {**row, "experiment": store.root.name, "run_id": run_id}


def _new_folder(trash: Path, reason: str, run_ids: Sequence[str]) -> Path:
    """A folder with a note, named by the time, so that names sort by age."""
    name, number = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()), 0
    while True:
        folder = trash / (f"{name}-{number}" if number else name)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
            continue
        write_atomic(folder / NOTE, json.dumps({"reason": reason, "runs": list(run_ids)}, indent=1) + "\n")
        return folder


def _move(source: Path, target: Path) -> None:
    """Rename, where there is something to rename."""
    if source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
        sync(target.parent)
        sync(source.parent)
