"""What an earlier version left is stale: its records, kept repetitions and checkpoints are reported or not used."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from made_records import write_record
from rich.console import Console

from bench.config.experiment import Experiment, load_experiment
from bench.config.spec import RunSpec
from bench.data import Dataset, load_dataset
from bench.launch.experiment_runner import LaunchOptions, choose_runs
from bench.launch.progress import Progress
from bench.model.methods import Method
from bench.plan.plan import plan
from bench.process.events import EpochDone, Event, Note
from bench.results.run_folder import CHECKPOINTS, RunFolder
from bench.results.status import run_states
from bench.results.store import REPETITIONS, WEIGHTS, Store
from bench.run.context import RunContext
from bench.run.fit_network import fit_network

GOLDEN = Path(__file__).resolve().parents[2] / "data_golden" / "records"
OLD_RUN = json.loads((GOLDEN / "two_decoders.json").read_text())["run_id"]
EXPERIMENT = """
dataset: tiny
train: {hidden: 16, epochs: 2, batch_size: 64, lr: 0.02}
methods:
  mach: {B: 32, R: 4, repetitions_at_a_time: 3, estimator: logit_sum+min}
"""


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    """That which an earlier version has run, when the method's class was in another module."""
    (tmp_path / "small.yaml").write_text(EXPERIMENT)
    return load_experiment(str(tmp_path / "small.yaml"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results" / "small")


def notes_of(experiment: Experiment, store: Store) -> tuple[list[str], str]:
    """Lines that a command writes about the runs of the plan, and the id of its only run."""
    shown = io.StringIO()
    runs = plan(experiment, store, lambda _: None)
    todo = choose_runs(runs, store, Progress(Console(file=shown, width=300)), LaunchOptions())
    assert todo == runs
    return shown.getvalue().splitlines(), runs[0].run_id


def test_a_record_of_an_earlier_version_is_stale_and_its_rows_give_way(experiment: Experiment, store: Store) -> None:
    folder = store.runs / OLD_RUN
    folder.mkdir(parents=True)
    shutil.copy(GOLDEN / "two_decoders.json", folder / "record.json")
    shutil.copy(GOLDEN / "two_decoders.spec.json", folder / "spec.json")
    store.ledger.append(
        "started", OLD_RUN, pid=1, attempt="a", asked=json.loads((folder / "spec.json").read_text())["asked"]
    )
    store.ledger.append("finished", OLD_RUN, status="ok")
    assert run_states(store)[OLD_RUN] == {"state": "stale", "reason": "ok, made by other code"}
    notes, run_id = notes_of(experiment, store)
    assert run_id != OLD_RUN
    assert notes == [f"{run_id}: the result {OLD_RUN} is stale, made by other code; runs again"]
    assert {row.get("derived_from") or row["run_id"] for row in store.rows()} == {OLD_RUN}  # until there is an answer
    (run,) = plan(experiment, store, lambda _: None)
    new = RunFolder.create(store.runs, run_id, run.spec, run.code, run.question)
    write_record(new, status="ok", rows=[{"R": 4}])
    new.complete()
    assert [row["run_id"] for row in store.rows()] == [run_id]


def test_a_checkpoint_of_an_earlier_version_is_reported_and_not_used(experiment: Experiment, store: Store) -> None:
    question = json.loads((GOLDEN / "two_decoders.spec.json").read_text())["asked"]
    store.ledger.append("started", OLD_RUN, pid=1, attempt="a", asked=question)
    store.ledger.append("interrupted", OLD_RUN, reason="stopped by the user")
    (store.root / CHECKPOINTS / OLD_RUN).mkdir(parents=True)
    notes, run_id = notes_of(experiment, store)
    assert notes == [f"{run_id}: the checkpoint of {OLD_RUN} is stale, made by other code; not used"]


# ── In this process, as the process of a run would ──

TRAIN = {"hidden": "16", "epochs": 2, "batch_size": 700, "lr": 0.02, "checkpoint_every_s": 0.0, "top_k": 5}


class Stop(Exception):
    """Stands for a kill."""


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset("tiny")


def run(results: Path, spec: RunSpec, data: Dataset, code: str, stop: bool = False) -> tuple[int, list[str]]:
    """A run of the code; epochs trained, and notes."""
    notes: list[str] = []
    epochs = 0

    def emit(event: Event) -> None:
        nonlocal epochs
        notes.extend([event.text] if isinstance(event, Note) else [])
        epochs += isinstance(event, EpochDone)
        if stop and epochs == 2:
            raise Stop

    runs, question = results / "test" / "runs", spec.question(data.fingerprint)
    folder = RunFolder.create(runs, spec.run_id(code, data.fingerprint), spec, code, question)
    method = Method.load(spec.target, spec.settings)
    fit_network(RunContext(spec, method, data, torch.device("cpu"), folder, emit))
    write_record(folder, status="ok")
    folder.complete()
    return epochs, notes


def of(experiment: Experiment, **train: Any) -> RunSpec:
    (spec,) = experiment.runs
    return replace(spec, train=replace(spec.train, device="cpu", validate_every=0, **(TRAIN | train)))


def test_repetitions_that_other_code_kept_are_trained_again(
    tmp_path: Path, experiment: Experiment, data: Dataset
) -> None:
    spec = of(experiment, keep_repetitions=True)
    assert run(tmp_path, spec, data, "old code")[0] == 4  # two epochs of two groups
    kept = {path.name for path in (tmp_path / REPETITIONS / WEIGHTS).glob("*.json")}
    old = spec.run_id("old code", data.fingerprint)
    note = f"the kept repetitions of {old} are stale, made by other code; not used"
    assert run(tmp_path, spec, data, "new code") == (4, [note])
    shutil.rmtree(tmp_path / "test" / CHECKPOINTS)
    assert run(tmp_path, spec, data, "new code") == (0, ["4 of 4 repetitions were trained before"])
    both = {path.name for path in (tmp_path / REPETITIONS / WEIGHTS).glob("*.json")}
    assert (len(kept), len(both)) == (4, 8)
    assert kept < both


def test_a_checkpoint_of_other_code_is_refused_even_in_the_folder_of_the_run(
    tmp_path: Path, experiment: Experiment, data: Dataset
) -> None:
    """Its name alone keeps it apart; where it was copied, its identity does."""
    spec = of(experiment)
    old, new = (spec.run_id(code, data.fingerprint) for code in ("old code", "new code"))
    with pytest.raises(Stop):
        run(tmp_path, spec, data, "old code", stop=True)
    checkpoints = tmp_path / "test" / CHECKPOINTS
    assert [path.name for path in checkpoints.iterdir()] == [old]
    assert run(tmp_path, spec, data, "new code") == (4, [])
    shutil.rmtree(checkpoints / new)
    shutil.copytree(checkpoints / old, checkpoints / new)
    epochs, notes = run(tmp_path, spec, data, "new code")
    assert epochs == 4
    expected = f"key run_id: found {old!r}; expected {new!r}"
    assert notes == [f"checkpoint not used, the run starts over: checkpoint.json, {expected}"]
