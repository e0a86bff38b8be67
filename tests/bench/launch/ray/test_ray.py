"""Runs spread over a Ray cluster give the table of one machine, also when processes and nodes die."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from cluster_runs import (
    entries,
    kill_the_worker_above,
    needs_ray,
    placed,
    wait_until,
)
from command_line import machbench, results
from sweep import N, kill, start, write_sweep

from bench.results.ledger import Ledger

SLOW_SWEEP = f"dataset: tiny\nmethods:\n  quick: {{method: quick.yaml, which: {list(range(N))}, seconds: 4.0}}\n"


def test_without_ray_the_message_says_what_to_install(tmp_path: Path) -> None:
    write_sweep(tmp_path / "e")
    (tmp_path / "e" / "ray.py").write_text("raise ImportError(\"No module named 'ray'\")\n")
    done = machbench("run", "small.yaml", "--launcher", "ray", cwd=tmp_path / "e", check=2, PYTHONPATH=".")
    assert "pip install machbench[ray]" in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_launchers_and_misplaced_options(tmp_path: Path) -> None:
    write_sweep(tmp_path / "e")
    for arguments, message in (
        (("--launcher", "slurm"), "--launcher: found 'slurm'; expected local or ray"),
        (("--address", "auto"), "--address: found without --launcher ray"),
        (("--exchange", "s3://x/y"), "--exchange: found without --launcher ray"),
        (("--launcher", "ray", "--exchange", "nothing://x"), "--exchange nothing://x: "),
    ):
        done = machbench("run", "small.yaml", *arguments, cwd=tmp_path / "e", check=2)
        assert message in done.stderr


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The table of one machine."""
    folder = tmp_path_factory.mktemp("one") / "e"
    write_sweep(folder, SLOW_SWEEP)
    machbench("run", "small.yaml", cwd=folder)
    return placed(folder)


@needs_ray
@pytest.mark.slow
@pytest.mark.soak
def test_a_cluster_of_its_own_gives_the_table_of_one_machine(tmp_path: Path) -> None:
    text = "dataset: tiny\ntrain: {epochs: 1, threads: 1}\n"
    text += "methods:\n  label_frequency: {}\n  mach: {R: 2, B: 16}\n  full_softmax: {}\n"
    tables = {}
    for launcher in ("local", "ray"):
        folder = tmp_path / launcher
        folder.mkdir()
        (folder / "small.yaml").write_text(text)
        done = machbench("run", "small.yaml", "--launcher", launcher, cwd=folder)
        tables[launcher] = placed(folder)
    assert "3 runs: 0 done before, 3 to do" in done.stdout
    assert "[3/3]" in done.stdout
    assert set(tables["ray"]["status"]) == {"ok"}
    pd.testing.assert_frame_equal(tables["ray"], tables["local"])


