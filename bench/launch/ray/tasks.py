"""The tasks of runs on a Ray cluster: a whole run, some of its repetitions, a shard of its predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.config.spec import Shard
from bench.launch.ray.forecast import RunForecast
from bench.launch.ray.worker import WorkerResult, name_of_repetitions, name_of_shard
from bench.plan.plan import PlannedRun

MOST_PER_GPU = 8  # tasks of repetitions on one GPU at most


@dataclass
class RunTask:
    """A run with its forecast.

    ``started_at``: seconds since 1970 when the first task for it started; None before that. ``bundle``: resources of
    each of its processes where they are placed one by one (`bench.launch.ray.multi_node`). ``shards``: of its
    predictions, where several workers make them; ``shard_runs``: the run that holds each shard made so far, an empty
    name where it failed.
    """

    run: PlannedRun
    forecast: RunForecast
    started_at: float | None = None
    bundle: dict[str, float] | None = None
    shards: list[Shard] = field(default_factory=list)
    shard_runs: dict[Shard, str] = field(default_factory=dict)

    @property
    def of(self) -> RunTask:
        return self

    @property
    def name(self) -> str:
        return self.run.run_id

    def include(self, result: WorkerResult) -> None:
        """Take in the result of another task for this run: the run started with the first of them."""
        if result.started_at:
            self.started_at = min(result.started_at, self.started_at or result.started_at)


@dataclass(frozen=True)
class RepetitionsTask:
    """Repetitions to be trained for a run."""

    of: RunTask
    members: range

    @property
    def name(self) -> str:
        return f"{self.of.name}, {name_of_repetitions(self.members)}"

    @property
    def repetitions(self) -> tuple[str, ...]:
        """Names under which they are kept."""
        return self.of.forecast.names[self.members.start : self.members.stop]


@dataclass(frozen=True)
class ShardTask:
    """A shard of the predictions of a run."""

    of: RunTask
    shard: Shard

    @property
    def name(self) -> str:
        return f"{self.of.name}, {name_of_shard(self.shard)}"


Task = RunTask | RepetitionsTask | ShardTask


def consecutive_ranges(numbers: Sequence[int], size: int) -> list[range]:
    """Increasing numbers as ranges of consecutive ones, each of at most ``size``."""
    found: list[range] = []
    for r in numbers:
        if found and found[-1].stop == r and len(found[-1]) < size:
            found[-1] = range(found[-1].start, r + 1)
        else:
            found.append(range(r, r + 1))
    return found


def gpu_fraction(needed: int | None, available: int | None) -> float:
    """Ray's ``num_gpus`` of a task: 1 / (tasks of so many bytes that fit into a GPU), 1 where either is unknown."""
    if not needed or not available:
        return 1.0
    return 1.0 / min(MOST_PER_GPU, max(1, available // needed))
