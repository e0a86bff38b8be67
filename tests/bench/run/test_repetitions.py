"""Kept repetitions: trained once, whichever run asks first; a run that finds them equals one that trains them."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from bench.common.locks import held
from bench.config.experiment import unfold
from bench.config.spec import NOTHING, RunSpec
from bench.data import Dataset, load_dataset
from bench.model.ensemble import cut
from bench.model.methods import Method
from bench.process.events import EpochDone, Event, Note
from bench.process.options import FailedRepetitions, RunOptions
from bench.results.measurements import Memory, TrainedRepetition, Training, memory_of_trainers
from bench.results.record import Evaluation
from bench.results.rescore import Rescored, score_experiment
from bench.results.run_folder import RunFolder
from bench.results.store import REPETITIONS, WEIGHTS, Store
from bench.run.checkpoint import trained_repetitions
from bench.run.checkpoint.trained_repetitions import names
from bench.run.context import Fitted, RunContext
from bench.run.execute import execute, shortened
from bench.run.fit_network import fit_network

CPU = torch.device("cpu")
EPOCHS = 2
TRAIN = {"hidden": "16", "epochs": EPOCHS, "batch_size": 700, "device": "cpu", "validate_every": 0, "top_k": 5}
CODE = "code"


class Stop(Exception):
    """Stands for a kill."""


@dataclass
class Ran:
    """What a run came to; ``trained`` names the group of each epoch."""

    fitted: Fitted = field(default_factory=lambda: Fitted([], []))
    trained: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset("tiny")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """A group smaller than the number of threads shares them, which adds up in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def spec_of(keep: bool = True, train: dict[str, Any] | None = None, **settings: Any) -> RunSpec:
    config = {"dataset": "tiny", "train": {**TRAIN, "keep_repetitions": keep, **(train or {})}}
    return next(unfold({**config, "methods": {"mach": {"B": 32, "R": 3, **settings}}}, "test"))


def part_of(spec: RunSpec, members: range) -> RunSpec:
    settings: Any = Method.load(spec.target, spec.settings).part(members)
    return replace(spec, settings=settings, train=replace(spec.train, evaluate_on=NOTHING))


def run(
    results: Path, spec: RunSpec, data: Dataset, stop: int | None = None, name: str = "run", retrain: bool = False
) -> Ran:
    """In this process, as one of its own would; raises Stop when so many epochs were reported."""
    ran = Ran()

    def emit(event: Event) -> None:
        match event:
            case EpochDone():
                ran.trained.append(event.repetitions)
                if len(ran.trained) == stop:
                    raise Stop
            case Note(text):
                ran.notes.append(text)

    torch.manual_seed(random.randrange(1000))  # whatever it is
    folder = RunFolder.create(results / "test" / "runs", name, spec, CODE)
    method = Method.load(spec.target, spec.settings)
    if retrain:
        execute(spec, folder, emit, RunOptions(retrain=True))
    else:
        ran.fitted = fit_network(RunContext(spec, method, data, CPU, folder, emit))
    shutil.rmtree(results / "test" / ".checkpoints", ignore_errors=True)
    return ran


def assert_same(found: Ran, expected: Ran) -> None:
    assert len(found.fitted.rankings) == len(expected.fitted.rankings) > 0
    for mine, right in zip(found.fitted.rankings, expected.fitted.rankings, strict=True):
        assert (mine.R, mine.decoder) == (right.R, right.decoder)
        np.testing.assert_array_equal(mine.labels, right.labels)
        np.testing.assert_array_equal(mine.scores, right.scores)


class Case(NamedTuple):
    settings: dict[str, Any]
    train: dict[str, Any]


CASES = {
    "plain": Case({}, {}),
    "softmax, balanced, zero bias": Case({"loss": "softmax", "hash": "balanced", "bias": "zero"}, {}),
    "hashed features": Case({"feature_hash": 50}, {"optimiser": "rowwise_adagrad"}),
    "two ways of decoding": Case({"estimator": "logit_sum+mean"}, {"lr_schedule": "constant"}),
    # Groups of two and more: torch multiplies a single matrix by other code than a batch, and rounds otherwise.
    "two hidden layers": Case({}, {"hidden": "16-8"}),
}


