"""Withdraw a run with a reason, and take that back: it stays on disk, its rows leave table, figures and report."""

from __future__ import annotations

import json
import time

from bench.common.errors import InputError, unknown_name
from bench.common.files import write_atomic
from bench.results.left_out.damage import QUARANTINE
from bench.results.store import Store


def quarantine(store: Store, run_id: str, reason: str) -> None:
    """Withdraw a run. Call while holding the store's lock; then write the table again.

    The mark lies in the run's folder, so it goes where the folder goes, and is gone once the run is repeated.
    Raises InputError for an unknown run, an empty reason and a run that is already withdrawn.
    """
    _check(store, run_id)
    if not reason.strip():
        raise InputError("--reason: found nothing; expected why the result is withdrawn")
    earlier = store.quarantined(run_id)
    if earlier is not None:
        raise InputError(f"{run_id}: already in quarantine ({earlier}); --lift takes it out")
    content = {"reason": reason.strip(), "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    write_atomic(store.runs / run_id / QUARANTINE, json.dumps(content, indent=1) + "\n")
    store.ledger.append("quarantined", run_id, reason=reason.strip())


def lift(store: Store, run_id: str, reason: str) -> None:
    """Take a run out of quarantine; its result counts again. As `quarantine`, and InputError when it is not there."""
    _check(store, run_id)
    if store.quarantined(run_id) is None:
        raise InputError(f"{run_id}: found no quarantine to lift")
    (store.runs / run_id / QUARANTINE).unlink()
    store.ledger.append("quarantine_lifted", run_id, reason=reason.strip() or None)


def _check(store: Store, run_id: str) -> None:
    known = [record.run_id for record in store.records()]
    if run_id.partition("@")[0] != run_id and run_id.partition("@")[0] in known:
        raise InputError(f"run {run_id!r}: found a derived row; expected its run, {run_id.partition('@')[0]}")
    if run_id not in known:
        raise unknown_name("run", run_id, known, str(store.runs))
