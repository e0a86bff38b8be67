"""Clocks, step times, peaks of phases, bytes in words, and the watch over a run's memory."""

from __future__ import annotations

import os
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.columns import BY_NAME, COLUMNS, MEMORIES, PARTS, PHASES
from bench.common import procfs
from bench.common.errors import InputError
from bench.common.units import read_bytes
from bench.config.experiment import load_experiment
from bench.process.events import EpochDone, Event, Note, PhaseStarted, RunTrace
from bench.process.failure import LAST_LINES, failure_record, last_lines
from bench.results.measurements import Measured, Memory, PhaseUsage, Times
from bench.results.run_folder import RunFolder
from bench.run import clock, memory
from bench.run.clock import Clock, StepTimes
from bench.run.phases import Phases

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
MIB = 2**20
needs_reset = pytest.mark.skipif(not memory.reset_host_peak(), reason="the kernel does not let peaks be reset")


@given(st.lists(st.floats(1e-6, 1e4), min_size=1, max_size=200), st.sampled_from([0.05, 0.5, 0.95, 1.0]))
def test_quantiles_of_steps_are_those_of_all_times(seconds: list[float], share: float) -> None:
    steps = StepTimes()
    for each in seconds:
        steps.add(each)
    exact = float(np.quantile(seconds, share, method="inverted_cdf"))
    assert steps.quantile(share) == pytest.approx(exact, rel=0.0051)
    assert len(steps) == len(seconds)


def test_without_steps_nothing_is_known() -> None:
    assert StepTimes().quantile(0.5) is StepTimes().quantile(0.95) is None


def test_a_step_is_the_time_since_the_last_or_since_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read off a clock of ours: started at 10 and at 50, and pauses belong to no step."""
    readings = iter([10.0, 11.0, 13.0, 14.0, 50.0, 54.0, 55.0])
    monkeypatch.setattr(clock, "time", types.SimpleNamespace(perf_counter=lambda: next(readings)))
    own = Clock(CPU)
    for steps in (2, 1):
        with own.running():
            for _ in range(steps):
                own.step()
    assert own.seconds == 4.0 + 5.0
    found = [own.steps.quantile(share) for share in (0.3, 0.6, 1.0)]
    assert found == pytest.approx([1.0, 2.0, 4.0], rel=0.0051)


def test_many_steps_take_few_bins() -> None:
    steps = StepTimes()
    for at in range(100_000):
        steps.add(0.001 * (1 + at % 1000))
    assert len(steps._counts) < 800


@pytest.fixture
def events() -> list[Event]:
    return []


def block(megabytes: int) -> np.ndarray:
    return np.ones(megabytes * MIB // 8)


@needs_reset
def test_each_phase_has_a_peak_of_its_own(events: list[Event]) -> None:
    """The large one is in build; what comes after is not as high, and the whole run's peak is the largest."""
    phases = Phases(CPU, events.append)
    for phase, size in (("load", 20), ("build", 160), ("warmup", 20), ("fit", 80)):
        phases.emit(PhaseStarted(phase))
        held = block(size)
        del held
    phases.emit(EpochDone(1, 1.0, 0.0, 0.0))  # still the same
    phases.emit(PhaseStarted("predict"))
    row = phases.measured.to_json()["row"]
    peaks = {name: row[f"peak_host_{name}_bytes"] for name in ("load", "build", "warmup", "fit")}
    # Half of what lies between the blocks: meanwhile the process may give back what earlier tests have taken.
    assert peaks["build"] > peaks["fit"] + 40 * MIB
    assert peaks["fit"] > peaks["warmup"] + 30 * MIB
    assert row["peak_host_bytes"] == max(ended.peaks["host"] for ended in phases.ended.values())
    assert row["peak_host_above_baseline_bytes"] == row["peak_host_bytes"] - row["baseline_host_bytes"]
    assert "peak_host_predict_bytes" not in row  # it has not ended
    lines = [event.to_json() for event in events]
    assert [line["phase"] for line in lines] == ["load", "build", "warmup", "fit", "fit", "predict"]
    assert ["measured" in line for line in lines] == [True, True, True, True, False, True]
    assert set(lines[-1]["measured"]["phases"]) == {"start", "load", "build", "warmup", "fit"}
    assert set(row) <= set(BY_NAME)


def test_where_peaks_cannot_be_reset_only_the_whole_is_reported(
    events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "reset_host_peak", lambda: False)
    phases = Phases(CPU, events.append)
    for phase in ("load", "build", "fit", "predict"):
        phases.emit(PhaseStarted(phase))
    row = phases.measured.to_json()["row"]
    assert row["peak_host_bytes"] > 0
    assert not {f"peak_host_{name}_bytes" for name in ("load", "build", "fit")} & set(row)