@pytest.mark.parametrize("case", CASES)
def test_more_repetitions_train_what_is_missing_only(tmp_path: Path, data: Dataset, case: str) -> None:
    settings, train = CASES[case]
    expected = run(tmp_path / "apart", spec_of(False, train, **settings, R=5), data)
    assert expected.trained == ["0-4"] * EPOCHS
    first = run(tmp_path, spec_of(True, train, **settings, R=2), data)
    assert first.trained == ["0-1"] * EPOCHS
    found = run(tmp_path, spec_of(True, train, **settings, R=5), data)
    assert found.trained == ["2-4"] * EPOCHS
    assert found.notes == ["2 of 5 repetitions were trained before"]
    assert_same(found, expected)
    assert run(tmp_path, spec_of(True, train, **settings, R=5), data).trained == []
    assert not (tmp_path / "apart" / REPETITIONS).exists()  # nothing is kept unless asked


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_parts_trained_apart_make_the_whole(tmp_path: Path, data: Dataset, case: str, order: tuple[int, int]) -> None:
    """As on several machines: each part builds its own repetitions alone, in whatever order."""
    settings, train = CASES[case]
    spec = spec_of(True, train, **settings, R=5)
    parts = (range(2), range(2, 5))
    for at in order:
        ran = run(tmp_path, part_of(spec, parts[at]), data, name=f"part-{at}")
        assert ran.trained == [f"{parts[at].start}-{parts[at].stop - 1}"] * EPOCHS
        assert ran.fitted.rankings == []
    found = run(tmp_path, spec, data)
    assert found.trained == []
    assert_same(found, run(tmp_path / "apart", spec_of(False, train, **settings, R=5), data))


def test_holes_are_filled(tmp_path: Path, data: Dataset) -> None:
    spec = spec_of(R=5, repetitions_at_a_time=2)
    run(tmp_path, part_of(spec, range(2, 3)), data, name="part")
    found = run(tmp_path, spec, data)
    assert found.trained == ["0-1"] * EPOCHS + ["3-4"] * EPOCHS
    assert_same(found, run(tmp_path / "apart", spec_of(False, R=5), data))
    kept = found.fitted.repetitions
    assert [r.repetition for r in kept] == [0, 1, 2, 3, 4]
    assert [r.trained_before for r in kept] == [False, False, True, False, False]
    by_R = {row.R: row.fit_s for row in found.fitted.evaluations}
    assert by_R[2] == pytest.approx(sum(r.seconds for r in kept[:2]))
    assert by_R[3] == pytest.approx(sum(r.seconds for r in kept[:3]))
    assert by_R[5] == pytest.approx(sum(r.seconds for r in kept))
    assert by_R[1] is None
    assert by_R[4] is None


def test_a_killed_run_goes_on(tmp_path: Path, data: Dataset) -> None:
    spec = spec_of(True, {"checkpoint_every_s": 0, "repetitions_at_a_time": 2}, R=5)
    expected = run(tmp_path / "apart", replace(spec, train=replace(spec.train, keep_repetitions=False)), data)
    run(tmp_path, part_of(spec, range(1)), data, name="part")
    with pytest.raises(Stop):
        run(tmp_path, spec, data, stop=EPOCHS + 2)  # in the second group of its own, with an epoch of it kept
    found = run(tmp_path, spec, data)
    assert found.trained == ["3-4"]
    assert any("goes on from a checkpoint" in note for note in found.notes)
    assert_same(found, expected)
    assert [r.trained_before for r in found.fitted.repetitions] == [True, False, False, False, False]


def test_a_checkpoint_beside_repetitions_that_are_gone_is_not_used(tmp_path: Path, data: Dataset) -> None:
    spec = spec_of(True, {"checkpoint_every_s": 0, "repetitions_at_a_time": 2}, R=3)
    run(tmp_path, part_of(spec, range(1)), data, name="part")
    with pytest.raises(Stop):
        run(tmp_path, spec, data, stop=2)
    shutil.rmtree(tmp_path / REPETITIONS)
    found = run(tmp_path, spec, data)
    assert "repetitions trained before: found []; expected [0]" in found.notes[0]
    assert found.trained == ["0-1"] * EPOCHS + ["2-2"] * EPOCHS


@pytest.mark.parametrize("damage", ["cut", "no json", "other keys", "gone"])
def test_damaged_ones_are_trained_again(tmp_path: Path, data: Dataset, damage: str) -> None:
    expected = run(tmp_path, spec_of(), data)
    folder = tmp_path / REPETITIONS / WEIGHTS
    about = min(folder.glob("*.json"), key=lambda path: json.loads(path.read_text())["repetition"])
    weights = about.with_suffix(".safetensors")
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "no json":
        about.write_text("{")
    elif damage == "other keys":
        about.write_text("{}")
    else:
        weights.unlink()
    found = run(tmp_path, spec_of(), data)
    assert found.trained == ["0-0"] * EPOCHS
    assert found.notes[0].startswith("kept repetition 0 not used, it is trained again: ")
    assert_same(found, expected)
    assert run(tmp_path, spec_of(), data).trained == []


