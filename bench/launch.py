"""Runs an experiment: a process for each run, a ledger entry before and after, and the table at the end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bench import environment
from bench.code import code_hash
from bench.errors import InputError
from bench.experiment import Experiment
from bench.paper import keep_paper
from bench.plan import PlannedRun, plan
from bench.process import run_one
from bench.progress import Progress
from bench.store import SHOWN_CODE, UNSETTLED, Store
from bench.tune import write_chosen

RETRY = {
    "oom": {"oom_host", "oom_device"},
    "timeout": {"timeout"},
    "failed": {"crashed", "diverged"},
    "all": {"oom_host", "oom_device", "timeout", "crashed", "diverged", "unsupported"},
}
PATIENCE_S = 0.5  # between looks at runs that another process holds


def run_experiment(
    experiment: Experiment,
    results: Path,
    progress: Progress,
    retry: str | None = None,
    force: bool = False,
    skip_unfit: bool = False,
) -> int:
    """Run what is missing; returns 0 when all runs of the experiment are done, 1 when some run failed.

    Finished runs are skipped, failed ones only repeated with ``retry``, interrupted ones always, withdrawn ones never;
    ``force`` repeats all from the beginning, where the others go on from their checkpoint if they have one.
    ``skip_unfit`` starts none that is predicted not to fit into memory; what was skipped is looked at again. Whatever
    happens to a run, those finished before it stay as they are. Several processes may do this at once: each takes runs
    that no other holds, and waits in the end for those that others hold.

    KeyboardInterrupt stops the run in progress, writes it down and is raised again; OSError for a full disk likewise.
    Where the experiment tunes, the chosen settings are written last.
    """
    store = Store(results / experiment.name)
    with store.lock(shared=True):
        for run_id in store.sweep_up():
            progress.note(f"{run_id}: was interrupted, will run again if it is still wanted")
        environment.write(results)
        with store.writing():
            keep_paper(experiment.paper, store.root)
        done = store.ledger.times_done()  # before the records are read: what ends in between is seen again later
        runs = plan(experiment, store, lambda name: progress.note(f"building dataset {name} (once)"))
        todo = _choose(runs, store, progress, RETRY[retry] if retry else set(), force)
        for code, target in {run.code: run.spec.target for run in todo}.items():
            environment.write_code(results, code[:SHOWN_CODE], target)
        progress.plan(len(runs), len(todo))
        statuses = {run.run_id: run.status for run in runs}
        try:
            statuses |= _work_off(todo, done, store, experiment, progress, force, skip_unfit)
        finally:
            store.write_table()
        with store.writing():
            write_chosen(experiment, runs, store)
    return 0 if all(status == "ok" for status in statuses.values()) else 1


def _choose(
    runs: Sequence[PlannedRun], store: Store, progress: Progress, again: set[str], force: bool
) -> list[PlannedRun]:
    """The runs to do; the ledger is told of all."""
    withdrawn = {r.run_id: reason for r in runs if (reason := store.quarantined(r.run_id)) is not None}
    if not force:
        for run_id, reason in withdrawn.items():
            progress.note(f"{run_id}: in quarantine ({reason}); left as it is, --force runs it again")
    wanted = {None, *UNSETTLED} | again
    todo = [r for r in runs if force or (r.status in wanted and r.run_id not in withdrawn)]
    for run in runs:
        event = "planned" if run in todo else "skipped"
        store.ledger.append(event, run.run_id, reason=None if run in todo else f"already {run.status}")
        if run.stale and run.status is None:
            progress.note(f"{run.run_id}: the result {run.stale[-1]} is stale, made by other code; runs again")
    return todo


def _work_off(
    todo: Sequence[PlannedRun],
    done: Counter[str],
    store: Store,
    experiment: Experiment,
    progress: Progress,
    force: bool,
    skip_unfit: bool,
) -> dict[str, str | None]:
    """Execute the runs, or see another process execute them; statuses by run id."""
    statuses: dict[str, str | None] = {}
    waiting, told = list(todo), False
    while waiting:
        elsewhere = []
        for run in waiting:
            with store.claim(run.run_id) as claim:
                if claim is None:
                    elsewhere.append(run)
                    continue
                store.close_books(run.run_id)
                record = store.record(run.run_id)
                if record is not None and store.ledger.times_done()[run.run_id] > done[run.run_id]:
                    statuses[run.run_id] = record["status"]
                    progress.elsewhere(run.run_id, record["status"])
                elif _edited(run):
                    statuses[run.run_id] = None
                    progress.note(f"{run.run_id}: its code was edited since the plan was made; left for the next call")
                else:
                    if force:
                        store.drop_checkpoint(run.run_id)
                    statuses[run.run_id] = run_one(run, store, claim, experiment, progress, skip_unfit)
        if len(elsewhere) == len(waiting):
            if not told:
                progress.note(f"waiting for runs that another machbench executes: {_names(elsewhere)}")
            told = True
            time.sleep(PATIENCE_S)
        waiting = elsewhere
    return statuses


def _edited(run: PlannedRun) -> bool:
    """Whether the code is no longer what the run id says; another call then plans a run of the new code."""
    try:
        return code_hash(run.spec.target) != run.code
    except InputError:
        return True


def _names(runs: Sequence[PlannedRun]) -> str:
    names = [run.run_id for run in runs[:3]]
    return ", ".join(names) + (f" and {len(runs) - 3} more" if len(runs) > 3 else "")
