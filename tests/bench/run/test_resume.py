"""The command line killed in the middle of a run: by itself, its child alone, and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import command, environment

from bench.results.ledger import Ledger
from bench.results.store import Store
from bench.results.table import load_results
from bench.run.checkpoint.checkpoint import INDEX

EXPERIMENT = """
dataset: tiny
train: {hidden: 16, epochs: 8, batch_size: 256, validate_every: 4, threads: 1, checkpoint_every_s: 0}
methods:
  mach: {B: 32, R: 3, repetitions_at_a_time: 2}
"""


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    (folder / "small.yaml").write_text(EXPERIMENT)
    whole = command("run", "small.yaml", *arguments)
    return subprocess.Popen(
        whole, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen[str], code: int) -> str:
    text, _ = process.communicate(timeout=300)
    assert process.returncode == code, text
    return text


def epochs_kept(folder: Path) -> int:
    for index in (folder / "results" / "small" / ".checkpoints").glob(f"*/{INDEX}"):
        return len(json.loads(index.read_text())["done"]["curve"])
    return 0


def wait(process: subprocess.Popen[str], ready: Callable[[], bool]) -> None:
    for _ in range(30_000):
        if ready():
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    raise AssertionError("waited for 300 s")


def result(folder: Path) -> tuple[dict[str, np.ndarray], list[list[str]]]:
    (run,) = (folder / "results" / "small" / "runs").glob("mach-*")
    curve = [row.split(",") for row in (run / "curve.csv").read_text().splitlines()]
    assert curve[0][2] == "fit_s"
    with np.load(run / "topk.npz", allow_pickle=False) as kept:
        return dict(kept), [[*row[:2], *row[3:]] for row in curve]


@pytest.mark.slow
@pytest.mark.soak
def test_killed_twice_and_still_the_same(tmp_path: Path) -> None:
    launcher = start(tmp_path)
    wait(launcher, lambda: epochs_kept(tmp_path) >= 3)
    launcher.kill()  # and with it, by the kernel, the process that it launched
    launcher.communicate()
    again = start(tmp_path)
    wait(again, lambda: epochs_kept(tmp_path) >= 10)  # in the other group
    (running,) = Ledger(tmp_path / "results" / "small" / "ledger.jsonl").open_starts().values()
    os.kill(running["pid"], signal.SIGKILL)
    text = finish(again, 1)
    assert "goes on from a checkpoint" in text
    assert "killed by signal 9" in text

    text = finish(start(tmp_path, "--retry", "failed"), 0)
    assert "goes on from a checkpoint" in text
    found, curve = result(tmp_path)
    table = load_results(tmp_path / "results" / "small")
    own = table[table["derived_from"].isna()].iloc[0]
    assert own["resumed"] == 2
    assert own["elapsed_s"] > own["fit_s"]
    assert table.loc[table["derived_from"].notna(), "resumed"].isna().all()
    assert not list((tmp_path / "results" / "small" / ".checkpoints").iterdir())

    assert "goes on from" not in finish(start(tmp_path, "--force"), 0)
    table = load_results(tmp_path / "results" / "small")
    assert table.loc[table["derived_from"].isna(), "resumed"].tolist() == [0]
    expected, right = result(tmp_path)
    assert curve == right
    for name in ("labels", "scores", "R"):
        np.testing.assert_array_equal(found[name], expected[name])


def test_a_checkpoint_of_what_is_over_is_swept_up(tmp_path: Path) -> None:
    """Killed after the run's last rename: status ok leaves nothing to go on with, a timeout does."""
    store = Store(tmp_path)
    for run_id, status in {"good": "ok", "late": "timeout"}.items():
        (store.root / ".checkpoints" / run_id).mkdir(parents=True)
        (store.runs / run_id).mkdir(parents=True)
        record = {"version": 1, "run_id": run_id, "status": status, "attempt": "a", "rows": [{}]}
        record["shared"] = {"method": "m", "dataset": "d"}
        (store.runs / run_id / "record.json").write_text(json.dumps(record))
        store.ledger.append("started", run_id, attempt="a")
    assert store.sweep_up() == []
    assert [path.name for path in (store.root / ".checkpoints").iterdir()] == ["late"]
