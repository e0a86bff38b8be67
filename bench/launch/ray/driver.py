"""The side of the command: forecasts the runs, submits their tasks as they can start, and reads how each ended."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from bench.launch.experiment_runner import POLL_S, LaunchContext
from bench.launch.progress import Progress
from bench.launch.ray.exchange import Exchange
from bench.launch.ray.forecast import forecast_runs, gpu_bytes
from bench.launch.ray.kept import KeptRepetitions
from bench.launch.ray.nodes import Nodes
from bench.launch.ray.outcomes import Outcomes, returned
from bench.launch.ray.schedule import Schedule, SplitLimits
from bench.launch.ray.submission import Cluster, Submission
from bench.launch.ray.tasks import RepetitionsTask, RunTask, ShardTask, Task
from bench.launch.ray.worker import WorkerResult
from bench.plan.plan import PlannedRun

SHARD_FROM = 1e12  # labels to be scored, about a minute of a core: the process of a shard takes seconds to start


class Driver:
    """Executes runs on a connected cluster (`bench.launch.ray.cluster.RayCluster`)."""

    def __init__(
        self,
        ray: Any,
        context: LaunchContext,
        progress: Progress,
        exchange: Exchange | None = None,
        shard_from: float = SHARD_FROM,
    ) -> None:
        self._cluster = Cluster(ray, Nodes(ray.nodes()), context, exchange)
        self._store, self._progress, self._shard_from = context.store, progress, shard_from
        self._kept = KeptRepetitions(context.store, exchange)
        self._outcomes = Outcomes(self._cluster, self._kept, progress)

    def execute(self, todo: Sequence[PlannedRun], done: Mapping[str, int]) -> dict[str, str | None]:
        """Statuses of the runs by id. With an exchange this command locks them, since no lock reaches the workers."""
        self._kept.sweep_up()
        if self._cluster.exchange is None:
            return self._execute(todo, done)
        with ExitStack() as stack:
            locked = [run for run in todo if stack.enter_context(self._store.run_lock(run.run_id)) is not None]
            for run in todo:
                if run not in locked:
                    self._progress.note(f"{run.run_id}: held by another machbench; left to it")
            return self._execute(locked, done) if locked else {}

    def _execute(self, todo: Sequence[PlannedRun], done: Mapping[str, int]) -> dict[str, str | None]:
        nodes, parts = self._cluster.nodes, self._parts_per_run(todo)
        gpu = self._gpu_bytes()
        runs = self._forecast(todo, parts, "cuda" if gpu else "cpu")
        for run in runs:
            run.bundle = nodes.bundle_of(run)
        if self._cluster.launch.force:
            self._forget(runs)
        schedule = Schedule(runs, self._kept, SplitLimits(parts, nodes.memory, self._shard_from))
        submission = Submission(self._cluster, done, gpu)
        statuses: dict[str, str | None] = {}
        try:
            tasks = schedule.first()
            while tasks or submission:
                for task in tasks:
                    submission.submit(task, schedule.failed_repetitions(task) if isinstance(task, RunTask) else None)
                reference, task = submission.next()
                result = self._outcomes.read(reference, task)
                if result is None:  # another command executes it
                    time.sleep(POLL_S)
                    tasks = [task]
                    continue
                tasks = self._after(task, result, schedule)
                if isinstance(task, RunTask):
                    statuses[task.run.run_id] = result.status
        except BaseException:
            submission.stop()
            raise
        return statuses

    def _after(self, task: Task, result: WorkerResult, schedule: Schedule) -> list[Task]:
        """Record the end of a task; returns the tasks that can start because of it."""
        if isinstance(task, RunTask):
            self._outcomes.finish(task, result)
            return []
        self._outcomes.note(task, result)
        if isinstance(task, ShardTask):
            return schedule.after_shard(task, result)
        assert isinstance(task, RepetitionsTask)
        return schedule.after_repetitions(task, result)

    def _parts_per_run(self, todo: Sequence[PlannedRun]) -> int:
        """As many as it takes to give every worker a task."""
        if self._cluster.launch.skip_unfit:  # which looks at what a whole run needs
            return 1
        nodes = self._cluster.nodes
        workers = nodes.workers(min(nodes.cpus_of(run) for run in todo))
        return max(1, -(-workers // len(todo)))

    def _gpu_bytes(self) -> int | None:
        return self._on_worker(gpu_bytes, num_gpus=1) if self._cluster.nodes.gpus else None

    def _forecast(self, todo: Sequence[PlannedRun], parts: int, device: str) -> list[RunTask]:
        threads = [self._cluster.nodes.cpus_of(run) for run in todo]
        found = self._on_worker(forecast_runs, list(todo), self._cluster.folder, threads, device, parts)
        return [RunTask(run, forecast) for run, forecast in zip(todo, found, strict=True)]

    def _on_worker(self, function: Any, *arguments: Any, **resources: float) -> Any:
        """What a function returns in a worker that ends with it, because it loads torch."""
        ray = self._cluster.ray
        return returned(ray, ray.remote(num_cpus=0, max_calls=1, **resources)(function).remote(*arguments))

    def _forget(self, runs: Sequence[RunTask]) -> None:
        """Remove checkpoints and kept repetitions of runs that are to start from the beginning."""
        for task in runs:
            with self._store.run_lock(task.run.run_id) as lock:
                if lock is not None:
                    self._store.drop_checkpoint(task.run.run_id)
            self._kept.remove(task.forecast.names)