def test_retraining_trains_kept_repetitions_again(tmp_path: Path, data: Dataset) -> None:
    run(tmp_path, spec_of(), data)
    assert run(tmp_path, spec_of(), data, retrain=True).trained == ["0-2"] * EPOCHS
    assert run(tmp_path, spec_of(), data).trained == []


def test_no_room_is_reported_and_costs_no_run(tmp_path: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained_repetitions, "ROOM", 1.0)
    ran = run(tmp_path, spec_of(), data)
    assert len(ran.fitted.rankings) == 3
    assert ran.notes[0].startswith("repetitions 0-2 not kept: a tenth of the disk is to stay free")
    with pytest.raises(OSError, match="is to stay free"):
        run(tmp_path, part_of(spec_of(), range(2)), data)


def test_a_shared_encoder_has_none_to_keep(tmp_path: Path, data: Dataset) -> None:
    ran = run(tmp_path, spec_of(share_encoder=True), data)
    assert ran.fitted.repetitions == ()
    assert not (tmp_path / REPETITIONS).exists()


def named(spec: RunSpec, code: str = CODE, identity: str = "data", device: str = "cpu", threads: int = 2) -> list[str]:
    found = names(Method.load(spec.target, spec.settings), spec, code, identity, device, threads)
    assert found is not None
    return found


def test_names_say_what_training_depends_on() -> None:
    of = named(spec_of())
    assert len(set(of)) == 3
    assert named(spec_of(R=7))[:3] == of
    assert named(spec_of(estimator="mean")) == of
    unasked = {"top_k": 9, "predict_batch": 7, "repetitions_at_a_time": 1, "evaluate_on": "validation"}
    unasked |= {"validate_every": 1, "checkpoint_every_s": 0, "keep_repetitions": False}
    assert named(spec_of(True, unasked)) == of
    for settings in ({"B": 33}, {"loss": "softmax"}, {"hash": "murmur3"}, {"bias": "zero"}, {"feature_hash": 9}):
        assert not set(named(spec_of(**settings))) & set(of)
    question: tuple[dict[str, Any], ...] = ({"hidden": "17"}, {"epochs": 9}, {"batch_size": 9}, {"lr": 0.5})
    question += (
        {"lr_schedule": "constant"},
        {"optimiser": "rowwise_adagrad"},
        {"holdout": False},
        {"precision": "bf16"},
    )
    for train in question:
        assert not set(named(spec_of(True, train))) & set(of)
    others: list[dict[str, Any]] = [{"code": "new"}, {"identity": "other"}, {"device": "cuda"}, {"threads": 1}]
    for other in others:
        assert not set(named(spec_of(), **other)) & set(of)
    assert not set(named(replace(spec_of(), seed=1))) & set(of)
    assert named(part_of(spec_of(R=5), range(2, 4))) == named(spec_of(R=5))[2:4]


def test_cutting_into_groups() -> None:
    assert cut(5, 2, []) == [range(2), range(2, 4), range(4, 5)]
    assert cut(5, 2, [1]) == [range(1), range(1, 2), range(2, 4), range(4, 5)]
    assert cut(3, 8, [0, 1, 2]) == [range(3)]
    assert cut(1, 1, []) == [range(1)]


def test_peaks_are_those_of_all_processes_or_empty() -> None:
    def trained(repetition: int, peak: int, held: int, before: bool) -> TrainedRepetition:
        return TrainedRepetition(
            repetition, 1.0 + repetition, 1, held, "a", f"a {peak}", "env", {"host": peak}, "", before
        )

    def row_of(*repetitions: TrainedRepetition) -> dict[str, Any]:
        own = Memory.from_json(row).highest(memory_of_trainers(repetitions))
        return {**own.to_json(), **Training().with_repetitions(repetitions).to_json()}

    row = {"peak_host_bytes": 50, "peak_host_fit_bytes": 40, "peak_host_load_bytes": 9, "baseline_host_bytes": 10}
    row |= {"peak_host_above_baseline_bytes": 40}
    found = row_of(trained(0, 90, 2, True), trained(1, 45, 2, False))
    assert (found["peak_host_bytes"], found["peak_host_fit_bytes"], found["peak_host_load_bytes"]) == (90, 90, 9)
    assert found["peak_host_above_baseline_bytes"] == 80
    assert (found["repetitions_at_hand"], found["slowest_repetition_s"], found["training_processes"]) == (1, 2.0, 2)
    larger = row_of(trained(0, 90, 3, True), trained(1, 45, 2, False))
    assert larger["peak_host_bytes"] is larger["peak_host_fit_bytes"] is None
    assert larger["peak_host_above_baseline_bytes"] is None
    assert larger["peak_host_load_bytes"] == 9
    assert Memory.from_json(row).highest(memory_of_trainers([])).to_json() == row
    assert Training().with_repetitions([]) == Training()


