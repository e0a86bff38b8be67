"""What the tests of a Ray cluster share: experiments, waiting, and comparing with one machine."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from command_line import machbench
from sweep import kill, untimed

from bench.results.ledger import Ledger

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed (pip install machbench[ray])")
SHARDED = "dataset: tiny\ntrain: {hidden: 16, epochs: 40, batch_size: 256, threads: 2, checkpoint_every_s: 0}\n"
ROOM = 700_000_000  # of a node: for one process of such a run and not for two


def placed(folder: Path) -> pd.DataFrame:
    """The table without seconds, bytes and where each run was."""
    return untimed(folder).drop(columns="env_id").sort_values("run_id", ignore_index=True)


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
