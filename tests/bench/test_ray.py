"""Runs spread over a Ray cluster give the table of one machine, whatever dies meanwhile."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sweep import N, kill, start, untimed, write_sweep
from test_run import machbench, results

from bench.ledger import Ledger

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


def test_launchers_that_there_are_not(tmp_path: Path) -> None:
    write_sweep(tmp_path / "e")
    for arguments, message in (
        (("--launcher", "slurm"), "--launcher: found 'slurm'; expected local or ray"),
        (("--address", "auto"), "--address: found without --launcher ray"),
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


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head without cores and two nodes with one each, as processes of this machine."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        yield made
    finally:
        made.shutdown()


def told(folder: Path, event: str) -> list[str]:
    """The runs of which the ledger tells that event, in order."""
    return [e["run_id"] for e in Ledger(folder / "results/small/ledger.jsonl").events() if e["event"] == event]


def wait_until(ready: Any, within_s: float = 120) -> None:
    deadline = time.monotonic() + within_s
    while not ready():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.1)


@needs_ray
@pytest.mark.slow
def test_a_node_that_is_killed_costs_no_more_than_its_runs(
    tmp_path: Path, cluster: Any, undisturbed: pd.DataFrame
) -> None:
    folder = tmp_path / "e"
    write_sweep(folder, SLOW_SWEEP)
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    command = start(folder, "--launcher", "ray", "--address", cluster.address)
    wait_until(lambda: told(folder, "finished") and len(told(folder, "started")) == len(told(folder, "finished")) + 2)
    finished = set(told(folder, "finished"))
    # A worker may outlive its node long enough to finish its run. One that has just begun is killed with it.
    *_, newest = (e for e in Ledger(folder / "results/small/ledger.jsonl").events() if e["event"] == "started")
    kill(int(Path(f"/proc/{newest['pid']}/stat").read_text().rsplit(")", 1)[1].split()[1]))
    cluster.remove_node(nodes[0], allow_graceful=False)
    cluster.add_node(num_cpus=1)
    assert command.wait(timeout=240) == 0, (folder / "output.txt").read_text()
    pd.testing.assert_frame_equal(placed(folder).drop(columns="code"), undisturbed.drop(columns="code"))
    starts = Counter(told(folder, "started"))
    assert all(starts[run_id] == 1 for run_id in finished)
    assert starts[newest["run_id"]] == 2
    assert starts.total() <= N + 2
    assert Counter(told(folder, "finished")) == dict.fromkeys(starts, 1)


@needs_ray
@pytest.mark.slow
def test_a_command_that_is_killed_is_gone_on_with(tmp_path: Path, cluster: Any, undisturbed: pd.DataFrame) -> None:
    folder = tmp_path / "e"
    write_sweep(folder, SLOW_SWEEP)
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    command = start(folder, "--launcher", "ray", "--address", cluster.address)
    wait_until(lambda: len(told(folder, "finished")) >= 2)
    kill(command.pid)
    command.wait()
    finished = set(told(folder, "finished"))
    done = machbench("run", "small.yaml", "--launcher", "ray", "--address", cluster.address, cwd=folder)
    assert f"{N} runs" in done.stdout
    pd.testing.assert_frame_equal(placed(folder), undisturbed)
    starts = Counter(told(folder, "started"))
    assert all(starts[run_id] == 1 for run_id in finished)
    assert Counter(told(folder, "finished")) == dict.fromkeys(starts, 1)


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


def test_the_launcher_loads_no_ray_unless_asked_for() -> None:
    program = "import sys, bench.__main__\nassert 'ray' not in sys.modules and 'bench.on_ray' not in sys.modules\n"
    subprocess.run([sys.executable, "-c", program], check=True)
