"""Clocks and memories of the process that runs one spec. Units are in the names: seconds and bytes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


class Clock:
    """A stopwatch that adds up; on a GPU it waits for queued kernels before every reading."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._started: float | None = None
        self.seconds = 0.0

    def start(self) -> None:
        self._started = self._now()

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
    """High-water mark of this process's resident memory (VmHWM); None where the kernel does not tell.

    Not ru_maxrss: that one is inherited from the parent through fork and exec.
    """
    return _status_bytes("VmHWM")


def host_bytes() -> int | None:
    """Resident memory now (VmRSS)."""
    return _status_bytes("VmRSS")


def _status_bytes(field: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None


def gpu_peaks(device: torch.device) -> dict[str, int | None]:
    """Peak bytes that torch allocated and reserved on the GPU; None on a CPU run."""
    if device.type != "cuda":
        return {"peak_gpu_allocated_bytes": None, "peak_gpu_reserved_bytes": None}
    return {
        "peak_gpu_allocated_bytes": torch.cuda.max_memory_allocated(device),
        "peak_gpu_reserved_bytes": torch.cuda.max_memory_reserved(device),
    }
