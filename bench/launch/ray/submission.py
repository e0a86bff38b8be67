"""Tasks as Ray gets them: function, arguments and resources; and the tasks that Ray has not finished."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.launch.experiment_runner import LaunchContext
from bench.launch.ray import worker
from bench.launch.ray.exchange import Exchange
from bench.launch.ray.multi_node import execute_in_bundles
from bench.launch.ray.nodes import Nodes, bundle_options, task_options
from bench.launch.ray.tasks import RepetitionsTask, RunTask, ShardTask, Task, gpu_fraction
from bench.launch.ray.worker import WorkerContext
from bench.launch.ray.worker_folder import WorkerFolder
from bench.process.options import FailedRepetitions, RunOptions
from bench.results.record import described

ATTEMPTS = 3  # of a task whose worker or node dies
STOP_S = 20.0  # for the runs in progress to write down that they were stopped


@dataclass(frozen=True)
class Cluster:
    """What the command works with: the connected module ``ray``, its nodes, and the context of the runs."""

    ray: Any
    nodes: Nodes
    launch: LaunchContext
    exchange: Exchange | None = None

    @property
    def folder(self) -> WorkerFolder:
        return WorkerFolder(str(Path.cwd()), self.exchange.url if self.exchange else None)


class Submission:
    """Submits tasks to Ray and waits for them."""

    def __init__(self, cluster: Cluster, done: Mapping[str, int], gpu_bytes: int | None) -> None:
        """done: how often each run was done before. gpu_bytes: memory of a GPU; None where there is none."""
        self._cluster, self._done, self._gpu_bytes = cluster, done, gpu_bytes
        self._running: dict[Any, Task] = {}  # by what Ray returned for the task
        self._groups: dict[Any, Any] = {}  # placement groups of such tasks, where they have one

    def __bool__(self) -> bool:
        """Whether tasks are left."""
        return bool(self._running)

    def submit(self, task: Task, failed: FailedRepetitions | None = None) -> None:
        """Give Ray a task; ``failed``: of a run, the first of its repetitions that failed."""
        if isinstance(task, RunTask):
            reference = self._submit_run(task, failed)
        elif isinstance(task, RepetitionsTask):
            context = replace(self._context(task), names=task.repetitions)
            reference = self._remote(worker.train_repetitions, task).remote(task.of.run, task.members, context)
        else:
            use_earlier = not self._cluster.launch.force
            reference = self._remote(worker.predict_shard, task).remote(
                task.of.run, task.shard, self._context(task), use_earlier
            )
        self._running[reference] = task

    def next(self) -> tuple[Any, Task]:
        """Wait until a task has ended: what Ray returned for it, and the task."""
        (ready,), _ = self._cluster.ray.wait(list(self._running), num_returns=1)
        if group := self._groups.pop(ready, None):
            self._cluster.ray.util.remove_placement_group(group)
        return ready, self._running.pop(ready)

    def stop(self) -> None:
        """As Ctrl-C on one machine: the runs in progress are stopped and record that."""
        references, ray = list(self._running), self._cluster.ray
        for reference in reversed(references):  # those that wait come first, so that none starts when another stops
            ray.cancel(reference, force=False)
        if references:
            ray.wait(references, num_returns=len(references), timeout=STOP_S)

    def _submit_run(self, task: RunTask, failed: FailedRepetitions | None) -> Any:
        spec = task.run.spec
        run = replace(task.run, spec=replace(spec, train=replace(spec.train, keep_repetitions=True)))
        shards = tuple(task.shard_runs[shard] for shard in task.shards)
        options = RunOptions(
            started_at=task.started_at, failed_repetitions=failed, shards=shards if all(shards) else ()
        )
        done, context = self._done.get(run.run_id, 0), self._context(task)
        if task.bundle:
            remote, group = self._remote_in_bundles(task, task.bundle)
            reference = remote.remote(run, done, options, context, task.bundle)
            self._groups[reference] = group
        else:
            reference = self._remote(worker.execute, task).remote(run, done, options, context)
        if self._cluster.exchange:  # the ledger of the worker is on its machine
            started = {"shared": described(task.run.spec), "asked": run.question, "request": run.spec.request()}
            self._cluster.launch.store.ledger.append("started", run.run_id, attempt="elsewhere", **started)
        return reference

    def _remote(self, function: Any, task: Task) -> Any:
        options = {"name": task.name, "max_retries": ATTEMPTS - 1, **task_options(self._resources(task))}
        return self._cluster.ray.remote(function).options(**options)

    def _remote_in_bundles(self, task: RunTask, bundle: Mapping[str, float]) -> tuple[Any, Any]:
        """The task of a run in the first of its bundles, and their group: one per process, on few nodes."""
        ray = self._cluster.ray
        group = ray.util.placement_group([dict(bundle)] * task.forecast.processes, strategy="PACK")
        options = {"name": task.name, "max_retries": ATTEMPTS - 1, **bundle_options(ray, group, 0, bundle)}
        return ray.remote(execute_in_bundles).options(**options), group

    def _context(self, task: Task) -> WorkerContext:
        """A run is started from the beginning once, by the command, and not after each death of its node.

        Nodes that share no folder may have repetitions of their own, which are then trained again.
        """
        cluster = self._cluster
        first = not isinstance(task, RunTask) or task.started_at is None
        force = cluster.launch.force and cluster.exchange is not None and first and not isinstance(task, ShardTask)
        cpus = cluster.nodes.cpus_of(task.of.run)
        return WorkerContext(replace(cluster.launch, force=force), cluster.folder, cpus, task.of.forecast.names)

    def _resources(self, task: Task) -> dict[str, float]:
        run, nodes, part = task.of, self._cluster.nodes, isinstance(task, RepetitionsTask)
        needs: dict[str, float] = {"CPU": nodes.cpus_of(run.run)}
        predicted = run.forecast.part_peak if part else run.forecast.peak
        if predicted is not None:
            # A task that fits on no node goes to the largest, and becomes a row with what happens there.
            needs["memory"] = min(predicted, nodes.memory)
        if gpus := nodes.gpus_of(run):
            needs["GPU"] = gpu_fraction(run.forecast.part_gpu, self._gpu_bytes) if part else gpus
        return needs
