"""How tasks ended: their results, rows for runs whose workers died, and results fetched from the URL of an exchange."""

from __future__ import annotations

import os
import time
from typing import Any

from bench.common.errors import InputError
from bench.launch.experiment_runner import POLL_S
from bench.launch.progress import Progress
from bench.launch.ray.exchange import Exchange, fetch_folder
from bench.launch.ray.kept import KeptRepetitions
from bench.launch.ray.submission import ATTEMPTS, STOP_S, Cluster
from bench.launch.ray.tasks import RunTask, Task
from bench.launch.ray.worker import WorkerResult
from bench.plan.plan import PlannedRun
from bench.process.events import RunTrace
from bench.process.failure import failure_record
from bench.results.ledger import end_of
from bench.results.run_folder import RunFolder


def returned(ray: Any, reference: Any) -> Any:
    """What a task returned; what it raised is raised here: an InputError or OSError as itself."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, (InputError, OSError)) else error from None


class Outcomes:
    """Reads and records how tasks ended."""

    def __init__(self, cluster: Cluster, kept: KeptRepetitions, progress: Progress) -> None:
        self._cluster, self._kept, self._progress = cluster, kept, progress
        self._store = cluster.launch.store

    def read(self, reference: Any, task: Task) -> WorkerResult | None:
        """The result of a task; None where another command executes the run.

        A run whose worker or node died `ATTEMPTS` times gets a record that says so.
        """
        ray = self._cluster.ray
        try:
            result: WorkerResult | None = returned(ray, reference)
            return result
        except ray.exceptions.RayTaskError:
            raise
        except ray.exceptions.RayError as error:
            reason = f"its worker or node died {ATTEMPTS} times: {str(error).strip().splitlines()[0]}"
        if not isinstance(task, RunTask):
            return WorkerResult("crashed", reason, "", 0.0)
        if self._cluster.exchange:  # this command holds the lock of the run
            return self._record_crash(task.run, reason)
        run_id, deadline = task.run.run_id, time.monotonic() + STOP_S
        while self._store.run_locked(run_id) and time.monotonic() < deadline:
            time.sleep(POLL_S)  # the process of the run ends with its worker, but not in the same moment
        with self._store.run_lock(run_id) as lock:
            return None if lock is None else self._record_crash(task.run, reason)

    def note(self, task: Task, result: WorkerResult) -> None:
        """Print how a task for a run ended."""
        where = f" on {result.host}" if result.host else ""
        parts = [f"{task.name}: {result.status or 'left'}", result.outcome, f"{result.seconds:.1f} s{where}"]
        self._progress.note(", ".join(part for part in parts if part))

    def finish(self, task: RunTask, result: WorkerResult) -> None:
        """Bring the results of a run into the command's folder, remove what only the run needed, and print its end."""
        run_id = task.run.run_id
        if self._cluster.exchange and result.status is not None and result.host:
            self._fetch(self._cluster.exchange, run_id, result)
        if result.status == "ok":
            self._kept.remove_runs(filter(None, task.shard_runs.values()))
        self._progress.ended_on(run_id, result.host, result.status, result.outcome, result.seconds)

    def _fetch(self, exchange: Exchange, run_id: str, result: WorkerResult) -> None:
        store = self._store
        folder = RunFolder(store.runs / f".{run_id}.{os.getpid()}.tmp")
        fetch_folder(exchange, f"{store.root.name}/runs/{run_id}", folder.path)
        for shared in ("env", "data"):
            exchange.pull_all(shared, store.root.parent / shared, new_only=True)
        folder.complete()
        status = str(result.status)
        details = {"status": status, "seconds": round(result.seconds, 3), "host": result.host}
        store.ledger.append(end_of(status), run_id, **details)

    def _record_crash(self, run: PlannedRun, reason: str) -> WorkerResult:
        store = self._store
        store.close_books(run.run_id)
        folder = RunFolder.create(store.runs, run.run_id, run.spec, run.code, run.question)
        folder.write_record(failure_record(folder, "crashed", reason, RunTrace(), None, None))
        folder.complete()
        store.ledger.append(end_of("crashed"), run.run_id, status="crashed", reason=reason)
        return WorkerResult("crashed", reason, "", 0.0)
