"""The phases of a run as its events name them, and the peak memory of each, read and set back where one ends."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

import torch

from bench.columns import PHASES
from bench.common import procfs
from bench.process.events import Emit, Event, PhaseStarted
from bench.results.measurements import Measured, Memory, PhaseUsage, Times
from bench.run import memory
from bench.run.memory import GpuSampler


class Phases:
    """Passes the events of a run on, and measures a phase when an event names another.

    That event takes along, as ``measured``, what is known so far. So it is known even of a run that is killed.

    Attributes:
        ended: seconds and peaks of each phase that has ended.
    """

    def __init__(self, device: torch.device, emit: Emit) -> None:
        self._device, self._emit = device, emit
        self._phase, self._started = "start", time.perf_counter()
        self._separate = True  # whether the host's high-water mark is this phase's alone
        self._whole: dict[str, int] = {}
        self._baseline: dict[str, int] = {}
        self._predicted: Mapping[str, int] = {}
        self._times = Times()
        self.ended: dict[str, PhaseUsage] = {}
        self._set_baseline("host", procfs.host_bytes())
        if device.type == "cuda":
            torch.zeros(1, device=device)  # the context, which is there before the run has done anything
        self._sampler = GpuSampler.start(device)
        self._set_baseline("gpu_process", self._sampler.read() if self._sampler else None)

    def emit(self, event: Event) -> None:
        """Pass an event on; one that begins no phase belongs to the phase before it."""
        if isinstance(event, PhaseStarted) and event.phase != self._phase:
            self._end()
            self._phase = event.phase
            event = replace(event, measured=self.measured)
        self._emit(event)

    def predicted(self, predicted: Mapping[str, int]) -> None:
        """What was predicted of the run, bytes by part of a peak (`bench.columns.PARTS`)."""
        self._predicted = predicted

    def took(self, times: Times) -> None:
        """Times that the run knows before it ends."""
        self._times = self._times.with_known(times)

    @property
    def measured(self) -> Measured:
        """What is known so far: peaks of the run and of its ended phases, what was predicted, and times."""
        by_phase: dict[str, dict[str, int | None]] = {}
        for phase, usage in self.ended.items():
            if phase in PHASES and usage.peaks:  # record.json has the others too
                by_phase[phase] = dict(usage.peaks)
        found = Memory(dict(self._baseline), dict(self._whole), by_phase, self._predicted)
        return Measured(self._times, found, dict(self.ended))

    def stop(self) -> None:
        """No more readings of the GPU: the run is over."""
        if self._sampler:
            self._sampler.stop()

    def _set_baseline(self, kind: str, count: int | None) -> None:
        if count is not None:
            self._baseline[kind] = count

    def _end(self) -> None:
        now = time.perf_counter()
        peaks = memory.peaks(self._device)
        if self._sampler and (peak := self._sampler.read()) is not None:
            peaks["gpu_process"] = peak
        self._whole = _highest(self._whole, peaks)
        if not self._separate:  # it may be an earlier phase's
            peaks.pop("host", None)
        before = self.ended.get(self._phase, PhaseUsage(0.0))  # a run that starts over has a phase twice
        seconds = before.seconds + now - self._started
        self.ended[self._phase] = PhaseUsage(seconds, _highest(before.peaks, peaks))
        self._separate = memory.reset_host_peak()
        memory.reset_gpu_peaks(self._device)
        self._started = time.perf_counter()


def _highest(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {kind: max(one.get(kind, 0), other.get(kind, 0)) for kind in {**one, **other}}
