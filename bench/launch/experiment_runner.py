"""Runs an experiment: a process for each run, a ledger entry before and after, and the table at the end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.common import environment
from bench.common.code_hash import code_hash
from bench.common.errors import InputError
from bench.config.experiment import Experiment
from bench.launch.progress import Progress
from bench.launch.run_one import run_one
from bench.launch.tune import write_chosen
from bench.plan.check_methods import checked
from bench.plan.plan import PlannedRun, plan
from bench.process.options import RunOptions
from bench.results.kept_inputs import keep_description, keep_paper
from bench.results.store import SHOWN_CODE, UNSETTLED, Store

RETRY = {
    "oom": {"oom_host", "oom_device"},
    "timeout": {"timeout"},
    "failed": {"crashed", "diverged"},
    "all": {"oom_host", "oom_device", "timeout", "crashed", "diverged", "unsupported"},
}
PATIENCE_S = 0.5  # between looks at runs that another process holds


@dataclass(frozen=True)
class LaunchContext:
    """How the runs of an experiment are executed, and where what they leave goes."""

    store: Store
    experiment: Experiment
    force: bool
    skip_unfit: bool


Launcher = Callable[[Sequence[PlannedRun], Mapping[str, int], LaunchContext, Progress], dict[str, str | None]]


def run_experiment(
    experiment: Experiment,
    results: Path,
    progress: Progress,
    retry: str | None = None,
    force: bool = False,
    skip_unfit: bool = False,
    launcher: Launcher | None = None,
) -> int:
    """Run what is missing; returns 0 when all runs of the experiment are done, 1 when some run failed.

    Finished runs are skipped, failed ones only repeated with ``retry``, interrupted ones always, withdrawn ones never;
    ``force`` repeats all from the beginning, where the others go on from their checkpoint if they have one.
    ``skip_unfit`` starts none that is predicted not to fit into memory; what was skipped is looked at again.
    ``launcher`` executes what is to do elsewhere than one after the other on this machine (`bench.launch.ray.cluster`).
    Whatever happens to a run, those finished before it stay as they are. Several processes may do this at once: each
    takes runs that no other holds, and waits in the end for those that others hold.

    Methods and their settings are checked first: InputError where some are wrong, before anything is written.
    KeyboardInterrupt stops the run in progress, writes it down and is raised again; OSError for a full disk likewise.
    Where the experiment tunes, the chosen settings are written last.
    """
    store = Store(results / experiment.name)
    experiment = checked(experiment, store)
    with store.lock(shared=True):
        for run_id in store.sweep_up():
            progress.note(f"{run_id}: was interrupted, will run again if it is still wanted")
        environment.write(results)
        with store.writing():
            keep_paper(experiment.paper, store.root)
            keep_description(experiment.description, store.root)
        done = store.ledger.times_done()  # before the records are read: what ends in between is seen again later
        runs = plan(experiment, store, lambda name: progress.note(f"building dataset {name} (once)"))
        todo = _choose(runs, store, progress, RETRY[retry] if retry else set(), force)
        for code, target in {run.code: run.spec.target for run in todo}.items():
            environment.write_code(results, code[:SHOWN_CODE], target)
        progress.plan(len(runs), len(todo))
        statuses = {run.run_id: run.status for run in runs}
        try:
            context = LaunchContext(store, experiment, force, skip_unfit)
            statuses |= (launcher or one_by_one)(todo, done, context, progress)
        finally:
            from bench.results.table import write_results

            write_results(store)
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


def one_by_one(
    todo: Sequence[PlannedRun], done: Mapping[str, int], context: LaunchContext, progress: Progress
) -> dict[str, str | None]:
    """Execute the runs, or see another process execute them; statuses by run id."""
    statuses: dict[str, str | None] = {}
    waiting, told = list(todo), False
    while waiting:
        elsewhere = []
        for run in waiting:
            taken = take(run, done.get(run.run_id, 0), context, progress)
            if taken is None:
                elsewhere.append(run)
            else:
                statuses[run.run_id] = taken.status
        if len(elsewhere) == len(waiting):
            if not told:
                progress.note(f"waiting for runs that another machbench executes: {_names(elsewhere)}")
            told = True
            time.sleep(PATIENCE_S)
        waiting = elsewhere
    return statuses


@dataclass(frozen=True)
class RunResult:
    """``status``: how the run ended; None where its code is no longer that of the plan."""

    status: str | None


def take(
    run: PlannedRun, done: int, context: LaunchContext, progress: Progress, options: RunOptions | None = None
) -> RunResult | None:
    """Execute a run unless another process holds it (None) or has ended it since it was done ``done`` times.

    ``options``: what is to be told beside what ``context`` say.
    """
    store = context.store
    with store.claim(run.run_id) as claim:
        if claim is None:
            return None
        store.close_books(run.run_id)
        record = store.record(run.run_id)
        if record is not None and store.ledger.times_done()[run.run_id] > done:
            progress.elsewhere(run.run_id, record["status"])
            return RunResult(record["status"])
        if _edited(run):
            progress.note(f"{run.run_id}: its code was edited since the plan was made; left for the next call")
            return RunResult(None)
        if context.force:
            store.drop_checkpoint(run.run_id)
        limit = context.experiment.memory_limit_bytes or math.inf
        told = replace(options or RunOptions(), skip_above=limit if context.skip_unfit else None, afresh=context.force)
        return RunResult(run_one(run, store, claim, context.experiment, progress, told))


def _edited(run: PlannedRun) -> bool:
    """Whether the code is no longer what the run id says; another call then plans a run of the new code."""
    try:
        return code_hash(run.spec.target) != run.code
    except InputError:
        return True


def _names(runs: Sequence[PlannedRun]) -> str:
    names = [run.run_id for run in runs[:3]]
    return ", ".join(names) + (f" and {len(runs) - 3} more" if len(runs) > 3 else "")
