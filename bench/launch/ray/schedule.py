"""Which tasks of an experiment's runs can start, and when. Knows nothing of how Ray is called.

A run starts when its repetitions are kept, or have failed. Runs that share repetitions, or are to be split, wait for
tasks that train the missing ones, each repetition once. Where its predictions are split too, the run waits for the
shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from bench.launch.ray.tasks import RepetitionsTask, RunTask, ShardTask, Task, consecutive_ranges
from bench.launch.ray.worker import WorkerResult, name_of_repetitions
from bench.process.options import FailedRepetitions
from bench.run.prediction_shards import PredictionSize, split


class Kept(Protocol):
    """Which repetitions are kept (`bench.launch.ray.kept.KeptRepetitions`)."""

    def present(self, names: Iterable[str]) -> set[str]: ...


@dataclass(frozen=True)
class SplitLimits:
    """How far a run is split.

    ``parts``: tasks for the repetitions of a run, and shards of its predictions, at most; ``memory``: bytes of the
    largest node; ``shard_from``: labels to be scored (points × labels × repetitions) from which on there are shards.
    """

    parts: int
    memory: float
    shard_from: float


class Schedule:
    """The tasks of runs, in the order in which they can start."""

    def __init__(self, runs: Sequence[RunTask], kept: Kept, limits: SplitLimits) -> None:
        self._runs, self._kept, self._limits = runs, kept, limits
        self._blocked: list[RunTask] = []  # runs that wait for repetitions
        self._pending: set[str] = set()  # names of the repetitions that tasks are training
        self._failed: dict[str, tuple[str, str]] = {}  # status and reason of repetitions that failed, by name

    def first(self) -> list[Task]:
        """The tasks that can start at once."""
        users = Counter(name for run in self._runs for name in run.forecast.names)
        present = self._kept.present(users)
        tasks: list[Task] = []
        for run in self._runs:
            names = run.forecast.names
            missing = [r for r, name in enumerate(names) if name not in present]
            if not missing:
                tasks += self._after_training(run)
            elif self._limits.parts == 1 and all(users[name] == 1 for name in names):
                tasks.append(run)
            else:
                self._blocked.append(run)
                tasks += self._training(run, missing)
        return tasks

    def after_repetitions(self, task: RepetitionsTask, result: WorkerResult) -> list[Task]:
        """The tasks that can start because repetitions were trained, or failed."""
        trained = set(task.repetitions)
        self._pending -= trained
        if result.status not in ("ok", None):
            failed = (result.status, f"{name_of_repetitions(task.members)}: {result.outcome}")
            self._failed |= dict.fromkeys(trained - self._kept.present(task.repetitions), failed)
        tasks: list[Task] = []
        for run in list(self._blocked):
            names = set(run.forecast.names)
            if names & trained:
                run.include(result)
            if not names & self._pending:
                self._blocked.remove(run)
                tasks += self._after_training(run)
        return tasks

    def after_shard(self, task: ShardTask, result: WorkerResult) -> list[Task]:
        """The run, after the last of its shards. Where a shard failed the run predicts everything itself."""
        task.of.include(result)
        task.of.shard_runs[task.shard] = result.run_id if result.status == "ok" else ""
        return [task.of] if len(task.of.shard_runs) == len(task.of.shards) else []

    def failed_repetitions(self, run: RunTask) -> FailedRepetitions | None:
        """The first repetition of a run that failed."""
        for r, name in enumerate(run.forecast.names):
            if name in self._failed:
                return FailedRepetitions(r, *self._failed[name])
        return None

    def _training(self, run: RunTask, missing: Sequence[int]) -> list[Task]:
        """Tasks for the missing repetitions of a run that no other task trains already."""
        size = -(-len(missing) // self._limits.parts)
        own = [r for r in missing if run.forecast.names[r] not in self._pending]
        tasks = [RepetitionsTask(run, members) for members in consecutive_ranges(own, size)]
        self._pending |= {name for task in tasks for name in task.repetitions}
        return list(tasks)

    def _after_training(self, run: RunTask) -> list[Task]:
        """The run, or first the shards of its predictions."""
        known = run.forecast
        to_score = known.n_points * known.n_labels * len(known.names)
        if self._limits.parts > 1 and to_score >= self._limits.shard_from and not self.failed_repetitions(run):
            batch = run.run.spec.train.predict_batch
            size = PredictionSize(known.n_points, known.n_labels, batch, known.peak, known.by_label)
            run.shards = split(size, self._limits.parts, self._limits.memory)
        return [ShardTask(run, shard) for shard in run.shards] or [run]
