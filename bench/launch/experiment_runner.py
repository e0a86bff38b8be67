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
from bench.launch.evaluate_again import evaluated_again
from bench.launch.progress import Progress
from bench.launch.run_one import run_one
from bench.launch.tune import write_chosen
from bench.plan.check_methods import checked
from bench.plan.plan import PlannedRun, plan
from bench.process.options import RunOptions
from bench.results.kept_inputs import check_source, keep_description, keep_paper, keep_source
from bench.results.left_out.damage import damage_lines
from bench.results.left_out.trash import TRASH, set_aside
from bench.results.store import SHOWN_CODE, UNSETTLED, Store

RETRY = {
    "oom": {"oom_host", "oom_device"},
    "timeout": {"timeout"},
    "failed": {"crashed", "diverged"},
    "all": {"oom_host", "oom_device", "timeout", "crashed", "diverged", "unsupported"},
}
POLL_S = 0.5  # between looks at runs whose lock another process holds


@dataclass(frozen=True)
class LaunchOptions:
    """Which runs a command executes.

    Finished runs are skipped, failed ones are repeated only with ``retry`` (a key of `RETRY`), interrupted ones always,
    withdrawn ones never. ``force`` repeats all runs from the beginning; without it a run continues from its checkpoint
    if it has one. ``skip_unfit`` starts no run that is predicted not to fit into memory; the next command looks at the
    skipped runs again.
    """

    retry: str | None = None
    force: bool = False
    skip_unfit: bool = False


@dataclass(frozen=True)
class LaunchContext:
    """How the runs of an experiment are executed, and the store of their results."""

    store: Store
    experiment: Experiment
    force: bool = False
    skip_unfit: bool = False


# (runs to do, how often each was done before, context, progress) -> status of each run by id, see `run_locally`
Launcher = Callable[[Sequence[PlannedRun], Mapping[str, int], LaunchContext, Progress], dict[str, str | None]]


def run_experiment(
    experiment: Experiment,
    results: Path,
    progress: Progress,
    options: LaunchOptions | None = None,
    launcher: Launcher | None = None,
) -> int:
    """Execute the missing runs of an experiment; returns 0 when all its runs are done, 1 when some run failed.

    ``launcher`` replaces `run_locally` (`bench.launch.ray.cluster`). Whatever happens to a run, the results of earlier
    runs stay as they are. Several processes may run one experiment at once: each executes the runs that no other
    process has locked, and waits at the end for the others.

    Methods and their settings are checked first: InputError where some are wrong, before anything is written.
    KeyboardInterrupt stops the run in progress, records that and is raised again; OSError for a full disk likewise.
    Finished runs whose filter, propensity constants or metrics have changed are evaluated again from their kept
    predictions, or repeated where these do not suffice. For an experiment that tunes, the chosen settings are written
    last.
    """
    options = options or LaunchOptions()
    store = Store(results / experiment.name)
    if experiment.file is not None:
        check_source(experiment.file, store.root)
    experiment = checked(experiment, store)
    with store.lock(shared=True):
        for run_id in store.sweep_up():
            progress.note(f"{run_id}: was interrupted, will run again if it is still wanted")
        environment.write(results)
        with store.writing():
            keep_paper(experiment.paper, store.root)
            keep_description(experiment.description, store.root)
            if experiment.file is not None and (note := keep_source(experiment.file, store.root)):
                progress.note(note)
        done = store.ledger.times_done()  # before the records are read: what ends in between is seen again later
        runs = plan(experiment, store, lambda name: progress.note(f"building dataset {name} (once)"))
        if not options.force:
            runs = evaluated_again(runs, store, progress)
        todo = choose_runs(runs, store, progress, options)
        for code, target in {run.code: run.spec.target for run in todo}.items():
            environment.write_code(results, code[:SHOWN_CODE], target)
        progress.plan(len(runs), len(todo))
        statuses = {run.run_id: run.status for run in runs}
        try:
            context = LaunchContext(store, experiment, options.force, options.skip_unfit)
            statuses |= (launcher or run_locally)(todo, done, context, progress)
        finally:
            from bench.results.table import write_results

            write_results(store)
        for line in damage_lines(store.root):  # of runs that are not of this plan: those were repeated
            progress.note(line)
        with store.writing():
            write_chosen(experiment, runs, store)
    return 0 if all(status == "ok" for status in statuses.values()) else 1


