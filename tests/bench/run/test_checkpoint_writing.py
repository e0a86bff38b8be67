"""Checkpoints are written seldom, and whole or not at all."""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attempts import (
    CPU,
    attempt,
    spec_of,
    stopped,
)

from bench.config.spec import RunSpec, TrainSettings
from bench.data import Dataset, load_dataset
from bench.model.methods import Method
from bench.process.events import EpochDone, Event
from bench.results.run_folder import RunFolder
from bench.run.checkpoint import checkpoint
from bench.run.checkpoint.checkpoint import Checkpoints
from bench.run.context import RunContext
from bench.run.fit_network import fit_network


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset("tiny")


@pytest.fixture
def full_disk() -> Iterator[Callable[[], None]]:
    """A limit on the size of files, in bytes, stands for a full disk: writes past it fail."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_costs_the_checkpoint_but_not_the_run(
    tmp_path: Path, data: Dataset, full_disk: Callable[[], None]
) -> None:
    spec = spec_of("full_softmax")
    expected = attempt(tmp_path / "whole", spec, data)
    folder = stopped(tmp_path, spec, data, 2)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    full_disk()
    found = attempt(tmp_path, spec, data)
    assert [note.startswith("checkpoint not written: ") for note in found.notes] == [False, True, True]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    for mine, right in zip(found.fitted.rankings, expected.fitted.rankings, strict=True):
        np.testing.assert_array_equal(mine.scores, right.scores)


def test_an_index_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of("full_softmax")
    folder = stopped(tmp_path, spec, data, 2)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint, "write_atomic", full)
    found = attempt(tmp_path, spec, data)
    assert found.notes[1:] == ["checkpoint not written: OSError: No space left on device"] * 2
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_checkpoints_take_a_share_of_the_time_at_most(
    tmp_path: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that the test moves: 30 s at least, and ten times what the last write took by its size."""
    now = 0.0

    def reading() -> float:
        nonlocal now
        now += 1e-6
        return now

    written: list[float] = []

    def write(*_: Any) -> dict[str, str]:
        nonlocal now
        written.append(now)
        now += 19.0
        return {}

    monkeypatch.setattr(checkpoint.time, "perf_counter", reading)
    monkeypatch.setattr(Checkpoints, "_write_files", write)
    monkeypatch.setattr(Checkpoints, "_write_index", lambda *_: None)
    spec = spec_of("full_softmax", epochs=12, checkpoint_every_s=30.0)
    folder = RunFolder.create(tmp_path / "test" / "runs", "run", spec)

    def emit(event: Event) -> None:
        nonlocal now
        now += 40.0 if isinstance(event, EpochDone) else 0.0

    fit_network(RunContext(spec, Method.load(spec.target, spec.settings), data, CPU, folder, emit))
    # The first at once, as it is small; then every 190 s and more.
    assert written == pytest.approx([40.0, 259.0, 478.0], abs=0.1)


def test_a_quick_run_writes_nothing(tmp_path: Path, data: Dataset) -> None:
    spec = spec_of("full_softmax", checkpoint_every_s=30.0)
    attempt(tmp_path, spec, data)
    assert not (tmp_path / "test" / ".checkpoints").exists()


def test_how_often_to_write_is_no_part_of_a_runs_identity() -> None:
    often, seldom = (spec_of("full_softmax", checkpoint_every_s=seconds) for seconds in (0, 90.5))
    assert often.canonical() == seldom.canonical()
    assert RunSpec.from_json(seldom.to_json()).train.checkpoint_every_s == 90.5
    with pytest.raises(ValueError, match="checkpoint_every_s: found -1; expected 0 or more"):
        TrainSettings(checkpoint_every_s=-1).check()