def test_the_whole_peak_survives_the_resets(events: list[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = iter([100, 900, 300])
    monkeypatch.setattr(memory, "peak_host_bytes", lambda: next(peaks))
    monkeypatch.setattr(procfs, "host_bytes", lambda: 90)
    phases = Phases(CPU, events.append)
    for phase in ("load", "build", "fit"):
        phases.emit(PhaseStarted(phase))
        phases.emit(Note("of the same phase"))
    row = phases.measured.to_json()["row"]
    assert (row["peak_host_bytes"], row["peak_host_load_bytes"], row["peak_host_build_bytes"]) == (900, 900, 300)
    assert row["peak_host_above_baseline_bytes"] == 810


def test_a_phase_that_comes_twice_is_added_up(events: list[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    peaks, seconds = iter([10, 40, 20, 30]), iter([0.0, 1.0, 1.0, 3.0, 3.0, 8.0, 8.0, 18.0, 18.0])
    monkeypatch.setattr(memory, "peak_host_bytes", lambda: next(peaks))
    monkeypatch.setattr("bench.run.phases.time", types.SimpleNamespace(perf_counter=lambda: next(seconds)))
    phases = Phases(CPU, events.append)
    for phase in ("build", "fit", "build", "fit"):
        phases.emit(PhaseStarted(phase))
    assert phases.ended["build"] == PhaseUsage(12.0, {"host": 40})
    assert phases.ended["fit"] == PhaseUsage(5.0, {"host": 20})


class Gpu:
    """What torch and NVML say of a GPU, made up: ``allocated`` now, and the peak since it was reset."""

    NVMLError = type("NVMLError", (Exception,), {})

    def __init__(self) -> None:
        self.allocated = self.peak = 0
        self.context = 500
        self.others = [(1, 10**12)]  # (process, bytes) that are not ours

    def hold(self, count: int) -> None:
        self.allocated = count
        self.peak = max(self.peak, count)

    def reset(self, _: object) -> None:
        self.peak = self.allocated

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, at: int) -> int:
        return at

    def nvmlDeviceGetComputeRunningProcesses(self, at: int) -> list[types.SimpleNamespace]:
        own = [(os.getpid(), self.context + self.allocated)] if at == 1 else []
        return [types.SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in self.others + own]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    made = Gpu()
    monkeypatch.setitem(sys.modules, "pynvml", made)  # type: ignore[arg-type]
    monkeypatch.setattr(memory, "INTERVAL_S", 0.001)
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: made.peak)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _: 2 * made.peak)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", made.reset)
    yield made
    monkeypatch.undo()


def test_peaks_of_a_gpu_by_phase(gpu: Gpu, events: list[Event]) -> None:
    """Of torch as it counts them, of the process as the driver does: also where the memory is given back in between."""
    phases = Phases(CUDA, events.append)
    phases.emit(PhaseStarted("load"))
    phases.emit(PhaseStarted("build"))
    gpu.hold(700)
    assert phases._sampler is not None
    deadline = time.monotonic() + 60
    while phases._sampler._peak != 1200 and time.monotonic() < deadline:
        time.sleep(0.001)  # until its thread has looked
    gpu.hold(100)
    phases.emit(PhaseStarted("fit"))
    gpu.hold(300)
    phases.emit(PhaseStarted("predict"))
    phases.stop()
    row = phases.measured.to_json()["row"]
    assert (row["peak_gpu_allocated_build_bytes"], row["peak_gpu_allocated_fit_bytes"]) == (700, 300)
    assert (row["peak_gpu_reserved_build_bytes"], row["peak_gpu_reserved_bytes"]) == (1400, 1400)
    assert (row["peak_gpu_process_build_bytes"], row["peak_gpu_process_fit_bytes"]) == (1200, 800)
    assert (row["peak_gpu_process_bytes"], row["baseline_gpu_process_bytes"]) == (1200, 500)
    assert row["peak_gpu_process_above_baseline_bytes"] == 700
    assert row["peak_gpu_allocated_load_bytes"] == 0
    assert set(row) <= set(BY_NAME)


def test_a_driver_that_does_not_answer_leaves_its_columns_empty(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise Gpu.NVMLError

    monkeypatch.setattr(gpu, "nvmlInit", refuse)
    assert memory.GpuSampler.start(CUDA) is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert memory.GpuSampler.start(CUDA) is None
    monkeypatch.setattr(gpu, "nvmlDeviceGetCount", refuse)
    assert memory.process_bytes(gpu) is None
    assert memory.GpuSampler.start(CPU) is None


def test_a_process_that_the_driver_does_not_list_is_not_measured(gpu: Gpu) -> None:
    gpu.nvmlDeviceGetComputeRunningProcesses = lambda _: [types.SimpleNamespace(pid=1, usedGpuMemory=7)]  # type: ignore[method-assign]
    assert memory.process_bytes(gpu) is None


@pytest.mark.parametrize(("value", "count"), [(4_000_000_000, 4e9), (4e9, 4e9), ("1e+09", 1e9), ("8GB", 8e9)])
def test_a_memory_limit_is_bytes(value: object, count: float) -> None:
    assert read_bytes(value, "x") == count


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("memory_limit_bytes: lots", r"small.yaml, key memory_limit_bytes: found 'lots'; expected bytes such as"),
        ("memory_limit_bytes: -1", "found -1; expected bytes"),
        ("memory_limit_bytes: true", "found True; expected bytes"),
        ("time_limit_s: soon", r"small.yaml, key time_limit_s: found 'soon'; expected a positive number of seconds"),
        ("time_limit_s: 0", "found 0; expected a positive number"),
        ("memory_limit: 1", "did you mean 'memory_limit_bytes'"),
    ],
)
def test_limits_are_checked_at_the_door(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(f"dataset: tiny\nmethods: {{label_frequency: {{}}}}\n{text}\n")
    with pytest.raises(InputError, match=message):
        load_experiment(str(path))


def test_limits_can_be_overridden(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text("dataset: tiny\nmethods: {label_frequency: {}}\nmemory_limit_bytes: 2GiB\n")
    assert load_experiment(str(path)).memory_limit_bytes == 2**31
    changed = load_experiment(str(path), ["memory_limit_bytes=1.5GB", "time_limit_s=90"])
    assert (changed.memory_limit_bytes, changed.time_limit_s) == (1_500_000_000, 90.0)


def test_what_was_reported_before_the_end_stays_in_the_record_of_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text("dataset: tiny\nmethods: {label_frequency: {}}\n")
    (spec,) = load_experiment(str(path)).runs
    folder = RunFolder.create(tmp_path, "a-run", spec)
    (folder.path / "log.txt").write_text("".join(f"line {at}\n\n" for at in range(100)))
    trace = RunTrace()
    trace.add(PhaseStarted("load", measured=Measured(phases={"start": PhaseUsage(0.1)})))
    row = {"peak_host_bytes": 50, "baseline_host_bytes": 30, "load_s": 0.5}
    known = Measured(Times.from_json(row), Memory.from_json(row), {"load": PhaseUsage(0.6)})
    trace.add(PhaseStarted("fit", measured=known))
    trace.add(EpochDone(1, 0.5, 0.1, 3.0))
    record = failure_record(folder, "timeout", "too slow", trace, 70, "first").to_json()
    assert (record["status"], record["reason"], record["phase"]) == ("timeout", "fit: too slow", "fit")
    assert record["phases"] == {"load": {"seconds": 0.6}}
    assert record["rows"] == [row | {"peak_host_bytes": 70, "peak_host_above_baseline_bytes": 40}]
    assert record["log_tail"] == [f"line {at}" for at in range(100 - LAST_LINES, 100)]
    assert failure_record(folder, "timeout", "", trace, None, None).memory.peaks["host"] == 50


def test_the_end_of_a_long_log_is_enough(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_bytes(b"x" * 100_000 + b"\n\xff\nend")
    assert last_lines(tmp_path / "log.txt")[-2:] == ["\ufffd", "end"]
    assert last_lines(tmp_path / "none.txt") == []


def test_a_peak_above_an_unknown_baseline_is_empty() -> None:
    assert Memory(peaks={"host": 5}).above_baseline == {}
    assert Memory({"host": 5}, {"host": None}).above_baseline == {"host": None}  # an empty cell


DOCS = Path(__file__).resolve().parents[3] / "docs"


def test_the_page_names_lines_that_are_there() -> None:
    """Where each clock starts and stops: the quoted line is in the named file."""
    page = (DOCS / "measuring.md").read_text()
    clocks = [row.split(" | ") for row in page.splitlines() if row.startswith("| `") and "| `bench/" in row]
    assert len(clocks) >= 8
    for _, line, file, *_ in clocks:
        assert line.strip("`") in (DOCS.parent / file.strip("`")).read_text(), line


def test_every_column_of_memory_and_time_is_explained() -> None:
    page = (DOCS.parent / "results" / "README.md").read_text()
    by_phase = {f"peak_{kind}_{phase}_bytes" for kind in MEMORIES for phase in PHASES}
    parts = {f"predicted_{part}_bytes" for part in PARTS}
    for column in COLUMNS:
        if column.group in ("memory", "time") and column.name not in by_phase | parts:
            assert f"`{column.name}`" in page, column.name
    assert all(f"`{name}`" in page for name in (*MEMORIES, *PHASES))
    assert f"`{' '.join(PARTS)}`" in page