def test_a_run_with_failed_repetitions_keeps_the_smaller_R(tmp_path: Path, data: Dataset) -> None:
    spec = spec_of(R=4)
    store = Store(tmp_path / "test")
    folder = RunFolder.create(store.runs, "mach-failed", spec, CODE)
    missing = FailedRepetitions(2, "crashed", "repetitions 2 to 3: its worker died")
    record = shortened(spec, folder, lambda _: None, RunOptions(), missing)
    folder.write_record(record)
    folder.complete()
    stored = store.record("mach-failed")
    assert stored is not None
    rows = stored.rows("test")
    assert [(row["R"], row["status"]) for row in rows] == [(1, "ok"), (2, "ok"), (4, "crashed")]
    assert [row["run_id"] for row in rows] == ["mach-failed@R1", "mach-failed@R2", "mach-failed"]
    assert [row["reason"] for row in rows] == [None, None, missing.reason]
    assert all(0 < row["P@1"] < 1 for row in rows[:2])
    assert "P@1" not in rows[2]
    assert not {"peak_host_bytes", "elapsed_s", "predict_s"} & set(rows[1])
    whole = run(tmp_path / "apart", spec_of(False, R=4), data)
    with np.load(store.runs / "mach-failed" / "topk.npz", allow_pickle=False) as kept:
        np.testing.assert_array_equal(kept["labels"][1], whole.fitted.rankings[1].labels)
    assert list(score_experiment(store)) == [Rescored("mach-failed")]
    none = shortened(spec, folder, lambda _: None, RunOptions(), FailedRepetitions(0, "timeout", "late"))
    assert (none.status, none.to_json()["rows"]) == ("timeout", [{}])


def test_what_a_derived_row_has() -> None:
    row = {"R": 2, "P@1": 0.5, "params_total": 7, "fit_s": 1.0, "peak_host_bytes": 9, "elapsed_s": 3.0, "resumed": 1}
    assert Evaluation.from_json(row).to_json() == {"R": 2, "P@1": 0.5, "params_total": 7, "fit_s": 1.0}


def test_a_repetition_is_not_trained_by_two_at_once(tmp_path: Path, data: Dataset) -> None:
    """Both ask for the same three; the one that comes later waits, and trains what the other has not."""
    first = run_apart(tmp_path, spec_of(R=2))
    wait_for_a_lock(tmp_path)
    second = run(tmp_path, spec_of(R=3), data, name="second")
    assert first.wait(timeout=60) == 0
    assert any("is being trained by another process; waits for it" in note for note in second.notes)
    assert set(second.trained) == {"2-2"}
    assert_same(second, run(tmp_path / "alone", spec_of(R=3), data))


def test_what_another_process_did_not_finish_is_trained(tmp_path: Path, data: Dataset) -> None:
    first = run_apart(tmp_path, spec_of(R=2))
    wait_for_a_lock(tmp_path)
    first.kill()
    second = run(tmp_path, spec_of(R=2), data, name="second")
    assert first.wait(timeout=60) != 0
    assert set(second.trained) == {"0-1"}
    assert not any(held(lock) for lock in (tmp_path / REPETITIONS / ".locks").iterdir())


SLOW = """
import sys, time
from pathlib import Path
import torch
from bench.data import load_dataset
from bench.model.methods import Method
from bench.process.events import EpochDone
from bench.run.context import RunContext
from bench.run.fit_network import fit_network
from bench.config.spec import RunSpec
from bench.results.run_folder import RunFolder

torch.set_num_threads(1)
spec = RunSpec.from_json(sys.stdin.read())
folder = RunFolder.create(Path(sys.argv[1]), "first", spec, "code")


def emit(event):
    if isinstance(event, EpochDone):
        time.sleep(2)


method = Method.load(spec.target, spec.settings)
fit_network(RunContext(spec, method, load_dataset("tiny"), torch.device("cpu"), folder, emit))
"""


def run_apart(results: Path, spec: RunSpec) -> subprocess.Popen[str]:
    """A run in a process of its own that rests two seconds after each epoch."""
    arguments = [sys.executable, "-c", SLOW, str(results / "test" / "runs")]
    apart = subprocess.Popen(arguments, stdin=subprocess.PIPE, text=True)
    assert apart.stdin is not None
    apart.stdin.write(spec.to_json())
    apart.stdin.close()
    return apart


def wait_for_a_lock(results: Path) -> None:
    deadline = time.monotonic() + 60
    while not any(held(lock) for lock in (results / REPETITIONS / ".locks").glob("*")):
        assert time.monotonic() < deadline, "nothing was held"
        time.sleep(0.05)
