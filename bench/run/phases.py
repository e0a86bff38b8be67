"""The phases of a run as its events name them, and the peak memory of each, read and set back where one ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from bench.columns import MEMORIES, PHASES, above_baseline
from bench.common import procfs
from bench.run import memory
from bench.run.memory import GpuSampler


class Phases:
    """Passes the events of a run on, and closes the books of a phase when an event names another.

    That event takes along, as ``measured``, what is known so far: ``row``, columns of the results, and ``phases``, for
    each ended phase its seconds by the wall clock and its peaks in bytes. So it is known even of a run that is killed.
    """

    def __init__(self, device: torch.device, tell: Callable[[dict[str, Any]], None]) -> None:
        self._device, self._tell = device, tell
        self._phase, self._started = "start", time.perf_counter()
        self._separate = True  # whether the host's high-water mark is this phase's alone
        self._whole: dict[str, int] = {}
        self._facts: dict[str, Any] = {}
        self.ended: dict[str, dict[str, Any]] = {}
        self._baseline("host", procfs.host_bytes())
        if device.type == "cuda":
            torch.zeros(1, device=device)  # the context, which is there before the run has done anything
        self._sampler = GpuSampler.start(device)
        self._baseline("gpu_process", self._sampler.read() if self._sampler else None)

    def report(self, event: dict[str, Any]) -> None:
        """Tell an event; one without ``phase`` belongs to the phase before it."""
        phase = event.get("phase", self._phase)
        if phase != self._phase:
            self._end()
            self._phase = phase
            event = event | {"measured": {"row": self.row(), "phases": self.ended}}
        self._tell(event)

    def note(self, **columns: Any) -> None:
        """Columns that the run knows before it ends; None is not known."""
        self._facts |= {name: value for name, value in columns.items() if value is not None}

    def row(self) -> dict[str, Any]:
        """Columns: peaks of the run so far, above the baseline, and of its ended phases; and what was noted."""
        row = self._facts | {f"peak_{kind}_bytes": peak for kind, peak in self._whole.items()}
        for phase, ended in self.ended.items():
            name = phase.replace(" ", "")  # the phase "warm up" is "warmup" in columns
            if name in PHASES:  # record.json has the others too
                row |= {f"peak_{kind}_{name}_bytes": ended.get(f"peak_{kind}_bytes") for kind in MEMORIES}
        row = {column: value for column, value in row.items() if value is not None}
        return row | above_baseline(row)

    def stop(self) -> None:
        """No more looks at the GPU: the run is over."""
        if self._sampler:
            self._sampler.stop()

    def _baseline(self, kind: str, count: int | None) -> None:
        self.note(**{f"baseline_{kind}_bytes": count})

    def _end(self) -> None:
        now = time.perf_counter()
        found: dict[str, int | None] = {"peak_host_bytes": memory.peak_host_bytes(), **memory.gpu_peaks(self._device)}
        found["peak_gpu_process_bytes"] = self._sampler.read() if self._sampler else None
        peaks = {name: peak for name, peak in found.items() if peak is not None}
        for kind in MEMORIES:
            if (peak := peaks.get(f"peak_{kind}_bytes")) is not None:
                self._whole[kind] = max(peak, self._whole.get(kind, 0))
        if not self._separate:  # it may be an earlier phase's
            peaks.pop("peak_host_bytes", None)
        ended = self.ended.setdefault(self._phase, {"seconds": 0.0})  # a run that starts over has a phase twice
        ended["seconds"] += now - self._started
        ended |= {name: max(peak, ended.get(name, 0)) for name, peak in peaks.items()}
        self._separate = memory.reset_host_peak()
        memory.reset_gpu_peaks(self._device)
        self._started = time.perf_counter()
