"""The command line as the tests start it, and small experiments for it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from bench.results.ledger import Ledger
from bench.results.table import load_results

ROOT = Path(__file__).resolve().parents[2]


EXPERIMENT = """
description: MACH and its baselines on the tiny twin.
dataset: tiny
train: {hidden: 16, epochs: 2, batch_size: 64, lr: 0.02}
methods:
  label_frequency: {}
  full_softmax: {}
  sampled_softmax: {n_samples: 64}
  mach: {B: 32, R: 4, repetitions_at_a_time: 3}
"""


TIMED = {"load_s", "build_s", "warmup_s", "fit_s", "predict_s", "device_seconds", "elapsed_s", "examples_per_s"}


TIMED |= {"step_p50_s", "step_p95_s", "slowest_repetition_s"}

# Of predicted peaks: measured within 0.15 (docs/planning.md), on one machine with its allocator and its compiler.
PEAK_TOLERANCE = 0.2


def machbench(*arguments: str, cwd: Path, check: int | None = 0, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment(**env), capture_output=True, text=True, timeout=300)
    assert check is None or done.returncode == check, done.stdout + done.stderr
    return done


def environment(**extra: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"} | extra


def write_experiment(folder: Path, text: str = EXPERIMENT, name: str = "small") -> str:
    (folder / f"{name}.yaml").write_text(text)
    return f"{name}.yaml"


def results(folder: Path, name: str = "small") -> pd.DataFrame:
    return load_results(folder / "results" / name)


def predictions(folder: Path, method: str, name: str = "small") -> dict[str, np.ndarray]:
    (run,) = (folder / "results" / name / "runs").glob(f"{method}-*")
    with np.load(run / "topk.npz", allow_pickle=False) as kept:
        return dict(kept)


def wait_for(folder: Path, event: str, method: str) -> dict[str, object]:
    """The ledger's entry for a run of the method, as soon as it is there."""
    ledger = Ledger(folder / "results" / "small" / "ledger.jsonl")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for entry in ledger.events():
            if entry["event"] == event and str(entry["run_id"]).startswith(f"{method}-"):
                return entry
        time.sleep(0.05)
    raise AssertionError(f"no {event} of {method} in the ledger")


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0]
    except OSError:
        return False
