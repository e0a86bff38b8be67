from __future__ import annotations

import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.common.errors import InputError
from bench.speed import Measurement, compare, known, measure, overhead, parse, softmax, train
from bench.speed.steps import Step, make_layer


def test_ratio_is_reference_over_variant() -> None:
    rows = compare("sum", {"plain": lambda: [np.arange(3)], "same": lambda: [np.arange(3)]}, repeats=3)
    assert [r["variant"] for r in rows] == ["plain", "same"]
    assert rows[0]["ratio"] == 1.0
    assert rows[1]["ratio"] == pytest.approx(rows[0]["median_s"] / rows[1]["median_s"])
    assert len(rows[1]["repeats_s"]) == 3


@pytest.mark.parametrize("wrong", [np.array([0, 2]), np.array([0.0, 1.5])])
def test_a_variant_with_other_results_is_no_measurement(wrong: np.ndarray) -> None:
    right = np.arange(2).astype(wrong.dtype)
    with pytest.raises(RuntimeError, match="different results"):
        compare("sum", {"plain": lambda: [right], "wrong": lambda: [wrong]}, repeats=1)


def test_unknown_measurements_are_named() -> None:
    assert {"decode", "softmax"} <= set(known())
    with pytest.raises(InputError, match="unknown measurement 'decod'; did you mean 'decode'"):
        next(measure("decod"))


def _register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: object) -> None:
    """A measurement `mine` in a configs folder of its own."""
    (tmp_path / "speed.yaml").write_text("mine: my_speed.mine\n")
    monkeypatch.setenv("MACHBENCH_CONFIGS", str(tmp_path))
    module = types.ModuleType("my_speed")
    module.mine = function  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_speed", module)


def test_cases_are_measured_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[str] = []

    def cases() -> Iterator[tuple[str, dict[str, Callable[[], list[np.ndarray]]]]]:
        for name in ("small", "large"):
            alive.append(name)
            yield name, {"plain": lambda: [np.arange(2)], "fast": lambda: [np.arange(2)]}

    _register(tmp_path, monkeypatch, cases)
    rows = measure("mine")
    assert next(rows)["variant"] == "small: plain"
    assert alive == ["small"]  # the second case needs its memory only later
    assert [row["variant"] for row in rows] == ["small: fast", "large: plain", "large: fast"]


def test_finished_rows_pass_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"what": "mine", "variant": "elsewhere", "median_s": 1.0, "ratio": 1.0}
    _register(tmp_path, monkeypatch, lambda: [row])
    assert list(measure("mine")) == [row]


def test_what_this_machine_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error when it is named; left out with a message when everything is measured."""

    def needs_a_gpu() -> None:
        raise NotImplementedError("no GPU here")

    _register(tmp_path, monkeypatch, needs_a_gpu)
    with pytest.raises(InputError, match="mine: no GPU here"):
        list(measure("mine"))
    assert list(measure()) == []
    assert "mine left out: no GPU here" in capsys.readouterr().err


def test_parse_compares_equal_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every reader is timed against scikit-learn's; unequal arrays would have raised."""
    pytest.importorskip("sklearn")
    monkeypatch.setenv("MACHBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(parse, "SCALE", 0.002)
    rows = compare("parse", parse.parse(), repeats=1)
    assert next(row["variant"] for row in rows) == "sklearn load_svmlight_file"
    assert len(rows) == 4
    assert all(row["median_s"] > 0 for row in rows)


def test_other_work_is_timed_beside_the_variants_and_rows_can_be_added() -> None:
    measurement = Measurement(
        {"plain": lambda: [np.arange(3)]},
        beside={"other": lambda: "no array"},
        more=lambda rows: [*rows, {"variant": "made of", "parts": len(rows)}],
    )
    rows = compare("sum", measurement, repeats=2)
    assert [row["variant"] for row in rows] == ["plain", "other", "made of"]
    assert rows[1]["ratio"] == pytest.approx(rows[0]["median_s"] / rows[1]["median_s"])
    assert rows[2]["parts"] == 2


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {
        "N_FEATURES": 500,
        "FEATURES_PER_POINT": 7,
        "N_LABELS": 300,
        "R": 3,
        "B": 20,
        "HIDDEN": 8,
        "BATCH": 16,
        "SIDE": 32,
    }
    for name, value in sizes.items():
        monkeypatch.setattr(train, name, value)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.usefixtures("small")
def test_train_steps_agree_and_are_split_into_parts() -> None:
    rows = compare("train", train.train(), repeats=2)
    assert next(row["variant"] for row in rows) == "16 modules, dense Adam"
    parts = [row for row in rows if "part" in row["variant"]]
    names = ["input forward", "output forward", "loss and gradient", "output backward"]
    names += ["targets and waiting", "input backward and update"]
    assert [row["variant"] for row in parts] == [f"  part: {name}" for name in [*names, "output update"]]
    assert sum(row["share"] for row in parts) == pytest.approx(1)
    fused = next(row for row in rows if row["variant"] == "fused, Adam")
    product = next(row for row in rows if row["variant"] == "matrix product")
    assert fused["samples_per_s"] == pytest.approx(16 / fused["median_s"])
    rate = 2 * 32**3 / product["median_s"]
    assert fused["share_of_product_rate"]["matrix product"] == pytest.approx(fused["gflop_per_s"] * 1e9 / rate)
    assert {"what", "variant", "median_s", "ratio"} <= set.intersection(*(set(row) for row in rows))


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.usefixtures("small")
def test_a_wrong_gradient_is_no_training_step() -> None:
    measurement = train.train()
    step = measurement.variants["fused, Adam"]
    assert isinstance(step, Step)
    with torch.no_grad():
        step.model.network.output.kernel[1] *= 1.001  # type: ignore[union-attr]
    with pytest.raises(RuntimeError, match="different results"):
        compare("train", measurement, repeats=1)


@pytest.mark.parametrize("case", ["softmax", "one-vs-all"])
def test_steps_over_all_labels_agree_with_plain_torch(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"N_LABELS": 3000, "HIDDEN": 8, "BATCH": 16, "N_SAMPLES": 30}.items():
        monkeypatch.setattr(softmax, name, value)
    monkeypatch.setattr(softmax, "transient_bytes", lambda _, n_labels: n_labels)
    rows = compare("softmax", dict(softmax.softmax())[case], repeats=1)
    assert rows[0]["variant"] == "plain dense torch"
    assert rows[1]["transient_host_bytes"] == {"3000": 3000, "1500": 1500}
    assert (rows[-1].get("ratio_to_full") is not None) == (case == "softmax")


def test_a_wrong_gradient_of_one_label_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"N_LABELS": 3000, "HIDDEN": 8, "BATCH": 16}.items():
        monkeypatch.setattr(softmax, name, value)
    data = softmax.batches(3000)
    layer = make_layer("one_vs_all", 3000, softmax.HIDDEN)
    with torch.no_grad():
        layer.weight[17] *= 1.01
    found, expected = softmax.InChunks(layer, data)(), softmax.Plain("one-vs-all", data)()
    assert not softmax.same("one_vs_all", found[3], expected[3])


