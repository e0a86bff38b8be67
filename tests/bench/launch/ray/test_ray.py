"""Runs spread over a Ray cluster give the table of one machine, also when processes and nodes die."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import time
import types
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from command_line import machbench, results
from sweep import N, kill, start, untimed, write_sweep
from test_exchange import needs_s3, s3_server

from bench.common.errors import InputError
from bench.config.experiment import unfold
from bench.launch.ray.cluster import connect
from bench.launch.ray.forecast import RunForecast
from bench.launch.ray.nodes import Nodes
from bench.launch.ray.tasks import RunTask, consecutive_ranges, gpu_fraction
from bench.plan.plan import PlannedRun
from bench.results.ledger import Ledger

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed (pip install machbench[ray])")
SLOW_SWEEP = f"dataset: tiny\nmethods:\n  quick: {{method: quick.yaml, which: {list(range(N))}, seconds: 4.0}}\n"


def placed(folder: Path) -> pd.DataFrame:
    """The table without seconds, bytes and where each run was."""
    return untimed(folder).drop(columns="env_id").sort_values("run_id", ignore_index=True)


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
    again = machbench("run", "small.yaml", "--launcher", "ray", cwd=tmp_path / "ray")
    assert ", 0 to do" in again.stdout
    many = machbench("run", "small.yaml", "train.threads=999", "--launcher", "ray", cwd=tmp_path / "ray", check=2)
    assert "train.threads: found 999; expected at most " in many.stderr


def entries(folder: Path, event: str) -> list[str]:
    """The runs for which the ledger has that event, in order."""
    return [e["run_id"] for e in Ledger(folder / "results/small/ledger.jsonl").events() if e["event"] == event]


def kill_the_worker_above(pid: int) -> None:
    """Kill the parent of a run's process."""
    kill(int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]))


def wait_until(ready: Any, within_s: float = 120) -> None:
    deadline = time.monotonic() + within_s
    while not ready():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.1)


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


MACH = "dataset: tiny\ntrain: {hidden: 16, epochs: 2, batch_size: 512, threads: 1, validate_every: 0}\n"
OWN = """
import os
import time

from mach.layer.output import MachOutput


class Killer(MachOutput):
    \"\"\"Kills the worker above it when it is built for repetitions from 2 on.\"\"\"

    def __init__(self, **settings):
        if settings.get("first", 0) >= 2:
            os.kill(os.getppid(), 9)
            time.sleep(60)
        super().__init__(**settings)


class Slow(MachOutput):
    \"\"\"A second more for each epoch of a group.\"\"\"

    def subset(self, repetitions):
        part = super().subset(repetitions)
        loss = part.loss
        part.loss = lambda hidden, labels: (time.sleep(0.25), loss(hidden, labels))[1]
        return part
"""


def write_mach(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "own.py").write_text(OWN)
    for name in ("Killer", "Slow"):
        settings = "{B: 16, R: 4, loss: bce, hash: universal, bias: prior, estimator: logit_sum}"
        (folder / f"{name.lower()}.yaml").write_text(f"target: own.{name}\nsettings: {settings}\n")
    (folder / "small.yaml").write_text(MACH + text)


def beside_one_machine(root: Path, text: str) -> Path:
    """The folder of an experiment that one machine has run in the folder ``local`` beside it."""
    for name in ("local", "ray"):
        write_mach(root / name, text)
    machbench("run", "small.yaml", cwd=root / "local")
    return root / "ray"


def assert_same_models(found: Path, expected: Path) -> None:
    """The tables are equal but for the columns of where and when repetitions were trained."""
    placement = [
        "repetitions_at_hand",
        "training_processes",
        "predicting_processes",
        "repetitions_together",
        "code",
        "methods.mach.R",
    ]
    mine, right = (placed(folder).drop(columns=placement, errors="ignore") for folder in (found, expected))
    pd.testing.assert_frame_equal(mine[right.columns], right)
    assert set(mine.columns) - set(right.columns) == set()


def parts(folder: Path, event: str = "finished") -> list[str]:
    """The tasks for which the ledger of the kept repetitions has that event."""
    ledger = Ledger(folder / "results/.repetitions/ledger.jsonl")
    return [entry["run_id"] for entry in ledger.events() if entry["event"] == event]


def kept(folder: Path) -> list[dict[str, Any]]:
    """What is recorded of each kept repetition."""
    found = [json.loads(path.read_text()) for path in (folder / "results/.repetitions/weights").glob("*.json")]
    return sorted(found, key=lambda about: about["repetition"])


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


