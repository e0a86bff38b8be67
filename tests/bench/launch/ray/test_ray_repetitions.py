"""Repetitions of MACH spread over a Ray cluster: each is trained once, and the models are those of one machine."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from cluster_runs import (
    ROOM,
    SHARDED,
    assert_same_models,
    beside_one_machine,
    entries,
    kept,
    kill_the_worker_above,
    needs_ray,
    parts,
    wait_until,
    write_mach,
)
from command_line import machbench, results
from sweep import start
from test_exchange import needs_s3, s3_server

from bench.results.ledger import Ledger


@needs_ray
@pytest.mark.slow
def test_repetitions_spread_over_nodes_and_are_trained_once(tmp_path: Path, cluster: Any) -> None:
    """Two workers, three runs of one B: each repetition is trained once, and the table is that of one machine."""
    text = "methods:\n  mach: {B: 16, R: [2, 3, 6]}\n"
    folder = beside_one_machine(tmp_path, text)
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    machbench("run", "small.yaml", "methods.mach.R=2", "--launcher", "ray", "--address", cluster.address, cwd=folder)
    assert [about["together"] for about in kept(folder)] == [1, 1]  # one run, two workers
    assert len({about["process"] for about in kept(folder)}) == 2
    done = machbench("run", "small.yaml", "--launcher", "ray", "--address", cluster.address, cwd=folder)
    assert "repetitions 3-5: ok" in done.stdout
    assert [about["repetition"] for about in kept(folder)] == list(range(6))
    assert [about["together"] for about in kept(folder)] == [1, 1, 1, 3, 3, 3]
    assert_same_models(folder, tmp_path / "local")
    table = results(folder).set_index("run_id")
    own = table[table["derived_from"].isna()]
    assert own["repetitions_at_hand"].tolist() == own["R"].tolist()
    local = machbench("run", "small.yaml", "methods.mach.estimator=mean", "train.keep_repetitions=true", cwd=folder)
    assert "6 of 6 repetitions were trained before" in local.stdout


@needs_ray
@pytest.mark.slow
def test_a_killed_node_costs_no_repetition_that_was_trained(tmp_path: Path, cluster: Any) -> None:
    text = "methods:\n  slow: {method: slow.yaml, R: 6, repetitions_at_a_time: 1, epochs: 4}\n"
    folder = beside_one_machine(tmp_path, text)
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    command = start(folder, "--launcher", "ray", "--address", cluster.address)
    wait_until(lambda: len(kept(folder)) >= 2)
    before = {about["repetition"]: about for about in kept(folder)}
    *_, newest = (e for e in Ledger(folder / "results/.repetitions/ledger.jsonl").events() if e["event"] == "started")
    kill_the_worker_above(newest["pid"])
    cluster.remove_node(nodes[0], allow_graceful=False)
    cluster.add_node(num_cpus=1)
    assert command.wait(timeout=240) == 0, (folder / "output.txt").read_text()
    after = {about["repetition"]: about for about in kept(folder)}
    assert {r: after[r] for r in before} == before
    assert len(parts(folder, "started")) > len(set(parts(folder, "started"))) == 2
    assert_same_models(folder, tmp_path / "local")


@needs_ray
@pytest.mark.slow
def test_repetitions_that_fail_three_times_leave_the_smaller_R(tmp_path: Path, cluster: Any) -> None:
    folder = tmp_path / "e"
    write_mach(folder, "methods:\n  killer: {method: killer.yaml}\n")
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    machbench("run", "small.yaml", "--launcher", "ray", "--address", cluster.address, cwd=folder, check=1)
    table = results(folder).set_index("R")
    assert table["status"].to_dict() == {1: "ok", 2: "ok", 4: "crashed"}
    assert "repetitions 2-3: its worker or node died 3 times" in table.loc[4, "reason"]
    assert table.loc[[1, 2], "P@1"].notna().all()
    assert pd.isna(table.loc[4, "P@1"])
    machbench("score", "small.yaml", cwd=folder)


@needs_ray
@needs_s3
@pytest.mark.slow
def test_nodes_that_share_no_folder_exchange_files_by_a_url(tmp_path: Path, cluster: Any) -> None:
    """Two nodes with folders of their own and an S3 server: the table is that of one machine."""
    text = "methods:\n  mach: {B: 16, R: 4}\n"
    folder = beside_one_machine(tmp_path, text)
    for n in (1, 2):
        cluster.add_node(num_cpus=1, memory=ROOM, env_vars={"XDG_CACHE_HOME": str(tmp_path / f"node{n}")})
    ray = ("--launcher", "ray", "--address", cluster.address, "--exchange", "s3://bench/here")
    with s3_server() as env:
        machbench("run", "small.yaml", "methods.mach.R=2", *ray, cwd=folder, **env)
        assert_own_folders(tmp_path)
        done = machbench("run", "small.yaml", *ray, cwd=folder, **env)
        again = machbench("run", "small.yaml", *ray, cwd=folder, **env)
        forced = machbench("run", "small.yaml", "--force", *ray, cwd=folder, **env)
        (folder / "apart.yaml").write_text(SHARDED + "methods:\n  full_softmax: {shards: 2}\n")
        machbench("run", "apart.yaml", *ray, cwd=folder, **env)
    assert all(f"repetition {r}: ok" in done.stdout for r in (2, 3))
    assert "repetitions 0" not in done.stdout
    assert ", 0 to do" in again.stdout
    assert "repetitions 0-1: ok" in forced.stdout
    assert not (folder / "results" / ".repetitions").exists()
    table = results(folder)
    assert set(table.loc[table["R"] == 4, "P@1"]) == set(results(tmp_path / "local").query("R == 4")["P@1"])
    run_ids = set(table["run_id"].str.partition("@")[0])
    for run_id in run_ids:
        found = {path.name for path in (folder / "results/small/runs" / run_id).iterdir()}
        assert {"record.json", "spec.json", "topk.npz", "log.txt"} <= found
        assert Counter(entries(folder, "finished"))[run_id] >= 1
    assert (folder / "results" / "env" / f"{table['env_id'].iloc[0]}.json").is_file()
    assert (folder / "results" / "data" / f"{table['data_fingerprint'].iloc[0]}.json").is_file()
    (row,) = results(folder, "apart").to_dict("records")
    assert (row["status"], row["training_processes"]) == ("ok", 2)
    for n in (1, 2):  # one process on each, of which nothing is left but the results of the first
        (own,) = (tmp_path / f"node{n}").glob("machbench/exchange/*/results/apart")
        assert not list((own / ".checkpoints").glob("*"))
        assert not list((own / "runs").glob(".*"))


def assert_own_folders(root: Path) -> None:
    """Each node has trained something in a folder of its own."""
    for n in (1, 2):
        found = list((root / f"node{n}").glob("machbench/exchange/*/results/.repetitions/weights/*.json"))
        assert len(found) >= 1
