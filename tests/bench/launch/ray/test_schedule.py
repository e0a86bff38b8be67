"""Which tasks of runs can start, and when, without a cluster: results are made up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bench.config.experiment import unfold
from bench.launch.ray.forecast import RunForecast
from bench.launch.ray.schedule import Schedule, SplitLimits
from bench.launch.ray.tasks import RepetitionsTask, RunTask, ShardTask, Task
from bench.launch.ray.worker import WorkerResult
from bench.plan.plan import PlannedRun
from bench.process.options import FailedRepetitions

NEVER, ALWAYS = 1e18, 0.0


class Kept:
    """Names of kept repetitions, as a test sets them."""

    def __init__(self, *names: str) -> None:
        self.names = set(names)

    def present(self, names: Iterable[str]) -> set[str]:
        return self.names & set(names)


def run_of(name: str, repetitions: str, **forecast: Any) -> RunTask:
    """A run whose repetitions have one-letter names."""
    text = {"dataset": "tiny", "train": {"predict_batch": 100}, "methods": {"mach": {"B": 16, "R": 2}}}
    run = PlannedRun(name, next(unfold(text, "test")), None)
    return RunTask(run, RunForecast(names=tuple(repetitions), **forecast))


def named(tasks: Iterable[Task]) -> list[str]:
    return [task.name for task in tasks]


def ok(task: Task, kept: Kept, started_at: float = 1.0) -> WorkerResult:
    """The task has ended well."""
    if isinstance(task, RepetitionsTask):
        kept.names |= set(task.repetitions)
    return WorkerResult("ok", "", "host", 1.0, started_at, f"run of {task.name}")


def test_runs_that_share_nothing_start_at_once_where_there_is_one_worker() -> None:
    runs = [run_of("one", "ab"), run_of("two", "cd"), run_of("other", "")]
    assert Schedule(runs, Kept(), SplitLimits(1, 0.0, ALWAYS)).first() == runs


def test_each_repetition_is_trained_once_and_the_runs_wait_for_theirs() -> None:
    kept = Kept("a")
    small, large = run_of("small", "abc"), run_of("large", "abcde")
    schedule = Schedule([small, large], kept, SplitLimits(1, 0.0, NEVER))
    tasks = schedule.first()
    assert named(tasks) == ["small, repetitions 1-2", "large, repetitions 3-4"]
    first, second = tasks
    assert isinstance(first, RepetitionsTask)
    assert isinstance(second, RepetitionsTask)
    assert schedule.after_repetitions(first, ok(first, kept, 5.0)) == [small]
    assert schedule.after_repetitions(second, ok(second, kept, 3.0)) == [large]
    assert (small.started_at, large.started_at) == (5.0, 3.0)
    assert schedule.failed_repetitions(large) is None


def test_repetitions_are_split_among_workers() -> None:
    schedule = Schedule([run_of("run", "abcdef")], Kept("c"), SplitLimits(2, 0.0, NEVER))
    assert named(schedule.first()) == ["run, repetitions 0-1", "run, repetitions 3-5"]


def test_repetitions_that_fail_are_the_failure_of_the_run_but_for_those_that_were_kept() -> None:
    kept = Kept()
    run = run_of("run", "abcd", n_points=1000, n_labels=1000)
    schedule = Schedule([run], kept, SplitLimits(2, 0.0, ALWAYS))
    first, second = schedule.first()
    assert isinstance(first, RepetitionsTask)
    assert isinstance(second, RepetitionsTask)
    assert schedule.after_repetitions(first, ok(first, kept)) == []
    kept.names.add("c")
    assert schedule.after_repetitions(second, WorkerResult("crashed", "died", "", 0.0)) == [run]  # and no shards
    assert schedule.failed_repetitions(run) == FailedRepetitions(3, "crashed", "repetitions 2-3: died")


def test_a_run_waits_for_the_shards_of_its_predictions() -> None:
    run = run_of("run", "ab", n_points=300, n_labels=10)
    schedule = Schedule([run], Kept("a", "b"), SplitLimits(2, 1e9, 300 * 10 * 2))
    tasks = schedule.first()
    assert named(tasks) == ["run, points 0 to 99 to predict", "run, points 100 to 299 to predict"]
    first, second = tasks
    assert isinstance(first, ShardTask)
    assert isinstance(second, ShardTask)
    assert schedule.after_shard(second, ok(second, Kept())) == []
    assert schedule.after_shard(first, WorkerResult("crashed", "died", "", 0.0)) == [run]
    assert [run.shard_runs[shard] for shard in run.shards] == ["", f"run of {second.name}"]


def test_few_predictions_are_not_split() -> None:
    run = run_of("run", "ab", n_points=300, n_labels=10)
    assert Schedule([run], Kept("a", "b"), SplitLimits(2, 1e9, 300 * 10 * 2 + 1)).first() == [run]