@needs_ray
@pytest.mark.slow
@pytest.mark.soak
def test_a_cluster_of_its_own_repeats_nothing_and_refuses_what_has_no_room(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text("dataset: tiny\nmethods:\n  label_frequency: {}\n")
    for already_done in (0, 1):
        done = machbench("run", "small.yaml", "--launcher", "ray", cwd=tmp_path)
        assert f", {1 - already_done} to do" in done.stdout
    many = machbench("run", "small.yaml", "train.threads=999", "--launcher", "ray", cwd=tmp_path, check=2)
    assert "train.threads: found 999; expected at most " in many.stderr


@needs_ray
@pytest.mark.slow
def test_a_killed_node_costs_no_more_than_its_runs(tmp_path: Path, cluster: Any, undisturbed: pd.DataFrame) -> None:
    folder = tmp_path / "e"
    write_sweep(folder, SLOW_SWEEP)
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    command = start(folder, "--launcher", "ray", "--address", cluster.address)
    wait_until(
        lambda: entries(folder, "finished") and len(entries(folder, "started")) == len(entries(folder, "finished")) + 2
    )
    finished = set(entries(folder, "finished"))
    # A worker may outlive its node long enough to finish its run. One that has just begun is killed with it.
    *_, newest = (e for e in Ledger(folder / "results/small/ledger.jsonl").events() if e["event"] == "started")
    kill_the_worker_above(newest["pid"])
    cluster.remove_node(nodes[0], allow_graceful=False)
    cluster.add_node(num_cpus=1)
    assert command.wait(timeout=240) == 0, (folder / "output.txt").read_text()
    pd.testing.assert_frame_equal(placed(folder).drop(columns="code"), undisturbed.drop(columns="code"))
    starts = Counter(entries(folder, "started"))
    assert all(starts[run_id] == 1 for run_id in finished)
    assert starts[newest["run_id"]] == 2
    assert starts.total() <= N + 2
    assert Counter(entries(folder, "finished")) == dict.fromkeys(starts, 1)


@needs_ray
@pytest.mark.slow
def test_the_same_command_continues_after_a_kill(tmp_path: Path, cluster: Any, undisturbed: pd.DataFrame) -> None:
    folder = tmp_path / "e"
    write_sweep(folder, SLOW_SWEEP)
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    command = start(folder, "--launcher", "ray", "--address", cluster.address)
    wait_until(lambda: len(entries(folder, "finished")) >= 2)
    kill(command.pid)
    command.wait()
    finished = set(entries(folder, "finished"))
    done = machbench("run", "small.yaml", "--launcher", "ray", "--address", cluster.address, cwd=folder)
    assert f"{N} runs" in done.stdout
    pd.testing.assert_frame_equal(placed(folder), undisturbed)
    starts = Counter(entries(folder, "started"))
    assert all(starts[run_id] == 1 for run_id in finished)
    assert Counter(entries(folder, "finished")) == dict.fromkeys(starts, 1)


@needs_ray
@pytest.mark.slow
def test_a_stopped_command_records_that(tmp_path: Path, cluster: Any) -> None:
    """Ctrl-C: the runs in progress are interrupted, on whichever node, and the same command continues."""
    folder = tmp_path / "e"
    write_sweep(folder, SLOW_SWEEP)
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    command = start(folder, "--launcher", "ray", "--address", cluster.address)
    wait_until(
        lambda: entries(folder, "finished") and len(entries(folder, "started")) == len(entries(folder, "finished")) + 2
    )
    command.send_signal(signal.SIGINT)
    assert command.wait(timeout=60) == 130, (folder / "output.txt").read_text()
    assert "stopped; what is finished is kept" in (folder / "output.txt").read_text()
    finished, interrupted = set(entries(folder, "finished")), set(entries(folder, "interrupted"))
    assert len(interrupted) >= 1  # the other may have ended in the same moment
    assert set(entries(folder, "started")) == finished | interrupted
    statuses = results(folder).set_index("run_id")["status"]
    assert set(statuses[list(finished)]) == {"ok"}
    assert set(statuses[list(interrupted)]) == {"interrupted"}
    assert not list((folder / "results/small/runs").glob(".*"))


@needs_ray
@pytest.mark.slow
def test_a_run_whose_node_dies_every_time_is_a_row(tmp_path: Path, cluster: Any) -> None:
    """A method that kills the worker above it: the run ends as crashed, the others are done."""
    folder = tmp_path / "e"
    text = "dataset: tiny\nmethods:\n  killer: {method: killer.yaml}\n  quick: {method: quick.yaml}\n"
    write_sweep(folder, text)
    killer = "\n\nclass Killer(Quick):\n    def fit(self, X, Y):\n"
    killer += "        os.kill(os.getppid(), 9)\n        time.sleep(60)\n"

    (folder / "mine.py").write_text((folder / "mine.py").read_text() + killer)
    (folder / "killer.yaml").write_text("target: mine.Killer\n")
    cluster.add_node(num_cpus=1)
    machbench("run", "small.yaml", "--launcher", "ray", "--address", cluster.address, cwd=folder, check=1)
    table = results(folder).set_index("method")
    assert table["status"].to_dict() == {"killer": "crashed", "quick": "ok"}
    assert "its worker or node died 3 times" in table.loc["killer", "reason"]


@needs_ray
@pytest.mark.slow
def test_a_run_of_several_processes_goes_where_each_has_a_gpu(tmp_path: Path, cluster: Any) -> None:
    """With GPUs that Ray counts and torch does not see: Ray places the processes as it would with real ones."""
    (tmp_path / "small.yaml").write_text(
        "dataset: tiny\ntrain: {epochs: 1, threads: 2}\nmethods:\n  full_softmax: {shards: 2}\n"
    )
    cluster.add_node(num_cpus=2, num_gpus=1)
    ray = ("--launcher", "ray", "--address", cluster.address)
    refused = machbench("run", "small.yaml", *ray, cwd=tmp_path, check=2)
    assert "found 2 processes with a GPU each; expected at most 1, for which the cluster has room" in refused.stderr
    cluster.add_node(num_cpus=2, num_gpus=1)
    apart = machbench("run", "small.yaml", *ray, cwd=tmp_path)
    assert "process 1 of 2: starts on" in apart.stdout
    cluster.add_node(num_cpus=2, num_gpus=2)
    together = machbench("run", "small.yaml", "seeds=[1]", *ray, cwd=tmp_path)
    assert "process 1 of 2: starts on" not in together.stdout
    for row in results(tmp_path).to_dict("records"):
        assert (row["status"], row["device"], row["training_processes"]) == ("ok", "cpu", 2)
