"""One MACH run, a thread each worker, on one and on several: behind `machbench speed cluster`.

Its repetitions are trained by all workers; in another run, whose repetitions are at hand, all workers predict.
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
from bench.launch.experiment_runner import LaunchContext, one_by_one
from bench.launch.progress import Progress
from bench.launch.ray.cluster import connect
from bench.launch.ray.driver import Driver
from bench.plan.plan import PlannedRun, plan
from bench.results.store import REPETITIONS, WEIGHTS, Store
from bench.speed import Row

ROUNDS = 3
R = 16
PREDICTED_FROM = 1e11  # labels to be scored: more than the first run has, fewer than the second
TRAIN = {"hidden": 128, "epochs": 16, "batch_size": 256, "threads": 1, "validate_every": 0}
METHODS = {"mach": {"B": 2000, "R": R, "keep_repetitions": True}}
TRAINED = {"dataset": {"name": "amazon670k-style", "scale": 0.05}, "train": TRAIN, "methods": METHODS}
# As many labels as Amazon-670K has, each with a point of few, because training is not what is measured.
SIZES = {"n_train": 5000, "n_test": 20000, "n_features": 20000, "labels_per_point": 140}
PREDICTED = {
    "dataset": {"name": "amazon670k-style", **SIZES},
    "train": {**TRAIN, "epochs": 1},
    "methods": METHODS,
}


@dataclass(frozen=True)
class Took:
    """Seconds by the wall clock of the whole, and until the last repetition was kept; and of training alone.

    The last are those of the process that trained longest. What is kept after a while has been scheduled, had its
    process started and the data read, and was written down; predicting comes after it.
    """

    wall_s: float
    kept_s: float
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
    counts = [2**n for n in range(8) if 2**n <= len(os.sched_getaffinity(0))]
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        trained = _rounds(Path(one), TRAINED, counts, keep=False)
        predicted = _rounds(Path(other), PREDICTED, counts, keep=True)
    return _rows("cluster", trained, R) + _rows("cluster, predictions", predicted, None)


def _rounds(folder: Path, experiment: dict[str, Any], counts: list[int], keep: bool) -> dict[int, list[Took]]:
    """By number of workers, 0 for the local launcher. ``keep``: train once, then only predict."""
    (folder / "cluster.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(experiment)))
    taken: dict[int, list[Took]] = {n: [] for n in (0, *counts)}
    qualities = set()
    if keep:
        _run(folder, 0, keep)
    for _ in range(ROUNDS):
        for n, of in taken.items():
            took, quality = _run(folder, n, keep)
            of.append(took)
            qualities.add(quality)
    if len(qualities) > 1:
        raise RuntimeError(f"speed cluster: P@1 {sorted(qualities)}; expected the same whatever trained it")
    return taken


def _rows(what: str, taken: dict[int, list[Took]], per: int | None) -> list[Row]:
    """``per``: repetitions over which the seconds that one worker takes more than the local launcher are told."""
    walls, kept, training = (
        {n: statistics.median(getattr(took, part) for took in of) for n, of in taken.items()}
        for part in ("wall_s", "kept_s", "training_s")
    )
    rows = []
    for n, of in taken.items():
        more = walls[n] - walls[0]
        note = f"{R} repetitions"
        if n == 1:
            each = f"{more / per:.2f} s a repetition" if per else f"{more:.1f} s"
            note = f"{each} more than one machine's launcher"
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
            "repeats_s": [took.wall_s for took in of],
        }
        if per:  # else they were kept before
            row |= {"kept_s": [took.kept_s for took in of], "training_s": [took.training_s for took in of]}
        rows.append(row)
    return rows


def _run(folder: Path, workers: int, keep: bool) -> tuple[Took, float]:
    """Do what is not at hand on so many workers (0: by the local launcher); and the P@1."""
    experiment = load_experiment(str(folder / "cluster.yaml"))
    store = Store(folder / "results" / "cluster")
    shutil.rmtree(store.root if keep else store.root.parent, ignore_errors=True)
    (run,) = plan(experiment, store, lambda _: None)
    ways = LaunchContext(store, experiment, force=False, skip_unfit=False)
    began, wall = _timed(run, ways, workers)
    record = store.record(run.run_id)
    if record is None or record["status"] != "ok":
        raise RuntimeError(f"speed cluster: {record and record.get('reason')}; expected the run to be done")
    by_process: defaultdict[str, float] = defaultdict(float)
    last = 0.0
    for path in (store.root.parent / REPETITIONS / WEIGHTS).glob("*.json"):
        about = json.loads(path.read_text())
        by_process[about["process"]] += about["seconds"]
        last = max(last, path.stat().st_mtime)
    return Took(wall, last - began, max(by_process.values())), float(record["rows"][-1]["P@1"])


def _timed(run: PlannedRun, ways: LaunchContext, workers: int) -> tuple[float, float]:
    """When the clock started, by the system's clock, and what it showed at the end."""
    quiet = Progress(Console(file=io.StringIO()))
    if not workers:
        began, started = time.time(), time.perf_counter()
        one_by_one([run], {}, ways, quiet)
        return began, time.perf_counter() - started
    ray = connect(None, workers)
    try:
        began, started = time.time(), time.perf_counter()
        Driver(ray, ways, quiet, {}, shared_from=PREDICTED_FROM).launcher([run])
        return began, time.perf_counter() - started
    finally:
        ray.shutdown()
