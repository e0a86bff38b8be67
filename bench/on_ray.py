"""Runs spread over a Ray cluster: each is a task that Ray places by what it needs, and repeats where a node dies.

What a task does is what `bench.launch` does on one machine: it takes the run from the results folder, which all nodes
share, and executes it in a process of its own. Without Ray (the extra ``machbench[ray]``) the rest of machbench works.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import environment
from bench.child import search_path
from bench.errors import InputError
from bench.failure import Told, failure_record
from bench.launch import PATIENCE_S, Ways, take
from bench.ledger import end_of
from bench.plan import PlannedRun
from bench.prepare import prepare
from bench.progress import Progress
from bench.spec import RunSpec
from bench.store import RunFolder

ATTEMPTS = 3  # of a run whose worker or node dies
STOP_S = 20.0  # for the runs in progress to write down that they were stopped
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class RayCluster:
    """``address`` of a cluster, or None: that of $RAY_ADDRESS, else one that is started here and ends with the command.

    Used as ``work_off`` of `bench.launch.run_experiment`. InputError where Ray is not installed or not reached.
    """

    address: str | None = None

    def __call__(
        self, todo: Sequence[PlannedRun], done: Mapping[str, int], ways: Ways, progress: Progress
    ) -> dict[str, str | None]:
        """Execute the runs, or see another process execute them; statuses by run id."""
        if not todo:
            return {}
        ray = connect(self.address)
        try:
            return _Driver(ray, ways, progress).work_off(todo, done)
        finally:
            ray.shutdown()


def connect(address: str | None) -> Any:
    """The module ``ray``, connected."""
    try:
        import ray
    except ImportError as error:
        raise InputError(
            f"--launcher ray: {error}; expected Ray, as `pip install machbench[ray]` installs it"
        ) from error
    # What memory a run may take is ours to watch; Ray's own watch would repeat a run that is too large for ever.
    os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that is started here tells nobody
    passed_on = {name: value for name, value in os.environ.items() if name.startswith("MACHBENCH_")}
    passed_on["PYTHONPATH"] = search_path()
    try:
        ray.init(
            address=address,
            logging_level="ERROR",
            log_to_driver=True,
            runtime_env={"env_vars": passed_on},
        )
    except (ConnectionError, ValueError) as error:
        raise InputError(f"--address {address}: no Ray cluster there: {error}") from error
    return ray


class _Driver:
    """The side of the command: hands the runs out, and tells how they end."""

    def __init__(self, ray: Any, ways: Ways, progress: Progress) -> None:
        self._ray, self._progress = ray, progress
        self._ways = replace(ways, force=False)  # a run is begun anew once, not after each death of its node
        self._from_the_beginning = ways.force
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cores = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1] or [1]
        self._cpus, self._most = min(cores), max(cores)
        self._memory = max((node.get("memory", 0.0) for node in nodes), default=0.0)
        self._gpus = any(node.get("GPU", 0) >= 1 for node in nodes)

    def work_off(self, todo: Sequence[PlannedRun], done: Mapping[str, int]) -> dict[str, str | None]:
        """See `RayCluster`."""
        for run in todo:  # Ray would wait for ever for a node that has as many
            if run.spec.train.threads > self._most:
                asked = f"{run.run_id}, key train.threads: found {run.spec.train.threads}"
                raise InputError(f"{asked}; expected at most {self._most}, the cores of the largest node")
        if self._from_the_beginning:
            for run in todo:
                with self._ways.store.claim(run.run_id) as claim:
                    if claim is not None:
                        self._ways.store.drop_checkpoint(run.run_id)
        needs = dict(zip((run.run_id for run in todo), self._predicted([run.spec for run in todo]), strict=True))
        statuses: dict[str, str | None] = {}
        waiting = {self._submit(run, done, needs[run.run_id]): run for run in todo}
        try:
            while waiting:
                (ready,), _ = self._ray.wait(list(waiting), num_returns=1)
                run = waiting.pop(ready)
                ended = self._ended(ready, run)
                if ended is None:  # another command holds it
                    time.sleep(PATIENCE_S)
                    waiting[self._submit(run, done, needs[run.run_id])] = run
                    continue
                statuses[run.run_id] = ended.status
                self._progress.ended_on(run.run_id, ended.host, ended.status, ended.outcome, ended.seconds)
        except BaseException:
            self._stop(list(waiting))
            raise
        return statuses

    def _predicted(self, specs: list[RunSpec]) -> list[int | None]:
        """Peak bytes, in a worker that ends with it: what predicts them loads torch."""
        task = self._ray.remote(num_cpus=0, max_calls=1)(_predict)
        found: list[int | None] = self._result(task.remote(specs, str(Path.cwd())))
        return found

    def _submit(self, run: PlannedRun, done: Mapping[str, int], predicted: int | None) -> Any:
        needs: dict[str, float] = {"num_cpus": run.spec.train.threads or self._cpus}
        if predicted is not None:
            # What no node has room for goes to the largest, and becomes a row with what happens there.
            needs["memory"] = min(predicted, self._memory)
        if self._gpus and run.spec.train.device != "cpu":
            needs["num_gpus"] = 1
        task = self._ray.remote(_execute).options(name=run.run_id, max_retries=ATTEMPTS - 1, **needs)
        return task.remote(run, done.get(run.run_id, 0), self._ways, str(Path.cwd()), int(needs["num_cpus"]))

    def _result(self, reference: Any) -> Any:
        """What a task returned; what it raised is raised."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, (InputError, OSError)) else error from None

    def _ended(self, reference: Any, run: PlannedRun) -> Ended | None:
        """How a task ended. A run whose node died again and again gets a row that says so."""
        try:
            found: Ended | None = self._result(reference)
            return found
        except self._ray.exceptions.RayTaskError:
            raise
        except self._ray.exceptions.RayError as error:
            reason = f"its worker or node died {ATTEMPTS} times: {str(error).strip().splitlines()[0]}"
        store = self._ways.store
        deadline = time.monotonic() + STOP_S
        while store.claimed(run.run_id) and time.monotonic() < deadline:
            time.sleep(PATIENCE_S)  # the process of the run ends with its worker, but not in the same moment
        with store.claim(run.run_id) as claim:
            if claim is None:
                return None
            store.close_books(run.run_id)
            folder = RunFolder.create(store.runs, run.run_id, run.spec, run.code, run.asked)
            folder.write_record(failure_record(run.spec, "crashed", reason, Told(), None, folder.path / "log.txt"))
            folder.complete()
            store.ledger.append(end_of("crashed"), run.run_id, status="crashed", reason=reason)
        return Ended("crashed", reason, "", 0.0)

    def _stop(self, references: list[Any]) -> None:
        """As Ctrl-C would on one machine: the runs in progress are stopped and written down."""
        for reference in references:
            self._ray.cancel(reference, force=False)
        if references:
            self._ray.wait(references, num_returns=len(references), timeout=STOP_S)