SHARDED = "dataset: tiny\ntrain: {hidden: 16, epochs: 40, batch_size: 256, threads: 2, checkpoint_every_s: 0}\n"
SHORT = """
import os
import time

from baselines.full_softmax import FullSoftmax


class Short(FullSoftmax):
    \"\"\"Its last process runs out of memory in the middle of training.\"\"\"

    losses = 0

    def loss(self, hidden, labels):
        self.losses += 1
        if self.losses == 20 and self.shards.rank == self.shards.count - 1:
            raise MemoryError("no room for one more")
        return super().loss(hidden, labels)


class Slow(FullSoftmax):
    \"\"\"Its last process says who it is.\"\"\"

    def __init__(self, **settings):
        super().__init__(**settings)
        if self.shards.rank == self.shards.count - 1:
            with open("pids", "a") as file:
                file.write(f"{os.getpid()} {os.getppid()}\\n")

    def loss(self, hidden, labels):
        time.sleep(0.01)
        return super().loss(hidden, labels)
"""
ROOM = 700_000_000  # of a node: for one process of such a run and not for two


def write_sharded(folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / "own.py").write_text(SHORT)
    for name in ("Short", "Slow"):
        (folder / f"{name.lower()}.yaml").write_text(f"target: own.{name}\nsettings: {{shards: 2}}\n")
    (folder / "small.yaml").write_text(SHARDED + text)


def same_predictions(mine: Path, right: Path) -> bool:
    found = [[path.read_bytes() for path in sorted(e.glob("results/small/runs/*/topk.npz"))] for e in (mine, right)]
    assert found[0]
    return found[0] == found[1]


@needs_ray
@pytest.mark.slow
def test_processes_of_a_run_are_spread_over_nodes_without_room_for_all(tmp_path: Path, cluster: Any) -> None:
    """The results are those of one machine, byte for byte; and the failure of a process is the run's."""
    for name in ("local", "ray"):
        write_sharded(tmp_path / name, "methods:\n  full_softmax: {shards: 2}\n")
    machbench("run", "small.yaml", cwd=tmp_path / "local")
    for _ in range(2):
        cluster.add_node(num_cpus=1, memory=ROOM)
    ray, folder = ("--launcher", "ray", "--address", cluster.address), tmp_path / "ray"
    done = machbench("run", "small.yaml", *ray, cwd=folder)
    assert "process 1 of 2: starts on" in done.stdout
    pd.testing.assert_frame_equal(placed(folder), placed(tmp_path / "local"))
    assert same_predictions(folder, tmp_path / "local")
    (run,) = (folder / "results/small/runs").glob("full*")
    assert '[rank 1] {"phase": "predict"}' in (run / "log.txt").read_text()
    assert [path.name for path in (folder / "results/small/runs").iterdir()] == [run.name]
    assert not list((folder / "results/small/.checkpoints").iterdir())

    write_sharded(tmp_path / "short", "methods:\n  short: {method: short.yaml}\n")
    machbench("run", "small.yaml", *ray, cwd=tmp_path / "short", check=1)
    (row,) = results(tmp_path / "short").to_dict("records")
    assert (row["status"], row["reason"]) == ("oom_host", "fit: process 1 of 2: no room for one more")

    stopped = tmp_path / "stopped"
    write_sharded(stopped, "methods:\n  slow: {method: slow.yaml}\n")
    command = start(stopped, *ray)
    wait_until(lambda: list(stopped.glob("results/small/.checkpoints/*/rank-1/checkpoint.json")))
    command.send_signal(signal.SIGINT)
    assert command.wait(timeout=60) == 130, (stopped / "output.txt").read_text()
    assert results(stopped)["status"].tolist() == ["interrupted"]
    assert_gone(stopped)


def assert_gone(folder: Path) -> None:
    """The processes in the file ``pids`` of slow ones have ended."""

    def over() -> bool:
        paths = [Path(f"/proc/{pid}/stat") for pid in (folder / "pids").read_text().split()]
        return all(not path.exists() or path.read_text().rsplit(")", 1)[1].split()[0] == "Z" for path in paths)

    wait_until(over, 20)


@needs_ray
@pytest.mark.slow
def test_a_process_whose_node_dies_is_started_again_with_the_others(tmp_path: Path, cluster: Any) -> None:
    """They continue from their checkpoints, to the results of an undisturbed run."""
    for name in ("local", "ray"):
        write_sharded(tmp_path / name, "methods:\n  slow: {method: slow.yaml}\n")
    machbench("run", "small.yaml", cwd=tmp_path / "local")
    nodes = [cluster.add_node(num_cpus=1, memory=ROOM) for _ in range(2)]
    folder = tmp_path / "ray"
    command = start(folder, "--launcher", "ray", "--address", cluster.address)
    wait_until(lambda: list(folder.glob("results/small/.checkpoints/*/rank-1/checkpoint.json")))
    kill(int((folder / "pids").read_text().split()[1]))  # what started the process
    cluster.remove_node(nodes[0], allow_graceful=False)
    cluster.add_node(num_cpus=1, memory=ROOM)
    assert command.wait(timeout=240) == 0, (folder / "output.txt").read_text()
    (row,) = results(folder).to_dict("records")
    assert (row["status"], row["resumed"] >= 1, row["training_processes"]) == ("ok", True, 2)
    assert same_predictions(folder, tmp_path / "local")
    assert 2 <= len(entries(folder, "started")) <= 3
    assert_gone(folder)


