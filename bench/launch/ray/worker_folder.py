"""Where a worker of a Ray cluster works, and whether its node has the data that the command planned for."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bench.common import environment
from bench.common.errors import InputError
from bench.common.paths import cache_root
from bench.config.spec import RunSpec
from bench.plan.datasets import Named, prepare
from bench.plan.plan import PlannedRun
from bench.results.store import Store

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class WorkerFolder:
    """The folder in which a worker works: that of the command; with the URL of an exchange, one of its own machine."""

    folder: str
    exchange: str | None = None

    def enter(self) -> None:
        """Make it the current folder, from which relative paths and a user's own methods are found."""
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
        """The folder on this machine for this exchange."""
        name = hashlib.sha256(str(self.exchange).encode()).hexdigest()[:12]
        path = cache_root() / "exchange" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def store(self, of: Store) -> Store:
        """The store of an experiment that this worker uses; ``of``: that of the command."""
        return of if self.exchange is None else Store(self.own() / "results" / of.root.name)

    def prepare(self, cpus: int, of: Store) -> Store:
        """Enter the folder, limit the threads to ``cpus``, record this node's environment; returns `store`."""
        self.enter()
        limit_threads(cpus)
        store = self.store(of)
        environment.write(store.root.parent)
        return store


def limit_threads(cpus: int) -> None:
    """Let the run use as many threads as cores were reserved; no limit where all cores of the machine were."""
    for name in THREADS:
        os.environ.pop(name, None)
        if cpus < len(os.sched_getaffinity(0)):
            os.environ[name] = str(cpus)
    environment.describe.cache_clear()


def dataset_of(spec: RunSpec) -> Named:
    """The dataset of a run on this node; it is built first where it is missing."""
    return _named(spec.dataset, json.dumps(dict(spec.dataset_overrides)))


@cache
def _named(dataset: str, overrides: str) -> Named:
    (named,) = prepare([(dataset, json.loads(overrides))], lambda name: print(f"building dataset {name} (once a node)"))
    return named


def check_data(run: PlannedRun) -> Named:
    """The dataset of a run on this node; InputError where its data differ from those of the command."""
    found = dataset_of(run.spec)
    if run.spec.question(found.fingerprint) != run.question:
        raise InputError(
            f"node {socket.gethostname()}: dataset {run.spec.dataset}: found other data (fingerprint "
            f"{found.fingerprint}) than where the command was given; expected the same on every node"
        )
    inputs = found.evaluated.get(run.spec.train.evaluate_on)
    if run.inputs and inputs and run.inputs != inputs:
        raise InputError(
            f"node {socket.gethostname()}: dataset {run.spec.dataset}: evaluated otherwise than where the command was "
            f"given ({run.inputs.changes(inputs)}); expected the same card and filter on every node"
        )
    return found