def choose_runs(
    runs: Sequence[PlannedRun], store: Store, progress: Progress, options: LaunchOptions
) -> list[PlannedRun]:
    """The runs to execute. The ledger gets an entry for each run of the plan."""
    withdrawn = {r.run_id: reason for r in runs if (reason := store.quarantined(r.run_id)) is not None}
    if not options.force:
        for run_id, reason in withdrawn.items():
            progress.note(f"{run_id}: in quarantine ({reason}); left as it is, --force runs it again")
    wanted = {None, *UNSETTLED, *(RETRY[options.retry] if options.retry else ())}
    todo = [r for r in runs if options.force or (r.status in wanted and r.run_id not in withdrawn)]
    checkpoints = store.checkpoints_by_question()
    for run in runs:
        event = "planned" if run in todo else "skipped"
        store.ledger.append(event, run.run_id, reason=None if run in todo else f"already {run.status}")
        if run.stale and run.status is None:
            old = run.stale[-1]
            progress.note(f"{run.run_id}: the result {old.run_id} is stale, {old.why}; runs again")
        if run in todo and (left := [other for other in checkpoints.get(run.question, ()) if other != run.run_id]):
            progress.note(f"{run.run_id}: the checkpoint of {left[-1]} is stale, made by other code; not used")
    return todo


def run_locally(
    todo: Sequence[PlannedRun], done: Mapping[str, int], context: LaunchContext, progress: Progress
) -> dict[str, str | None]:
    """Execute the runs one after the other, or wait until other processes have; returns statuses by run id.

    ``done``: how often each run was done before the plan was made.
    """
    statuses: dict[str, str | None] = {}
    waiting, noted = list(todo), False
    while waiting:
        locked = []
        for run in waiting:
            result = run_unless_locked(run, done.get(run.run_id, 0), context, progress)
            if result is None:
                locked.append(run)
            else:
                statuses[run.run_id] = result.status
        if len(locked) == len(waiting):
            if not noted:
                progress.note(f"waiting for runs that another machbench executes: {_names(locked)}")
            noted = True
            time.sleep(POLL_S)
        waiting = locked
    return statuses


@dataclass(frozen=True)
class RunResult:
    """``status``: how the run ended; None where its code is no longer that of the plan."""

    status: str | None


def run_unless_locked(
    run: PlannedRun, done: int, context: LaunchContext, progress: Progress, options: RunOptions | None = None
) -> RunResult | None:
    """Execute a run; None when another process holds its lock.

    A run that has ended since it was done ``done`` times is not executed again. ``options``: further ones for the
    process of the run, beside what the context sets.
    """
    store = context.store
    with store.run_lock(run.run_id) as lock:
        if lock is None:
            return None
        store.close_books(run.run_id)
        record = store.record(run.run_id)
        if record is not None and store.ledger.times_done()[run.run_id] > done:
            progress.elsewhere(run.run_id, record.status)
            return RunResult(record.status)
        if _edited(run):
            progress.note(f"{run.run_id}: its code was edited since the plan was made; left for the next call")
            return RunResult(None)
        if (broken := set_aside(store, run.run_id)) is not None:
            progress.note(f"{broken.reason}; its folder is in {TRASH}/ now, and the run is repeated")
        if context.force:
            store.drop_checkpoint(run.run_id)
        limit = context.experiment.memory_limit_bytes or math.inf
        skip_above = limit if context.skip_unfit else None
        options = replace(options or RunOptions(), skip_above=skip_above, retrain=context.force)
        return RunResult(run_one(run, store, lock, context.experiment, progress, options))


def _edited(run: PlannedRun) -> bool:
    """Whether the code is no longer what the run id says; another call then plans a run of the new code."""
    try:
        return code_hash(run.spec.target) != run.code
    except InputError:
        return True


def _names(runs: Sequence[PlannedRun]) -> str:
    names = [run.run_id for run in runs[:3]]
    return ", ".join(names) + (f" and {len(runs) - 3} more" if len(runs) > 3 else "")
