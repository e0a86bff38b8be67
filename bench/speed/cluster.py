"""Repetitions of one MACH run, a thread each, on one worker and on several: behind `machbench speed cluster`."""

from __future__ import annotations

import io
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf
from rich.console import Console

from bench.experiment import load_experiment
from bench.launch import Ways, one_by_one
from bench.on_ray import connect
from bench.plan import PlannedRun, plan
from bench.progress import Progress
from bench.ray_driver import Driver
from bench.speed import Row
from bench.store import REPETITIONS, WEIGHTS, Store

ROUNDS = 3
R = 16
LOCAL = "the launcher of one machine"
EXPERIMENT = {
    "dataset": {"name": "amazon670k-style", "scale": 0.05},
    "train": {"hidden": 128, "epochs": 16, "batch_size": 256, "threads": 1, "validate_every": 0},
    "methods": {"mach": {"B": 2000, "R": R, "keep_repetitions": True}},
}


@dataclass(frozen=True)
class Took:
    """Seconds of the whole by the wall clock, and of training in the process that trained longest."""

    wall_s: float
    training_s: float


def cluster() -> list[Row]:
    """Rows for the local launcher and for clusters of 1, 2, 4, … workers with a core each, up to this machine's cores.

    The clock starts when the cluster is up and the run is planned, and stops when its record is written. RuntimeError
    when they do not all come to the same P@1; NotImplementedError without Ray.
    """
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise NotImplementedError(f"Ray is not installed: {error}") from None
    workers = [2**n for n in range(8) if 2**n <= len(os.sched_getaffinity(0))]
    names = {LOCAL: 0} | {f"Ray, {n} worker{'s' * (n > 1)}": n for n in workers}
    taken: dict[str, list[Took]] = {name: [] for name in names}
    qualities = set()
    for _ in range(ROUNDS):
        for name, n in names.items():
            took, quality = _run(n)
            taken[name].append(took)
            qualities.add(quality)
    if len(qualities) > 1:
        raise RuntimeError(f"speed cluster: P@1 {sorted(qualities)}; expected the same whatever trained it")
    walls = {name: statistics.median(took.wall_s for took in of) for name, of in taken.items()}
    training = {name: statistics.median(took.training_s for took in of) for name, of in taken.items()}
    one = f"Ray, {workers[0]} worker"
    rows = []
    for name, n in names.items():
        more = (walls[name] - walls[LOCAL]) / R
        notes = {0: f"{R} repetitions", 1: f"{more:.2f} s a repetition more than one machine's launcher"}
        faster = f"{walls[one] / walls[name]:.2f}x one worker, training alone {training[one] / training[name]:.2f}x"
        rows.append(
            {
                "what": "cluster",
                "variant": name,
                "median_s": walls[name],
                "ratio": walls[LOCAL] / walls[name],
                "note": notes.get(n, faster),
                "repeats_s": [took.wall_s for took in taken[name]],
                "training_s": [took.training_s for took in taken[name]],
            }
        )
    return rows


def _run(workers: int) -> tuple[Took, float]:
    """Train and predict in a folder of its own, on so many workers (0: by the local launcher); and the P@1."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "cluster.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(EXPERIMENT)))
        experiment = load_experiment(str(folder / "cluster.yaml"))
        store = Store(folder / "results" / "cluster")
        (run,) = plan(experiment, store, lambda _: None)
        ways = Ways(store, experiment, force=False, skip_unfit=False)
        wall = _timed(run, ways, workers)
        record = store.record(run.run_id)
        if record is None or record["status"] != "ok":
            raise RuntimeError(f"speed cluster: {record and record.get('reason')}; expected the run to be done")
        by_process: defaultdict[str, float] = defaultdict(float)
        for path in (store.root.parent / REPETITIONS / WEIGHTS).glob("*.json"):
            about = json.loads(path.read_text())
            by_process[about["process"]] += about["seconds"]
        return Took(wall, max(by_process.values())), float(record["rows"][-1]["P@1"])


def _timed(run: PlannedRun, ways: Ways, workers: int) -> float:
    quiet = Progress(Console(file=io.StringIO()))
    if not workers:
        started = time.perf_counter()
        one_by_one([run], {}, ways, quiet)
        return time.perf_counter() - started
    ray = connect(None, workers)
    try:
        started = time.perf_counter()
        Driver(ray, ways, quiet, {}).work_off([run])
        return time.perf_counter() - started
    finally:
        ray.shutdown()
