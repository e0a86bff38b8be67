"""The tasks as workers of a Ray cluster execute them: a run, some of its repetitions, a shard of its predictions."""

from __future__ import annotations

import socket
import sys
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.console import Console

from bench.config.spec import NOTHING, RunSpec, Shard
from bench.launch.experiment_runner import LaunchContext, run_unless_locked
from bench.launch.progress import Progress, outcome_of
from bench.launch.ray.exchange import Exchange
from bench.launch.ray.kept import pull_repetitions, pull_run, push_repetitions
from bench.launch.ray.worker_folder import WorkerFolder, check_data
from bench.plan.plan import PlannedRun
from bench.process.options import RunOptions
from bench.results.record import RunRecord
from bench.results.run_folder import status_of
from bench.results.store import REPETITIONS, WEIGHTS, Store
from bench.run.prediction_shards import shard_spec

if TYPE_CHECKING:
    from bench.model.methods import Method


@dataclass(frozen=True)
class WorkerContext:
    """What a task is given beside what it is to do.

    ``cpus``: cores reserved for it; ``names``: of the run's kept repetitions that it may need or make.
    """

    launch: LaunchContext
    folder: WorkerFolder
    cpus: int
    names: tuple[str, ...] = ()

    def prepare(self) -> Store:
        """See `WorkerFolder.prepare`; returns the store of the experiment that this worker uses."""
        return self.folder.prepare(self.cpus, self.launch.store)

    @property
    def exchange(self) -> Exchange | None:
        return Exchange(self.folder.exchange) if self.folder.exchange else None


@dataclass(frozen=True)
class WorkerResult:
    """How a task ended.

    ``status``: as of a run; None where the node has other code. ``outcome``: in words; ``host``: the machine, empty
    where no worker lived to say it; ``started_at``: seconds since 1970; ``run_id``: of the run that a piece of another
    run is on the worker.
    """

    status: str | None
    outcome: str
    host: str
    seconds: float
    started_at: float = 0.0
    run_id: str = ""


class WorkerProgress(Progress):
    """Plain lines that begin with a task's name; Ray forwards them to the terminal of the command."""

    def __init__(self, name: str) -> None:
        super().__init__(Console(file=sys.stdout, force_terminal=False))
        self._name, self.outcome = name, ""

    def start(self, run_id: str) -> None:
        del run_id
        self._started = time.monotonic()
        super().note(f"{self._name}: starts on {socket.gethostname()}")

    def note(self, text: str) -> None:
        self.outcome = text.strip()
        super().note(f"{self._name}: {text.strip()}")

    def end(self, run_id: str, record: RunRecord) -> None:
        del run_id
        self.outcome = outcome_of(record)


def execute(run: PlannedRun, done: int, options: RunOptions, context: WorkerContext) -> WorkerResult | None:
    """Execute a run; None when another process holds its lock.

    A run that has ended since it was done ``done`` times is not executed again. Through an exchange the worker first
    gets the repetitions and the shards of predictions that the run needs.
    """
    store = context.prepare()
    check_data(run)
    exchange = context.exchange
    if exchange is None:
        return _run(run, done, context.launch, WorkerProgress(run.run_id), options)
    weights = store.root.parent / REPETITIONS / WEIGHTS
    pull_repetitions(exchange, context.names, weights)
    for shard in options.shards:
        pull_run(exchange, Store(weights.parent), shard)
    done = store.ledger.times_done()[run.run_id]
    result = _run(run, done, replace(context.launch, store=store), WorkerProgress(run.run_id), options)
    if result is not None and result.status is not None:
        push_repetitions(exchange, context.names, weights)
        for folder in ("env", "data"):
            if (store.root.parent / folder).is_dir():
                exchange.push_all(store.root.parent / folder, folder, new_only=True)
        exchange.push_all(store.runs / run.run_id, f"{store.root.name}/runs/{run.run_id}")
    return result


def train_repetitions(run: PlannedRun, members: range, context: WorkerContext) -> WorkerResult | None:
    """Train some repetitions of a run, of the context's names, and keep them; None where another process does."""
    return _execute_piece(run, repetitions_spec(run.spec, members), name_of_repetitions(members), context)


def predict_shard(run: PlannedRun, shard: Shard, context: WorkerContext, use_earlier: bool) -> WorkerResult | None:
    """Predict a shard of a run from its kept repetitions; ``use_earlier``: unless that was done before."""
    return _execute_piece(run, shard_spec(run.spec, shard), name_of_shard(shard), context, use_earlier)


def _execute_piece(
    run: PlannedRun, spec: RunSpec, name: str, context: WorkerContext, use_earlier: bool = False
) -> WorkerResult | None:
    """Execute a piece of a run as a run of its own, whose results are beside the kept repetitions."""
    store = Store(context.prepare().root.parent / REPETITIONS)
    data = check_data(run)
    piece = PlannedRun(spec.run_id(run.code, data.identity), spec, None, run.code, spec.question(data.fingerprint))
    exchange = context.exchange
    if exchange:
        pull_repetitions(exchange, context.names, store.root / WEIGHTS)
        if use_earlier:
            pull_run(exchange, store, piece.run_id)
    if use_earlier and status_of(store.runs / piece.run_id) == "ok":
        return WorkerResult("ok", "done before", socket.gethostname(), 0.0, run_id=piece.run_id)
    done, progress = store.ledger.times_done()[piece.run_id], WorkerProgress(f"{run.run_id}, {name}")
    result = _run(piece, done, replace(context.launch, store=store), progress, RunOptions())
    if exchange and result is not None:
        push_repetitions(exchange, context.names, store.root / WEIGHTS)
        if spec.shard and result.status == "ok":
            exchange.push_all(store.runs / piece.run_id, f"{REPETITIONS}/runs/{piece.run_id}")
    return None if result is None else replace(result, run_id=piece.run_id)


def _run(
    run: PlannedRun, done: int, launch: LaunchContext, progress: WorkerProgress, options: RunOptions
) -> WorkerResult | None:
    started, started_at = time.monotonic(), time.time()
    result = run_unless_locked(run, done, launch, progress, options)
    if result is None:
        return None
    seconds = time.monotonic() - started
    return WorkerResult(result.status, progress.outcome, socket.gethostname(), seconds, started_at)


def repetitions_spec(spec: RunSpec, members: range) -> RunSpec:
    """The spec that trains these repetitions of a run, and predicts nothing."""
    settings = method_of(spec).part(members)
    assert settings is not None
    train = replace(spec.train, evaluate_on=NOTHING, validate_every=0, keep_repetitions=True)
    return replace(spec, settings=settings, train=train)


def name_of_repetitions(members: range) -> str:
    """Repetitions in words."""
    return f"repetitions {members.start}-{members[-1]}" if len(members) > 1 else f"repetition {members.start}"


def name_of_shard(shard: Shard) -> str:
    """A shard of the predictions in words."""
    return f"{shard.axis} {shard.start:,} to {shard.stop - 1:,} to predict"


def method_of(spec: RunSpec) -> Method:
    """A run's method. InputError where there is none, or its settings do not fit."""
    from bench.model.methods import Method

    return Method.load(spec.target, spec.settings)
