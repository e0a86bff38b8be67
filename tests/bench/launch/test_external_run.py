"""Classifiers that measure in a process of their own, through the command line: their numbers, limits and absences."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from command_line import command

from bench.results.table import load_results

ROOT = Path(__file__).resolve().parents[3]

CLASSIFIER = """
import numpy as np

class Mine:
    batched = False

    def __init__(self, note): self.note = note
    def prepare(self, seed, threads): self.given = (seed, threads)
    def fit(self, X, Y): assert self.given[0] > 0 and self.given[1] == 1
    def topk(self, X, k):
        self.points = X.shape[0]
        return np.zeros((X.shape[0], k), np.float32), np.tile(np.arange(k, dtype=np.int32), (X.shape[0], 1))
    def facts(self):
        measured = {"fit_s": 0.0, "predict_s": 12.5, "peak_host_bytes": 77}
        return measured | {"model_bytes": self.points, "library": "own 1.0"}
"""

SLEEPER = """
import sys
from pathlib import Path
from baselines.external.external_method import ExternalMethod, work_folder

class Sleeper(ExternalMethod):
    library, requirements, reproducible = "numpy", (), True
    script = str(Path(__file__).with_name("asleep.py"))

    def __init__(self, marker):
        super().__init__({"marker": marker})

    def prepare(self, seed, threads):
        self._python, self._folder = Path(sys.executable), work_folder(self)
    def write_points(self, folder, split, X): pass
    def write_labels(self, folder, X, Y): pass
"""

ASLEEP = """
import os, time
from pathlib import Path

def fit(folder, job, clock):
    marker = Path(job["settings"]["marker"])
    aside = marker.with_name("aside")
    aside.write_text(f"{os.getpid()} {os.getppid()} {os.getpgid(0)}")
    aside.rename(marker)
    time.sleep(600)
"""

pytestmark = pytest.mark.slow


def run(folder: Path, experiment: str, check: int, **env: str) -> pd.Series:
    """The one row of an experiment."""
    (folder / "one.yaml").write_text(experiment)
    done = subprocess.run(
        command("run", "one.yaml"),
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"} | env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == check, done.stdout + done.stderr
    table = load_results(folder / "results" / "one")
    assert len(table) == 1
    return table.iloc[0]


def test_a_classifiers_own_numbers_take_precedence(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CLASSIFIER)
    (tmp_path / "mine.yaml").write_text("target: mine.Mine\nsettings: {note: x}\n")
    experiment = "dataset: tiny\ntrain: {threads: 1, predict_batch: 7}\nmethods: {mine: {method: mine.yaml}}\n"
    row = run(tmp_path, experiment, check=0)
    assert row["predict_s"] == 12.5
    assert row["fit_s"] == row["device_seconds"] == 0
    assert row["build_s"] > 0  # what fit took beyond its own seconds
    assert row["peak_host_bytes"] == 77
    assert row["model_bytes"] == row["n_test"]  # all points in one call
    assert row["library"] == "own 1.0"
    assert row["load_s"] > 0


def test_a_child_dies_with_its_run(tmp_path: Path) -> None:
    """It is in the group that is killed at the limit, and dies too when the run's own process alone is killed."""
    marker = tmp_path / "marker"
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    (tmp_path / "asleep.py").write_text(ASLEEP)
    (tmp_path / "sleeper.yaml").write_text(f"target: sleeper.Sleeper\nsettings: {{marker: {marker}}}\n")
    (tmp_path / "one.yaml").write_text("dataset: tiny\nmethods: {sleeper: {method: sleeper.yaml}}\n")
    launcher = subprocess.Popen(
        command("run", "one.yaml"),
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    wait_until(marker.exists)
    child, run_, group = map(int, marker.read_text().split())
    assert group == run_
    os.kill(run_, signal.SIGKILL)
    assert launcher.wait(timeout=120) == 1
    wait_until(lambda: not alive(child))
    assert "killed by signal 9" in load_results(tmp_path / "results" / "one")["reason"].iloc[0]


def wait_until(true: Callable[[], bool]) -> None:
    for _ in range(1200):
        if true():
            return
        time.sleep(0.1)
    pytest.fail("two minutes were not enough")


def alive(pid: int) -> bool:
    """A process that waits to be reaped by whoever adopted it is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_peer_that_cannot_be_installed_is_a_row_with_the_reason(tmp_path: Path) -> None:
    experiment = "dataset: tiny\nmethods: {omikuji_parabel: {}}\n"
    no_index = {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": "", "PIP_NO_INDEX": "1"}
    row = run(tmp_path, experiment, check=1, MACHBENCH_CACHE=str(tmp_path / "cache"), **no_index)
    assert row["status"] == "unsupported"
    assert row["reason"] == (
        "build: the environment of omikuji cannot be made here: No matching distribution found for omikuji==0.5.2"
    )
