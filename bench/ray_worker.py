"""What workers of a Ray cluster do (`bench.on_ray`): foresee, train a part of a run's repetitions, execute a run."""

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
from typing import Any

from rich.console import Console

from bench import environment
from bench.errors import InputError
from bench.exchange import Exchange
from bench.launch import Ways, take
from bench.orders import Orders
from bench.paths import cache_root
from bench.plan import PlannedRun
from bench.prepare import Named, prepare
from bench.progress import Progress
from bench.spec import NOTHING, RunSpec
from bench.store import REPETITIONS, WEIGHTS, Store

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
GPU_CONTEXT = 10**9  # bytes that a process takes of a GPU beside what is predicted


@dataclass(frozen=True)
class Place:
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
class Foreseen:
    """Of a run: predicted bytes of it and of a part of it, of that also on a GPU, and names of its repetitions.

    None is not known; no names where the repetitions are not independent, or there are none.
    """

    peak: int | None = None
    part_peak: int | None = None
    part_gpu: int | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ended:
    """``status`` of what a worker did, None where the code is another on its node; what to tell; place and time."""

    status: str | None
    outcome: str
    host: str
    seconds: float
    began: float = 0.0  # seconds since 1970


class Voice(Progress):
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
    run: PlannedRun, done: int, ways: Ways, place: Place, cpus: int, orders: Orders, names: tuple[str, ...]
) -> Ended | None:
    """Execute a run unless another process holds it (None) or has ended it in the meantime.

    ``names``: of its repetitions, which are fetched where they come by an exchange.
    """
    store = _arrive(place, cpus, ways.store)
    _check_data(run)
    if place.exchange is None:
        return _take(run, done, ways, Voice(run.run_id), orders)
    exchange, weights = Exchange(place.exchange), store.root.parent / REPETITIONS / WEIGHTS
    _fetch(exchange, names, weights)
    ended = _take(run, store.ledger.times_done()[run.run_id], replace(ways, store=store), Voice(run.run_id), orders)
    if ended is not None and ended.status is not None:
        _hand_in(exchange, names, weights)
        for folder in ("env", "data"):
            if (store.root.parent / folder).is_dir():
                exchange.push_all(store.root.parent / folder, folder, new_only=True)
        exchange.push_all(store.runs / run.run_id, f"{store.root.name}/runs/{run.run_id}")
    return ended


def train_part(
    run: PlannedRun, members: range, ways: Ways, place: Place, cpus: int, names: tuple[str, ...]
) -> Ended | None:
    """Train some repetitions of a run, of these names, and keep them; None where another process does."""
    store = _arrive(place, cpus, ways.store)
    data = _check_data(run)
    repetitions = store.root.parent / REPETITIONS
    spec = part_spec(run.spec, members)
    part = PlannedRun(spec.run_id(run.code, data.identity), spec, None, run.code, spec.asked(data.fingerprint))
    store = Store(repetitions)
    done = store.ledger.times_done()[part.run_id]
    voice = Voice(f"{run.run_id}, {called(members)}")
    exchange = Exchange(place.exchange) if place.exchange else None
    if exchange:
        _fetch(exchange, names, repetitions / WEIGHTS)
    ended = _take(part, done, replace(ways, store=store), voice, Orders())
    if exchange and ended is not None:
        _hand_in(exchange, names, repetitions / WEIGHTS)
    return ended


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
    settings = _method(spec).part(members, **spec.settings)
    train = replace(spec.train, evaluate_on=NOTHING, validate_every=0, keep_repetitions=True)
    return replace(spec, settings=settings, train=train)


def called(members: range) -> str:
    """Repetitions in words."""
    return f"repetitions {members.start}-{members[-1]}" if len(members) > 1 else f"repetition {members.start}"


def foresee(runs: list[PlannedRun], place: Place, threads: list[int], device: str, parts: int) -> list[Foreseen]:
    """What is to be known of runs before they are placed, each to be cut into so many parts if it can be."""
    place.enter()
    import torch

    from bench.execute import predict_here
    from bench.repetitions import names

    found = []
    for run, n_threads in zip(runs, threads, strict=True):
        spec, method = run.spec, _method(run.spec)
        kind = "cpu" if spec.train.device == "cpu" else device
        try:
            whole = predict_here(method, spec, torch.device("cpu"))
            peak = None if whole.peak_bytes is None else whole.peak_bytes * whole.processes
            known: tuple[str, ...] = ()
            if hasattr(method, "part"):
                total = method.encoders(**spec.settings)["repetitions"]
                identity = _data_here(spec.dataset, json.dumps(dict(spec.dataset_overrides))).identity
                known = tuple(names(method, spec, run.code, identity, kind, n_threads, total) or ())
            if not known:
                found.append(Foreseen(peak))
                continue
            part = part_spec(spec, range(-(-len(known) // parts)))
            predicted = predict_here(method, part, torch.device("cpu"))
            on_gpu = ("weights", "gradients", "optimiser", "activations")
            gpu = sum(predicted.bytes[name] for name in on_gpu) + GPU_CONTEXT if predicted.bytes else None
            found.append(Foreseen(peak, predicted.peak_bytes, gpu, known))
        except ValueError:  # the run itself will say what is wrong
            found.append(Foreseen())
    return found


def gpu_bytes() -> int | None:
    """Memory of the GPU that this worker was given; None where torch sees none."""
    import torch

    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def _method(spec: RunSpec) -> Any:
    from bench.execute import method_class

    return method_class(spec.target)


def _take(run: PlannedRun, done: int, ways: Ways, voice: Voice, orders: Orders) -> Ended | None:
    started, began = time.monotonic(), time.time()
    taken = take(run, done, ways, voice, orders)
    if taken is None:
        return None
    return Ended(taken.status, voice.outcome, socket.gethostname(), time.monotonic() - started, began)


def _arrive(place: Place, cpus: int, of: Store) -> Store:
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


@cache
def _data_here(dataset: str, overrides: str) -> Named:
    """A dataset on this node, which is built first where it is not there."""
    (named,) = prepare([(dataset, json.loads(overrides))], lambda name: print(f"building dataset {name} (once a node)"))
    return named


def _check_data(run: PlannedRun) -> Named:
    """InputError where a node has other data under the name than the command."""
    found = _data_here(run.spec.dataset, json.dumps(dict(run.spec.dataset_overrides)))
    if run.spec.asked(found.fingerprint) != run.asked:
        raise InputError(
            f"node {socket.gethostname()}: dataset {run.spec.dataset}: found other data (fingerprint "
            f"{found.fingerprint}) than where the command was given; expected the same on every node"
        )
    return found