@dataclass(frozen=True)
class Ended:
    """``status`` of a run, None where its code is another on that node; what is to be told; where and in how long."""

    status: str | None
    outcome: str
    host: str
    seconds: float


class _Worker(Progress):
    """Plain lines with the run's name; Ray takes them to the terminal of the command."""

    def __init__(self) -> None:
        super().__init__(Console(file=sys.stdout, force_terminal=False))
        self.outcome, self._run_id = "", ""

    def start(self, run_id: str) -> None:
        self._run_id, self._started = run_id, time.monotonic()
        super().note(f"{run_id}: starts on {socket.gethostname()}")

    def note(self, text: str) -> None:
        self.outcome = text.strip()
        super().note(f"{self._run_id}: {text.strip()}" if self._run_id else text)

    def end(self, run_id: str, status: str, reason: str | None, row: dict[str, Any]) -> None:
        del run_id, status
        self.outcome = f"P@1 {100 * row['P@1']:.2f} %" if "P@1" in row else (reason or "")


def _execute(run: PlannedRun, done: int, ways: Ways, folder: str, cpus: int) -> Ended | None:
    """In a worker: execute a run unless another process holds it (None) or has ended it in the meantime."""
    started = time.monotonic()
    _enter(folder)
    _use(cpus)
    environment.write(ways.store.root.parent)
    _check_data(run)
    progress = _Worker()
    taken = take(run, done, ways, progress)
    if taken is None:
        return None
    return Ended(taken.status, progress.outcome, socket.gethostname(), time.monotonic() - started)


def _predict(specs: list[RunSpec], folder: str) -> list[int | None]:
    _enter(folder)
    import torch

    from bench.execute import method_class, predict_here

    found: list[int | None] = []
    for spec in specs:
        try:
            found.append(predict_here(method_class(spec.target), spec, torch.device("cpu")).peak_bytes)
        except ValueError:  # the run itself will say what is wrong
            found.append(None)
    return found


def _enter(folder: str) -> None:
    """Work where the command was given: paths and a user's own methods are found from there."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise InputError(
            f"node {socket.gethostname()}: folder {folder}: {error.strerror}; expected it on every node"
        ) from error


def _use(cpus: int) -> None:
    """Let the run use as many threads as cores were reserved; all of a machine's are not limited."""
    for name in THREADS:
        os.environ.pop(name, None)
        if cpus < len(os.sched_getaffinity(0)):
            os.environ[name] = str(cpus)
    environment.describe.cache_clear()


@cache
def _data_here(dataset: str, overrides: str) -> str:
    """The fingerprint of a dataset on this node, which is built first where it is not there."""
    (named,) = prepare([(dataset, json.loads(overrides))], lambda name: print(f"building dataset {name} (once a node)"))
    return named.fingerprint


def _check_data(run: PlannedRun) -> None:
    """InputError where a node has other data under the name than the command."""
    found = _data_here(run.spec.dataset, json.dumps(dict(run.spec.dataset_overrides)))
    if run.spec.asked(found) != run.asked:
        raise InputError(
            f"node {socket.gethostname()}: dataset {run.spec.dataset}: found other data (fingerprint {found}) than "
            "where the command was given; expected the same on every node"
        )
