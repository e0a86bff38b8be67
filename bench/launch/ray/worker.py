"""What workers of a Ray cluster do (`bench.launch.ray.cluster`): foresee, train a part of a run's repetitions, execute
a run."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from bench.common import environment
from bench.common.errors import InputError
from bench.common.paths import cache_root
from bench.config.spec import NOTHING, RunSpec, Share
from bench.launch.experiment_runner import LaunchContext, take
from bench.launch.progress import Progress
from bench.launch.ray.exchange import Exchange, fetch_folder
from bench.plan.datasets import Named, prepare
from bench.plan.plan import PlannedRun
from bench.process.options import RunOptions
from bench.results.run_folder import RunFolder, status_of
from bench.results.store import REPETITIONS, WEIGHTS, Store
from bench.run.prediction_shards import share_spec

if TYPE_CHECKING:
    from bench.model.methods import Method

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class WorkerFolder:
    """Where a worker works: in the folder of the command; or, with the URL of an exchange, in one of its machine."""

    folder: str
    exchange: str | None = None

    def enter(self) -> None:
        """Paths and a user's own methods are found from there."""
        if self.exchange is not None:
            os.chdir(self.own())
            return
        try:
            os.chdir(self.folder)
        except OSError as error:
            expected = "expected it on every node, or --exchange URL"
            raise InputError(
                f"node {socket.gethostname()}: folder {self.folder}: {error.strerror}; {expected}"
            ) from error

    def own(self) -> Path:
        """The folder of this machine for this exchange."""
        name = hashlib.sha256(str(self.exchange).encode()).hexdigest()[:12]
        path = cache_root() / "exchange" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def store(self, of: Store) -> Store:
        """The results of an experiment as this worker has them."""
        return of if self.exchange is None else Store(self.own() / "results" / of.root.name)


@dataclass(frozen=True)
class WorkerResult:
    """``status`` of what a worker did, None where the code is another on its node; what to tell; place and time."""

    status: str | None
    outcome: str
    host: str
    seconds: float
    began: float = 0.0  # seconds since 1970
    run_id: str = ""  # of a piece of a run


class WorkerProgress(Progress):
    """Plain lines that say whose they are; Ray takes them to the terminal of the command."""

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

    def end(self, run_id: str, status: str, reason: str | None, row: dict[str, Any]) -> None:
        del run_id, status
        self.outcome = f"P@1 {100 * row['P@1']:.2f} %" if "P@1" in row else (reason or "")


def execute(
    run: PlannedRun,
    done: int,
    context: LaunchContext,
    place: WorkerFolder,
    cpus: int,
    options: RunOptions,
    names: tuple[str, ...],
) -> WorkerResult | None:
    """Execute a run unless another process holds it (None) or has ended it in the meantime.

    ``names``: of its repetitions, which are fetched where they come by an exchange.
    """
    store = arrive(place, cpus, context.store)
    check_data(run)
    if place.exchange is None:
        return _take(run, done, context, WorkerProgress(run.run_id), options)
    exchange, weights = Exchange(place.exchange), store.root.parent / REPETITIONS / WEIGHTS
    _fetch(exchange, names, weights)
    for share in options.shares:
        fetch_run(exchange, Store(weights.parent), share)
    ended = _take(
        run, store.ledger.times_done()[run.run_id], replace(context, store=store), WorkerProgress(run.run_id), options
    )
    if ended is not None and ended.status is not None:
        _hand_in(exchange, names, weights)
        for folder in ("env", "data"):
            if (store.root.parent / folder).is_dir():
                exchange.push_all(store.root.parent / folder, folder, new_only=True)
        exchange.push_all(store.runs / run.run_id, f"{store.root.name}/runs/{run.run_id}")
    return ended


def train_part(
    run: PlannedRun, members: range, context: LaunchContext, place: WorkerFolder, cpus: int, names: tuple[str, ...]
) -> WorkerResult | None:
    """Train some repetitions of a run, of these names, and keep them; None where another process does."""
    return _take_piece(run, part_spec(run.spec, members), called(members), context, place, cpus, names)


def predict_share(
    run: PlannedRun,
    share: Share,
    context: LaunchContext,
    place: WorkerFolder,
    cpus: int,
    names: tuple[str, ...],
    afresh: bool,
) -> WorkerResult | None:
    """Predict a share of a run from its kept repetitions, unless that was done before and may be used (not afresh)."""
    return _take_piece(run, share_spec(run.spec, share), called_share(share), context, place, cpus, names, not afresh)


