"""Workers of a Ray cluster predict shards of a run: the table is that of one machine."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from cluster_runs import assert_same_models, beside_one_machine, entries, needs_ray
from command_line import results
from rich.console import Console

from bench.config.experiment import load_experiment
from bench.config.spec import Shard
from bench.launch.experiment_runner import LaunchContext
from bench.launch.progress import Progress
from bench.launch.ray import schedule
from bench.launch.ray.cluster import RayCluster, connect
from bench.plan.plan import plan
from bench.results.store import Store
from bench.results.table import write_results
from bench.run.prediction_shards import POINTS


def launch(folder: Path, address: str, monkeypatch: pytest.MonkeyPatch, exchange: str | None = None) -> str:
    """Run an experiment on a cluster that makes all predictions in shards; returns what was printed."""
    monkeypatch.chdir(folder)
    experiment = load_experiment("small.yaml")
    store = Store(folder / "results" / "small")
    with store.lock(shared=True):
        runs = plan(experiment, store, lambda _: None)
        text = io.StringIO()
        progress = Progress(Console(file=text, width=200))
        ray = connect(address)
        try:
            cluster = RayCluster(exchange=exchange, shard_from=0.0)
            cluster.execute(ray, runs, {}, LaunchContext(store, experiment), progress)
        finally:
            ray.shutdown()
        write_results(store)
    return text.getvalue()


def assert_joined(folder: Path, expected: Path, processes: int) -> None:
    assert_same_models(folder, expected)
    table = results(folder)
    own = table[table["derived_from"].isna()]
    assert own.get("predicting_processes", pd.Series([0])).fillna(0).tolist() == [processes]
    (mine,), (right,) = ((root / "results/small/runs").glob("*/topk.npz") for root in (folder, expected))
    with np.load(mine) as found, np.load(right) as wanted:
        assert found.files == wanted.files
        for name in wanted.files:
            np.testing.assert_array_equal(found[name], wanted[name])


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize(("batch", "shards"), [(150, "points 0 to 299"), (1000, "labels 0 to 249")])
def test_workers_predict_shards(
    tmp_path: Path,
    cluster: Any,
    monkeypatch: pytest.MonkeyPatch,
    batch: int,
    shards: str,
) -> None:
    folder = beside_one_machine(tmp_path, f"methods:\n  mach: {{B: 16, R: 4, predict_batch: {batch}}}\n")
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    output = launch(folder, cluster.address, monkeypatch)
    assert_joined(folder, tmp_path / "local", 2)
    assert f"{shards} to predict: ok" in output
    assert output.count("to predict: ok") == 2
    assert len(entries(folder, "finished")) == 1
    assert not list((folder / "results/.repetitions/runs").glob("*/topk.npz"))  # they are in the run now


@needs_ray
@pytest.mark.slow
def test_shards_come_by_an_exchange(
    tmp_path: Path,
    cluster: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = beside_one_machine(tmp_path, "methods:\n  mach: {B: 16, R: 4, predict_batch: 150}\n")
    for n in (1, 2):
        cluster.add_node(num_cpus=1, env_vars={"XDG_CACHE_HOME": str(tmp_path / f"node{n}")})
    (tmp_path / "exchange").mkdir()
    launch(folder, cluster.address, monkeypatch, f"file://{tmp_path}/exchange")
    assert_joined(folder, tmp_path / "local", 2)


@needs_ray
@pytest.mark.slow
def test_a_shard_that_fails_leaves_all_to_the_run(
    tmp_path: Path,
    cluster: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one_too_many = [Shard(POINTS, 0, 500), Shard(POINTS, 500, 600)]
    monkeypatch.setattr(schedule, "split", lambda *_: one_too_many)
    folder = beside_one_machine(tmp_path, "methods:\n  mach: {B: 16, R: 4}\n")
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    output = launch(folder, cluster.address, monkeypatch)
    assert "points 0 to 499 to predict: ok" in output
    assert "points 500 to 599 to predict: crashed, " in output
    assert_joined(folder, tmp_path / "local", 0)
