"""Clocks and memories of the process that runs one spec. Units are in the names: seconds and bytes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from bench.host import status_bytes
from bench.steps import StepTimes


class Clock:
    """A stopwatch that adds up; on a GPU it waits for queued kernels when it is started and paused."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._started: float | None = None
        self._stepped = 0.0
        self.seconds = 0.0
        self.steps = StepTimes()

    def start(self) -> None:
        self._started = self._stepped = self._now()

    def step(self) -> None:
        """A step of the work has ended: note the time since the one before it, or since the start.

        Does not wait for a GPU: call it where the host has just waited, as for the value of a loss.
        """
        now = time.perf_counter()
        self.steps.add(now - self._stepped)
        self._stepped = now

    def pause(self) -> None:
        """Stop and add what has passed; does nothing on a stopped clock."""
        if self._started is not None:
            self.seconds += self._now() - self._started
            self._started = None

    @contextmanager
    def running(self) -> Iterator[Clock]:
        self.start()
        try:
            yield self
        finally:
            self.pause()

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def peak_host_bytes() -> int | None:
    """High-water mark of this process's resident memory (VmHWM) since the process started or `reset_host_peak`.

    None where the kernel does not tell. Not ru_maxrss: that one is inherited from the parent through fork and exec.
    """
    return status_bytes("self").get("VmHWM")


def host_bytes() -> int | None:
    """Resident memory now (VmRSS)."""
    return status_bytes("self").get("VmRSS")


def reset_host_peak() -> bool:
    """Let the high-water mark start again from the memory resident now; False where that is not permitted."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def gpu_peaks(device: torch.device) -> dict[str, int | None]:
    """Peak bytes that torch allocated and reserved on the GPU; None on a CPU run."""
    if device.type != "cuda":
        return {"peak_gpu_allocated_bytes": None, "peak_gpu_reserved_bytes": None}
    return {
        "peak_gpu_allocated_bytes": torch.cuda.max_memory_allocated(device),
        "peak_gpu_reserved_bytes": torch.cuda.max_memory_reserved(device),
    }


def reset_gpu_peaks(device: torch.device) -> None:
    """Let torch's peaks start again from what is allocated and reserved now; nothing to do on a CPU run."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