def nodes_of(*resources: dict[str, float]) -> Nodes:
    return Nodes(
        [{"Alive": True, "Resources": node} for node in resources] + [{"Alive": False, "Resources": {"CPU": 99}}]
    )


def test_bundles_are_counted_node_by_node() -> None:
    nodes = nodes_of({"CPU": 8, "GPU": 2, "memory": 100}, {"CPU": 3, "GPU": 4, "memory": 100}, {"memory": 1000})
    assert nodes.room_for({"CPU": 2, "GPU": 1, "memory": 30}) == 3
    assert nodes.room_for({"CPU": 1, "GPU": 0}) == 11
    assert nodes.room_for({"CPU": 1, "memory": 60}) == 2


def test_processes_are_placed_one_by_one_where_no_node_has_room_for_all() -> None:
    def bundle(nodes: Nodes, processes: int, peak: int, **train: Any) -> dict[str, float] | None:
        text = {"dataset": "tiny", "train": train, "methods": {"full_softmax": {"shards": processes}}}
        spec = next(unfold(text, "test"))
        run = PlannedRun("run", spec, None, "", "")
        return nodes.bundle_of(RunTask(run, RunForecast(peak, processes=processes)))

    cpus = nodes_of({"CPU": 4, "memory": 100}, {"CPU": 6, "memory": 100}, {"memory": 1000})
    assert bundle(cpus, 2, 90) is None  # one node has room
    assert bundle(cpus, 2, 120) == {"CPU": 4, "memory": 60}
    assert bundle(cpus, 2, 120, threads=3) == {"CPU": 1, "memory": 60}
    assert bundle(cpus, 3, 120, threads=9) == {"CPU": 3, "memory": 40}
    assert bundle(cpus, 3, 360) is None  # none has: the largest node takes it, to see
    with pytest.raises(InputError, match=r"train\.threads: found 9; expected at most 6, the cores of the largest"):
        bundle(cpus, 1, 90, threads=9)
    gpus = nodes_of({"CPU": 8, "GPU": 2, "memory": 100}, {"CPU": 8, "GPU": 2, "memory": 100})
    assert bundle(gpus, 2, 90) is None
    assert bundle(gpus, 3, 90) == {"CPU": 4, "GPU": 1, "memory": 30}
    assert bundle(gpus, 3, 90, device="cpu") is None
    with pytest.raises(InputError, match="found 5 processes with a GPU each; expected at most 4, for which"):
        bundle(gpus, 5, 90)


def test_missing_repetitions_are_split_into_consecutive_ranges() -> None:
    assert consecutive_ranges([0, 1, 2, 5, 6, 9], 2) == [range(2), range(2, 3), range(5, 7), range(9, 10)]
    assert consecutive_ranges([], 3) == []


def test_tasks_share_a_gpu_by_the_memory_they_need() -> None:
    assert gpu_fraction(10 * 10**9, 80 * 10**9) == 1 / 8
    assert gpu_fraction(25 * 10**9, 80 * 10**9) == 1 / 3
    assert gpu_fraction(10**9, 80 * 10**9) == 1 / 8
    assert gpu_fraction(90 * 10**9, 80 * 10**9) == 1.0
    assert gpu_fraction(None, 80 * 10**9) == gpu_fraction(10**9, None) == 1.0


@pytest.mark.parametrize(
    ("address", "variable", "expected"),
    [(None, None, "local"), (None, "head:1", "head:1"), ("other:2", "head:1", "other:2"), ("auto", None, "auto")],
)
def test_a_cluster_is_started_unless_one_is_named(
    monkeypatch: pytest.MonkeyPatch, address: str | None, variable: str | None, expected: str
) -> None:
    """Whatever cluster somebody has left behind on this machine."""
    addresses = []
    stub: Any = types.ModuleType("ray")
    stub.init = lambda **how: addresses.append(how["address"])
    monkeypatch.setitem(sys.modules, "ray", stub)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    connect(address)
    assert addresses == [expected]


def test_a_cluster_that_does_not_answer_may_want_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise ConnectionError("Failed to connect to Ray cluster at head:1")

    stub: Any = types.ModuleType("ray")
    stub.init = refuse
    monkeypatch.setitem(sys.modules, "ray", stub)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(
        InputError, match=r"no Ray cluster there: Failed .*; a cluster that asks for a token: RAY_AUTH_MODE"
    ):
        connect("head:1")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(InputError, match=r"at head:1$"):
        connect("head:1")


def test_the_launcher_loads_no_ray_unless_asked_for() -> None:
    program = (
        "import sys, bench.__main__\n"
        "assert 'ray' not in sys.modules and 'bench.launch.ray.cluster' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
