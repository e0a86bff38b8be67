"""A run that is stopped and goes on from its checkpoint equals one that never was, bit for bit."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attempts import (
    EPOCHS,
    GROUPED,
    Attempt,
    assert_same,
    attempt,
    resumed,
    spec_of,
    stopped,
)
from torch import Tensor, nn

import bench.model.ensemble
from bench.data import Dataset, load_dataset
from bench.results.measurements import Memory
from bench.run.checkpoint.checkpoint import INDEX


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset("tiny")


@pytest.fixture(autouse=True)
def _hardware_with_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.model.ensemble, "has_bf16", lambda _: True)


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "full_softmax": ("full_softmax", {}),
    "full_softmax, chunked": ("full_softmax", {"label_chunk": 70}),
    "full_softmax, bf16 weights": ("full_softmax", {"weights": "bf16", "label_chunk": 70}),
    "full_softmax, decoupled": ("full_softmax", {"loss": "decoupled", "lr_schedule": "constant"}),
    "full_softmax, deep": ("full_softmax", {"hidden": "16-8", "optimiser": "rowwise_adagrad"}),
    "one_vs_all": ("one_vs_all", {"label_chunk": 70}),
    "adaptive_softmax": ("adaptive_softmax", {}),
    "bottleneck": ("bottleneck", {"rank": 4}),
    "sampled_softmax, rowwise": ("sampled_softmax", {"n_samples": 60, "optimiser": "rowwise_adagrad"}),
    "sampled_softmax, one positive": ("sampled_softmax", {"n_samples": 60, "positives": "one"}),
    "mach": ("mach", {"B": 32, "R": 3}),
    "mach, feature_hash": ("mach", {**GROUPED, "feature_hash": 100}),
    "mach, feature_hash, rowwise": ("mach", {**GROUPED, "feature_hash": 100, "optimiser": "rowwise_adagrad"}),
    "mach, rowwise": ("mach", {**GROUPED, "optimiser": "rowwise_adagrad"}),
    "mach, softmax": ("mach", {**GROUPED, "loss": "softmax", "lr_schedule": "constant"}),
    "mach, share_encoder": ("mach", {"B": 32, "R": 3, "share_encoder": True}),
    "mach, decoders": ("mach", {**GROUPED, "estimator": "logit_sum+mean"}),
}
VARIANTS |= {
    f"sampled_softmax, {sampler}": ("sampled_softmax", {"n_samples": 60, "sampler": sampler})
    for sampler in ("unigram", "uniform", "log_uniform", "in_batch")
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_method_goes_on_where_it_was_stopped(tmp_path: Path, data: Dataset, variant: str) -> None:
    spec = spec_of(VARIANTS[variant][0], **VARIANTS[variant][1])
    expected = attempt(tmp_path / "whole", spec, data)
    groups = expected.epochs // EPOCHS
    stop = 3 if groups == 1 else EPOCHS + 3  # in the last group, with two epochs of it kept
    stopped(tmp_path, spec, data, stop)
    found = attempt(tmp_path, spec, data)
    assert found.epochs == 1
    assert found.notes[0].startswith(f"goes on from a checkpoint: {stop - 1} epochs")
    assert (resumed(found), resumed(expected)) == (1, 0)
    assert_same(tmp_path, found, tmp_path / "whole", expected)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, data: Dataset) -> tuple[Path, Attempt]:
    """A run in two groups that was never stopped."""
    results = tmp_path_factory.mktemp("whole")
    return results, attempt(results, spec_of("mach", **GROUPED), data)


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory, data: Dataset) -> Path:
    """The results of the same run, stopped with one epoch of its second group kept."""
    results = tmp_path_factory.mktemp("half")
    stopped(results, spec_of("mach", **GROUPED), data, EPOCHS + 2)
    return results


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5, 6, "predict"])
def test_groups_go_on_wherever_they_were_stopped(
    tmp_path: Path, data: Dataset, whole: tuple[Path, Attempt], stop: int | str
) -> None:
    spec = spec_of("mach", **GROUPED)
    behind = 2 * EPOCHS if stop == "predict" else int(stop) - 1
    stopped(tmp_path, spec, data, stop)
    found = attempt(tmp_path, spec, data)
    assert found.epochs == 2 * EPOCHS - behind
    assert resumed(found) == (behind > 0)
    assert_same(tmp_path, found, *whole)


def test_a_run_may_be_stopped_again_and_again(tmp_path: Path, data: Dataset) -> None:
    spec = spec_of("sampled_softmax", n_samples=60)
    expected = attempt(tmp_path / "whole", spec, data)
    for _ in range(EPOCHS - 1):
        stopped(tmp_path, spec, data, 2)  # each attempt keeps one epoch
    found = attempt(tmp_path, spec, data)
    assert (found.epochs, resumed(found)) == (1, EPOCHS - 1)
    assert_same(tmp_path, found, tmp_path / "whole", expected)


class Restless(nn.Module):
    """Draws from every process-wide generator, and from a torch generator of its own."""

    def __init__(self, *, n_labels: int, hidden: int, train_labels: Any, seeds: dict[str, int]) -> None:
        super().__init__()
        del train_labels
        self.own = torch.Generator().manual_seed(seeds["sampling"])
        self.linear = nn.Linear(hidden, n_labels)
        self.tied = self.linear.bias
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def get_extra_state(self) -> Tensor:
        return self.own.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        self.own.set_state(state)

    def loss(self, hidden: Tensor, labels: Any) -> Tensor:
        assert isinstance(self.calls, Tensor)
        self.calls += 1
        noise = random.random() + np.random.rand() + torch.rand(()) + torch.rand((), generator=self.own)  # noqa: NPY002
        kept = nn.functional.dropout(hidden)
        logits = self.linear(kept) * (1 + 0.1 * noise + 0.01 * self.calls)
        return (logits - torch.from_numpy(labels.toarray())).square().sum() / len(hidden)

    def topk(self, hidden: Tensor, k: int) -> tuple[Any, Any]:
        scores, labels = self.linear(hidden).topk(k)
        return scores.numpy(), labels.numpy().astype(np.int32)


def test_every_random_state_goes_on(tmp_path: Path, data: Dataset) -> None:
    spec = replace(spec_of("full_softmax"), settings={})
    expected = attempt(tmp_path / "whole", spec, data, method=Restless)
    stopped(tmp_path, spec, data, 2, Restless)
    found = attempt(tmp_path, spec, data, method=Restless)
    assert found.epochs == EPOCHS - 1
    assert_same(tmp_path, found, tmp_path / "whole", expected)


def test_grouping_stays_when_memory_changes(tmp_path: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of("mach", B=32, R=3)
    monkeypatch.setattr(bench.model.ensemble, "group_size", lambda *_: 2)
    expected = attempt(tmp_path / "whole", spec, data)
    stopped(tmp_path, spec, data, 5)
    monkeypatch.setattr(bench.model.ensemble, "group_size", lambda *_: 1)
    found = attempt(tmp_path, spec, data)
    assert found.fitted.evaluations[-1].size["repetitions_together"] == 2
    assert_same(tmp_path, found, tmp_path / "whole", expected)


def test_the_clocks_go_on(tmp_path: Path, data: Dataset) -> None:
    spec = spec_of("full_softmax")
    folder = stopped(tmp_path, spec, data, 3)
    index = json.loads((folder / INDEX).read_text())
    index["done"] |= {"fit_s": 1000.0, "elapsed_s": 2000.0, "peaks": {"peak_host_bytes": 10**15}}
    (folder / INDEX).write_text(json.dumps(index))
    found = attempt(tmp_path, spec, data)
    times = [float(row.split(",")[2]) for row in found.curve.splitlines()[1:]]
    assert 1000 < times[-1] < 1100
    assert found.fitted.times.examples_per_s == pytest.approx(EPOCHS * data.fit.X.shape[0] / times[-1])
    assert found.fitted.earlier_s == 2000.0
    assert found.fitted.others == (Memory(peaks={"host": 10**15}),)
    assert Memory(peaks={"host": 10**9}).highest(found.fitted.others) == Memory(peaks={"host": 10**15})
    assert Memory(peaks={"host": 10**9}).highest([]) == Memory(peaks={"host": 10**9})
    kept = json.loads((folder / INDEX).read_text())["done"]
    assert kept["elapsed_s"] > 2000
    assert kept["peaks"]["peak_host_bytes"] == 10**15
    some, more = Memory(peaks={"host": None, "gpu_allocated": 3, "gpu_reserved": 1}), Memory(peaks={"gpu_reserved": 2})
    assert some.highest([more]).peaks == {"host": None, "gpu_allocated": 3, "gpu_reserved": 2}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def change(**changes: Any) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


DAMAGE: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "a flipped bit": ("group-1-epoch-1.safetensors", flip, "group-1-epoch-1.safetensors: found SHA-256"),
    "a cut file": ("group-0.safetensors", cut, "group-0.safetensors: found SHA-256"),
    "a file that is gone": ("group-0.safetensors", Path.unlink, "No such file"),
    "a cut index": (INDEX, cut, "checkpoint.json: JSONDecodeError"),
    "an index of something else": (INDEX, lambda path: path.write_text("[]"), "checkpoint.json: TypeError"),
    "another format": (INDEX, change(format=2), "key format: found 2; expected 1"),
    "another spec": (INDEX, change(spec="0"), "key spec: found '0'; expected"),
    "another run": (INDEX, change(run_id="other"), "key run_id: found 'other'; expected 'run'"),
    "other data": (INDEX, change(data="0"), "key data: found '0'; expected"),
    "another environment": (INDEX, change(env_id="0"), "key env_id: found '0'; expected"),
    "other hash tables": (INDEX, change(tables="0" * 64), "hash tables: found SHA-256 00000000; expected"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_cannot_be_used_is_reported_and_the_run_starts_over(
    tmp_path: Path, data: Dataset, whole: tuple[Path, Attempt], half: Path, damage: str
) -> None:
    shutil.copytree(half, tmp_path, dirs_exist_ok=True)
    name, do, message = DAMAGE[damage]
    do(tmp_path / "test" / ".checkpoints" / "run" / name)
    found = attempt(tmp_path, spec_of("mach", **GROUPED), data)
    assert found.notes[0].startswith("checkpoint not used, the run starts over: ")
    assert message in found.notes[0]
    assert (found.epochs, resumed(found), found.fitted.earlier_s) == (2 * EPOCHS, 0, 0.0)
    assert_same(tmp_path, found, *whole)


def test_a_network_of_another_shape_is_refused_with_its_tensor(tmp_path: Path, data: Dataset) -> None:
    """As from a method that builds itself differently each time; the random states are as at first, too."""
    spec = replace(spec_of("full_softmax"), settings={})

    class Wider(Restless):
        def __init__(self, **given: Any) -> None:
            super().__init__(**given)
            self.more = nn.Parameter(torch.zeros(3))

    expected = attempt(tmp_path / "whole", spec, data, method=Wider)
    stopped(tmp_path, spec, data, 2, Restless)
    found = attempt(tmp_path, spec, data, method=Wider)
    assert "not on both sides: network/output.more" in found.notes[0]
    assert_same(tmp_path, found, tmp_path / "whole", expected)


def test_only_the_newest_stays_and_finished_groups_are_written_once(tmp_path: Path, data: Dataset, half: Path) -> None:
    shutil.copytree(half, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "test" / ".checkpoints" / "run"
    assert {path.name for path in folder.iterdir()} == {INDEX, "group-0.safetensors", "group-1-epoch-1.safetensors"}
    first = (folder / "group-0.safetensors").stat()
    stopped(tmp_path, spec_of("mach", **GROUPED), data, "predict")
    assert {path.name for path in folder.iterdir()} == {
        INDEX,
        "group-0.safetensors",
        "group-1.safetensors",
        "group-2-epoch-0.safetensors",  # nothing but random states
    }
    again = (folder / "group-0.safetensors").stat()
    assert (again.st_ino, again.st_mtime_ns) == (first.st_ino, first.st_mtime_ns)