def _take_piece(
    run: PlannedRun,
    spec: RunSpec,
    called: str,
    context: LaunchContext,
    place: WorkerFolder,
    cpus: int,
    names: tuple[str, ...],
    use_earlier: bool = False,
) -> WorkerResult | None:
    """Execute a piece of a run as a run of its own among the kept repetitions."""
    results = arrive(place, cpus, context.store).root.parent
    data = check_data(run)
    store, voice = Store(results / REPETITIONS), WorkerProgress(f"{run.run_id}, {called}")
    piece = PlannedRun(spec.run_id(run.code, data.identity), spec, None, run.code, spec.asked(data.fingerprint))
    exchange = Exchange(place.exchange) if place.exchange else None
    if exchange:
        _fetch(exchange, names, store.root / WEIGHTS)
        if use_earlier:
            fetch_run(exchange, store, piece.run_id)
    if use_earlier and status_of(store.runs / piece.run_id) == "ok":
        return WorkerResult("ok", "done before", socket.gethostname(), 0.0, run_id=piece.run_id)
    done = store.ledger.times_done()[piece.run_id]
    ended = _take(piece, done, replace(context, store=store), voice, RunOptions())
    if exchange and ended is not None:
        _hand_in(exchange, names, store.root / WEIGHTS)
        if spec.share and ended.status == "ok":
            exchange.push_all(store.runs / piece.run_id, f"{REPETITIONS}/runs/{piece.run_id}")
    return None if ended is None else replace(ended, run_id=piece.run_id)


def fetch_run(exchange: Exchange, store: Store, run_id: str) -> None:
    """A run that is at the URL and not here."""
    if not (store.runs / run_id).exists():
        folder = RunFolder(store.runs / f".{run_id}.{os.getpid()}.tmp")
        fetch_folder(exchange, f"{store.root.name}/runs/{run_id}", folder.path)
        if (folder.path / "record.json").exists():
            folder.complete()


def _fetch(exchange: Exchange, names: tuple[str, ...], weights: Path) -> None:
    """Repetitions that are at the URL and not here."""
    there = exchange.names(f"{REPETITIONS}/{WEIGHTS}")
    for name in names:
        if f"{name}.json" in there and not (weights / f"{name}.json").exists():
            for kind in ("safetensors", "json"):
                exchange.pull(f"{name}.{kind}", f"{REPETITIONS}/{WEIGHTS}", weights)


def _hand_in(exchange: Exchange, names: tuple[str, ...], weights: Path) -> None:
    """Repetitions that are here and not at the URL."""
    there = exchange.names(f"{REPETITIONS}/{WEIGHTS}")
    for name in names:
        if (weights / f"{name}.json").exists() and f"{name}.json" not in there:
            for kind in ("safetensors", "json"):
                exchange.push(weights / f"{name}.{kind}", f"{REPETITIONS}/{WEIGHTS}")


def part_spec(spec: RunSpec, members: range) -> RunSpec:
    """The spec that trains these repetitions of a run, and predicts nothing."""
    settings = method_of(spec).part(members)
    assert settings is not None
    train = replace(spec.train, evaluate_on=NOTHING, validate_every=0, keep_repetitions=True)
    return replace(spec, settings=settings, train=train)


def called(members: range) -> str:
    """Repetitions in words."""
    return f"repetitions {members.start}-{members[-1]}" if len(members) > 1 else f"repetition {members.start}"


def called_share(share: Share) -> str:
    """A share of the predictions in words."""
    return f"{share.of} {share.start:,} to {share.stop - 1:,} to predict"


def method_of(spec: RunSpec) -> Method:
    """A run's method. InputError where there is none, or its settings do not fit."""
    from bench.model.methods import Method

    return Method.load(spec.target, spec.settings)


def _take(
    run: PlannedRun, done: int, context: LaunchContext, voice: WorkerProgress, options: RunOptions
) -> WorkerResult | None:
    started, began = time.monotonic(), time.time()
    taken = take(run, done, context, voice, options)
    if taken is None:
        return None
    return WorkerResult(taken.status, voice.outcome, socket.gethostname(), time.monotonic() - started, began)


def arrive(place: WorkerFolder, cpus: int, of: Store) -> Store:
    """Work in the place with so many threads, and tell of this node; the results of an experiment as it has them."""
    place.enter()
    _use(cpus)
    store = place.store(of)
    environment.write(store.root.parent)
    return store


def _use(cpus: int) -> None:
    """Let the run use as many threads as cores were reserved; all of a machine's are not limited."""
    for name in THREADS:
        os.environ.pop(name, None)
        if cpus < len(os.sched_getaffinity(0)):
            os.environ[name] = str(cpus)
    environment.describe.cache_clear()


def data_here(spec: RunSpec) -> Named:
    """The dataset of a run on this node, which is built first where it is not there."""
    return _named(spec.dataset, json.dumps(dict(spec.dataset_overrides)))


@cache
def _named(dataset: str, overrides: str) -> Named:
    (named,) = prepare([(dataset, json.loads(overrides))], lambda name: print(f"building dataset {name} (once a node)"))
    return named


def check_data(run: PlannedRun) -> Named:
    """InputError where a node has other data under the name than the command."""
    found = data_here(run.spec)
    if run.spec.asked(found.fingerprint) != run.asked:
        raise InputError(
            f"node {socket.gethostname()}: dataset {run.spec.dataset}: found other data (fingerprint "
            f"{found.fingerprint}) than where the command was given; expected the same on every node"
        )
    return found
