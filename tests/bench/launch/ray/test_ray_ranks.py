"""The processes of one run spread over the nodes of a Ray cluster."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from cluster_runs import (
    ROOM,
    SHARDED,
    entries,
    needs_ray,
    placed,
    wait_until,
)
from command_line import machbench, results
from sweep import kill, start

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
