"""One MACH run on one and on several workers of one thread each: behind `machbench speed cluster`.

All workers train its repetitions; in a second run, whose repetitions were trained before, all workers predict.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console

from bench.config.experiment import load_experiment
from bench.launch.experiment_runner import LaunchContext, run_locally
from bench.launch.progress import Progress
from bench.launch.ray.cluster import RayCluster, connect
from bench.plan.plan import PlannedRun, plan
from bench.results.store import REPETITIONS, WEIGHTS, Store
from bench.speed import Row

ROUNDS = 3
R = 16
PREDICTED_FROM = 1e11  # labels to be scored: more than the first run has, fewer than the second
TRAIN = {"hidden": 128, "epochs": 16, "batch_size": 256, "threads": 1, "validate_every": 0}
METHODS = {"mach": {"B": 2000, "R": R, "keep_repetitions": True}}
TRAINED = {"dataset": {"name": "amazon670k-style", "scale": 0.05}, "train": TRAIN, "methods": METHODS}
# As many labels as Amazon-670K, but few points, because training is not measured here.
SIZES = {"n_train": 5000, "n_test": 20000, "n_features": 20000, "labels_per_point": 140}
PREDICTED = {
    "dataset": {"name": "amazon670k-style", **SIZES},
    "train": {**TRAIN, "epochs": 1},
    "methods": METHODS,
}


@dataclass(frozen=True)
class Seconds:
    """Wall-clock seconds: of the whole run, until the last repetition was kept, and of training alone.

    ``kept_s`` includes scheduling, starting the process, reading the data and writing the repetition; predicting comes
    after it. ``training_s`` is that of the process that trained longest.
    """

    wall_s: float
    kept_s: float
    training_s: float


def cluster() -> list[Row]:
    """Rows for the local launcher and for clusters of 1, 2, 4, … workers with a core each, up to this machine's cores.

    The clock starts when the cluster is up and the run is planned, and stops when its record is written. RuntimeError
    when P@1 is not the same for all; NotImplementedError without Ray.
    """
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise NotImplementedError(f"Ray is not installed: {error}") from None
    counts = [2**n for n in range(8) if 2**n <= len(os.sched_getaffinity(0))]
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        trained = _rounds(Path(one), TRAINED, counts, keep=False)
        predicted = _rounds(Path(other), PREDICTED, counts, keep=True)
    return _rows("cluster", trained, R) + _rows("cluster, predictions", predicted, None)


def _rounds(folder: Path, experiment: dict[str, Any], counts: list[int], keep: bool) -> dict[int, list[Seconds]]:
    """By number of workers, 0 for the local launcher. ``keep``: train once, then only predict."""
    (folder / "cluster.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(experiment)))
    measured: dict[int, list[Seconds]] = {n: [] for n in (0, *counts)}
    qualities = set()
    if keep:
        _run(folder, 0, keep)
    for _ in range(ROUNDS):
        for n, rounds in measured.items():
            seconds, quality = _run(folder, n, keep)
            rounds.append(seconds)
            qualities.add(quality)
    if len(qualities) > 1:
        raise RuntimeError(f"speed cluster: P@1 {sorted(qualities)}; expected the same for every number of workers")
    return measured


def _rows(what: str, measured: dict[int, list[Seconds]], per: int | None) -> list[Row]:
    """``per``: number of repetitions by which the extra seconds of one worker over the local launcher are divided."""
    walls, kept, training = (
        {n: statistics.median(getattr(seconds, part) for seconds in rounds) for n, rounds in measured.items()}
        for part in ("wall_s", "kept_s", "training_s")
    )
    rows = []
    for n, rounds in measured.items():
        more = walls[n] - walls[0]
        note = f"{R} repetitions"
        if n == 1:
            each = f"{more / per:.2f} s per repetition" if per else f"{more:.1f} s"
            note = f"{each} more than the launcher of one machine"
        elif n > 1:
            note = f"{walls[1] / walls[n]:.2f}x one worker"
            if per:
                note += f"; its repetitions {kept[1] / kept[n]:.2f}x, training alone {training[1] / training[n]:.2f}x"
        row: Row = {
            "what": what,
            "variant": f"Ray, {n} worker{'s' * (n > 1)}" if n else "the launcher of one machine",
            "median_s": walls[n],
            "ratio": walls[0] / walls[n],
            "note": note,
            "repeats_s": [seconds.wall_s for seconds in rounds],
        }
        if per:  # else they were kept before
            row |= {"kept_s": [s.kept_s for s in rounds], "training_s": [s.training_s for s in rounds]}
        rows.append(row)
    return rows


def _run(folder: Path, workers: int, keep: bool) -> tuple[Seconds, float]:
    """Execute the run on so many workers (0: by the local launcher), without what is kept; its seconds and P@1."""
    experiment = load_experiment(str(folder / "cluster.yaml"))
    store = Store(folder / "results" / "cluster")
    shutil.rmtree(store.root if keep else store.root.parent, ignore_errors=True)
    (run,) = plan(experiment, store, lambda _: None)
    began, wall = _timed(run, LaunchContext(store, experiment), workers)
    record = store.record(run.run_id)
    if record is None or record.status != "ok":
        raise RuntimeError(f"speed cluster: {record and record.reason}; expected the run to be done")
    by_process: defaultdict[str, float] = defaultdict(float)
    last = 0.0
    for path in (store.root.parent / REPETITIONS / WEIGHTS).glob("*.json"):
        about = json.loads(path.read_text())
        by_process[about["process"]] += about["seconds"]
        last = max(last, path.stat().st_mtime)
    return Seconds(wall, last - began, max(by_process.values())), record.own.metric("P@1")


def _timed(run: PlannedRun, context: LaunchContext, workers: int) -> tuple[float, float]:
    """When the clock started, by the system's clock, and what it showed at the end."""
    quiet = Progress(Console(file=io.StringIO()))
    if not workers:
        began, started = time.time(), time.perf_counter()
        run_locally([run], {}, context, quiet)
        return began, time.perf_counter() - started
    ray = connect(None, workers)
    try:
        began, started = time.time(), time.perf_counter()
        RayCluster(shard_from=PREDICTED_FROM).execute(ray, [run], {}, context, quiet)
        return began, time.perf_counter() - started
    finally:
        ray.shutdown()
