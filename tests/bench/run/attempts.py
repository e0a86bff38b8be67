"""A run that is stopped and goes on, in this process: what the tests of checkpoints share."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.config.experiment import unfold
from bench.config.spec import RunSpec
from bench.data import Dataset
from bench.model.methods import Method
from bench.process.events import EpochDone, Event, Note, PhaseStarted
from bench.results.run_folder import RunFolder
from bench.run.context import Fitted, RunContext
from bench.run.fit_network import fit_network

CPU = torch.device("cpu")
EPOCHS = 3
TRAIN = {"hidden": "16", "epochs": EPOCHS, "batch_size": 700, "device": "cpu", "checkpoint_every_s": 0}
TRAIN |= {"validate_every": 2, "top_k": 5}
GROUPED = {"B": 32, "R": 3, "repetitions_at_a_time": 2}


class Stop(Exception):
    """Stands for a kill: nothing after it happens."""


@dataclass
class Attempt:
    """What one process made of a run."""

    fitted: Fitted
    notes: list[str]
    curve: str
    epochs: int  # trained in this attempt


def spec_of(method: str, **settings: Any) -> RunSpec:
    return next(unfold({"dataset": "tiny", "train": TRAIN, "methods": {method: settings}}, "test"))


def attempt(
    results: Path, spec: RunSpec, data: Dataset, stop: int | str | None = None, method: type | None = None
) -> Attempt:
    """Run until the given epoch, or phase, is reported; to the end without. As a process would, from fresh seeds."""
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)
    folder = RunFolder.create(results / "test" / "runs", "run", spec)
    notes: list[str] = []
    epochs = 0

    def emit(event: Event) -> None:
        nonlocal epochs
        match event:
            case EpochDone():
                epochs += 1
                reached: tuple[int | str, ...] = (epochs, "fit")
            case Note(text):
                notes.append(text)
                reached = ()
            case PhaseStarted(phase):
                reached = (phase,)
        if stop in reached:
            raise Stop

    chosen = Method.of(method, spec.settings) if method else Method.load(spec.target, spec.settings)
    fitted = fit_network(RunContext(spec, chosen, data, CPU, folder, emit))
    return Attempt(fitted, notes, (folder.path / "curve.csv").read_text(), epochs)


def resumed(attempt: Attempt) -> int:
    assert attempt.fitted.training is not None
    return attempt.fitted.training.resumed


def stopped(results: Path, spec: RunSpec, data: Dataset, stop: int | str, method: type | None = None) -> Path:
    """Run until it is stopped; the folder of the checkpoint that is left."""
    with pytest.raises(Stop):
        attempt(results, spec, data, stop, method)
    return results / "test" / ".checkpoints" / "run"


def weights(results: Path) -> dict[str, bytes]:
    """The networks as the last checkpoint has them, by group."""
    folder = results / "test" / ".checkpoints" / "run"
    return {path.name: path.read_bytes() for path in folder.glob("group-?.safetensors")}


def assert_same(results: Path, found: Attempt, whole: Path, expected: Attempt) -> None:
    assert len(found.fitted.rankings) == len(expected.fitted.rankings) > 0
    for mine, right in zip(found.fitted.rankings, expected.fitted.rankings, strict=True):
        np.testing.assert_array_equal(mine.labels, right.labels)
        np.testing.assert_array_equal(mine.scores, right.scores)
    mine, right = ([without_times(row) for row in curve.splitlines()] for curve in (found.curve, expected.curve))
    assert mine == right
    assert weights(results) == weights(whole) != {}


def without_times(row: str) -> list[str]:
    repetitions, epoch, _fit_s, *rest = row.split(",")
    return [repetitions, epoch, *rest]