@pytest.mark.soak
def test_memory_of_a_step_is_what_plain_torch_holds() -> None:
    """Three arrays of 256 × labels for plain torch, none for the chunks; each in a process of its own."""
    plain, chunks = (softmax.transient_bytes(f"one-vs-all: {name}", 60_000) for name in (softmax.PLAIN, "one_vs_all"))
    array = 4 * softmax.BATCH * 60_000
    assert 2 * array < plain
    assert chunks < array


@pytest.fixture
def small_overhead(monkeypatch: pytest.MonkeyPatch) -> None:
    content = overhead.EXPERIMENT | {"dataset": "tiny"}
    monkeypatch.setattr(overhead, "EXPERIMENT", content | {"train": content["train"] | {"hidden": 8}})
    monkeypatch.setattr(overhead, "LEAST_EPOCHS", 4)


@pytest.mark.usefixtures("small_overhead")
def test_what_the_harness_does_off_its_clock_is_part_of_its_overhead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second for writing the learning curve is not training, but the user waits for it."""
    monkeypatch.setattr("bench.results.run_folder.RunFolder.write_curve", lambda *_: time.sleep(0.5))
    rows = overhead.overhead(seconds=0.0)
    bare, clock, phase, cpu, bare_cpu, watch = rows
    assert [len(row["repeats_s"]) for row in rows[:-1]] == [4] * 5
    gaps = [whole - own for whole, own in zip(phase["repeats_s"], clock["repeats_s"], strict=True)]
    assert min(gaps) >= 0.5
    assert phase["off_the_clock"] > 0
    assert "off the clock" in phase["note"]
    assert clock["median_s"] > 0
    assert watch["added"] > 0
    assert cpu["ratio"] == pytest.approx(bare_cpu["median_s"] / cpu["median_s"])
    assert bare["ratio"] == bare_cpu["ratio"] == 1.0
    assert all({"what", "variant", "median_s", "ratio"} <= set(row) for row in rows)


def test_what_is_added_is_the_median_of_pairs() -> None:
    """A slow minute in the third epoch affects both."""
    seconds = {overhead.BARE: [1.0, 1.0, 9.0], overhead.CLOCK: [1.0, 1.0, 9.0], overhead.FITTING: [1.01, 1.02, 9.09]}
    bare, clock, phase = overhead.rows_of(seconds)
    assert "added" not in bare
    assert (clock["added"], clock["ratio"]) == (0.0, 1.0)
    assert phase["added"] == pytest.approx(0.01)
    assert phase["off_the_clock"] == pytest.approx(0.01)


@pytest.mark.usefixtures("small_overhead")
def test_a_harness_that_trains_on_other_batches_is_no_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overhead, "batches", lambda *_: iter([np.arange(10)]))
    with pytest.raises(RuntimeError, match="epoch 1 ends at loss"):
        overhead.overhead(seconds=0.0)
