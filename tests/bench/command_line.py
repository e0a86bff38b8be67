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


# The command without its last step: tables, figures and report, which take 5 s and which few tests look at.
WITHOUT_PAGES = """
import sys
from types import SimpleNamespace

from bench import __main__ as command

command.subprocess = SimpleNamespace(run=lambda *_, **__: SimpleNamespace(returncode=0))
sys.argv[0] = "machbench"
command.main()
"""


def command(*arguments: str, pages: bool = False) -> list[str]:
    """The command line of a verb; `run` draws no ``pages`` unless they are wanted."""
    program = ["-m", "bench"] if pages or arguments[0] != "run" else ["-c", WITHOUT_PAGES]
    return [sys.executable, *program, *arguments]


def machbench(
    *arguments: str, cwd: Path, check: int | None = 0, pages: bool = False, **env: str
) -> subprocess.CompletedProcess[str]:
    whole = command(*arguments, pages=pages)
    done = subprocess.run(whole, cwd=cwd, env=environment(**env), capture_output=True, text=True, timeout=300)
    said = done.stdout + done.stderr
    assert check is None or done.returncode == check, said
    assert "Traceback" not in said, said  # a traceback is a defect, however a command ends
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
