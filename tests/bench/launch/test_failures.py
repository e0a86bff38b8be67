"""Every way to fail, provoked in one sweep of a user's own methods: each is a row, and the sweep continues."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from command_line import alive, machbench, results, write_experiment

from bench.results.ledger import Ledger
from bench.results.table import load_results

METHODS = """
import ctypes, os, subprocess, sys, time
import numpy as np
import torch
from torch import nn

CHUNK, MOST = 10**8, 4 * 10**9


def hog():
    held = []
    while len(held) * CHUNK < MOST:
        held.append(np.ones(CHUNK // 8))
        time.sleep(0.02)


class Fails:
    def fit(self, X, Y): ...
    def topk(self, X, k):
        return np.zeros((X.shape[0], k), np.float32), np.tile(np.arange(k, dtype=np.int32), (X.shape[0], 1))

class Hog(Fails):
    def fit(self, X, Y):
        print("about to take too much")
        hog()

class HogChild(Fails):
    def fit(self, X, Y):
        child = subprocess.Popen([sys.executable, "-c", "import mine; mine.hog()"])
        open(os.environ["PID_FILE"], "w").write(str(child.pid))
        child.wait()

class TooLarge(Fails):
    def topk(self, X, k): return np.ones((2**20, 2**27)), None

class TooLargeForTorch(Fails):
    def fit(self, X, Y): torch.ones(2**47)

class Gpu(Fails):
    def fit(self, X, Y): raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

class NotHere(Fails):
    def prepare(self, seed, threads): raise NotImplementedError("no licence for this machine")
    def fit(self, X, Y): ...

class Segfault(Fails):
    def fit(self, X, Y): ctypes.string_at(0)

class Abort(Fails):
    def topk(self, X, k): os.abort()

class Quits(Fails):
    def fit(self, X, Y): os._exit(3)

class Diverges(nn.Module):
    def __init__(self, *, n_labels, hidden, train_labels, seeds):
        super().__init__()
        self.linear, self.calls = nn.Linear(hidden, n_labels), 0

    def loss(self, hidden, labels):
        self.calls += 1  # one to warm up, three an epoch
        return self.linear(hidden).square().mean() * (float("nan") if self.calls > 1 + 3 else 1.0)

    def topk(self, hidden, k):
        scores, labels = self.linear(hidden).topk(k)
        return scores.numpy(), labels.numpy().astype(np.int32)
"""

# name: (class, status, reason, phase, a word of the log's last lines)
FAILURES = {
    "hog": ("Hog", "oom_host", r"killed at the memory limit of 2 GB; it held [23]\S* GB", "fit", "about to take"),
    "hog_child": ("HogChild", "oom_host", r"killed at the memory limit of 2 GB; it held [23]\S* GB", "fit", "fit"),
    "too_large": ("TooLarge", "oom_host", r"Unable to allocate 1.00 PiB .*", "predict", "MemoryError"),
    "too_large_for_torch": ("TooLargeForTorch", "oom_host", r".*DefaultCPUAllocator.*", "fit", "RuntimeError"),
    "gpu": ("Gpu", "oom_device", r"CUDA out of memory. Tried to allocate 20.00 GiB", "fit", "OutOfMemoryError"),
    "diverges": ("Diverges", "diverged", r"loss nan in epoch 2; last finite mean loss 0\.\d+", "fit", "Diverged"),
    "not_here": ("NotHere", "unsupported", r"no licence for this machine", "build", "NotImplementedError"),
    "segfault": ("Segfault", "crashed", r"killed by signal 11", "fit", "Segmentation fault"),
    "abort": ("Abort", "crashed", r"killed by signal 6", "predict", "Aborted"),
    "quits": ("Quits", "crashed", r"exit status 3 without a record; see log.txt", "fit", '"phase": "fit"'),
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of all failures, and a method that works behind them."""
    folder = tmp_path_factory.mktemp("failed")
    (folder / "mine.py").write_text(METHODS)
    for name, (method, *_) in FAILURES.items():
        (folder / f"{name}.yaml").write_text(f"target: mine.{method}\n")
    methods = "".join(f"  {name}: {{method: {name}.yaml}}\n" for name in FAILURES)
    train = "train: {hidden: 4, epochs: 3, batch_size: 600}\n"
    text = f"dataset: tiny\n{train}memory_limit_bytes: 2GB\nmethods:\n{methods}  label_frequency: {{}}\n"
    done = machbench("run", write_experiment(folder, text), cwd=folder, check=1, PID_FILE=str(folder / "pid"))
    assert "Traceback" not in done.stderr
    return folder


def record_of(folder: Path, name: str) -> dict[str, Any]:
    (run,) = (folder / "results" / "small" / "runs").glob(f"{name}-tiny-*")
    found: dict[str, Any] = json.loads((run / "record.json").read_text())
    return found


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_a_row_with_phase_reason_memory_and_last_lines(failed: Path, name: str) -> None:
    _, status, reason, phase, word = FAILURES[name]
    row, record = results(failed).set_index("method").loc[name], record_of(failed, name)
    assert row["status"] == record["status"] == status
    assert pd.Series([row["reason"]]).str.fullmatch(f"{phase}: {reason}").all(), row["reason"]
    assert record["phase"] == phase
    assert word in "\n".join(record["log_tail"])
    assert len(record["log_tail"]) <= 20
    assert 10**7 < row["baseline_host_bytes"] < row["peak_host_bytes"] < 4 * 10**9
    assert row["peak_host_above_baseline_bytes"] == row["peak_host_bytes"] - row["baseline_host_bytes"]
    assert row["load_s"] > 0  # what was measured before stays
    assert record["phases"]["load"]["seconds"] > 0
    assert phase not in record["phases"]  # it has no end
    assert pd.isna(row["P@1"])


def test_a_run_killed_for_its_memory_held_more_than_the_limit(failed: Path) -> None:
    rows = results(failed).set_index("method")
    assert (rows.loc[["hog", "hog_child"], "peak_host_bytes"] > 2 * 10**9).all()
    assert (rows.loc[["gpu", "quits", "label_frequency"], "peak_host_bytes"] < 2 * 10**9).all()


def test_children_of_a_run_are_killed_with_it(failed: Path) -> None:
    assert not alive(int((failed / "pid").read_text()))


def test_the_sweep_continues_after_each_failure(failed: Path) -> None:
    events = list(Ledger(failed / "results" / "small" / "ledger.jsonl").events())
    order = [(e["event"], str(e["run_id"]).split("-")[0]) for e in events if e["event"] != "planned"]
    expected = [(event, name) for name in FAILURES for event in ("started", "failed")]
    assert order == [*expected, ("started", "label_frequency"), ("finished", "label_frequency")]
    row = load_results(failed / "results" / "small").set_index("method").loc["label_frequency"]
    assert row["status"] == "ok"
    assert row["peak_host_fit_bytes"] > 0


@pytest.mark.soak
def test_failures_are_repeated_by_their_kind_and_a_higher_limit_lets_a_run_pass(failed: Path, tmp_path: Path) -> None:
    """The limit is no part of a run's identity: the run that was killed is the one that is repeated."""
    failed = shutil.copytree(failed, tmp_path / "again")
    some = "methods={hog: {method: hog.yaml}, gpu: {method: gpu.yaml}, label_frequency: {}}"
    before = record_of(failed, "hog")["run_id"]
    again = machbench("run", "small.yaml", some, cwd=failed, check=1)
    assert ", 0 to do" in again.stdout
    limit = "memory_limit_bytes=6GB"
    repeated = machbench("run", "small.yaml", some, limit, "--retry", "oom", cwd=failed, check=1)
    assert ", 2 to do" in repeated.stdout
    assert record_of(failed, "hog")["run_id"] == before
    assert record_of(failed, "hog")["status"] == "ok"
    assert record_of(failed, "gpu")["status"] == "oom_device"
