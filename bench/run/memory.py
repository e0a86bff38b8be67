"""Peak memory of host and GPU, and a sampler of what the driver counts."""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
from pathlib import Path
from typing import Any

import torch

from bench.common.procfs import status_bytes

INTERVAL_S = 0.1


class GpuSampler:
    """The most that this process was seen to hold on its GPUs, context and libraries included.

    The driver keeps no high-water mark, so it is read ten times a second by a thread of this process, and at every
    reading; a peak that is shorter may be missed.
    """

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        self._peak: int | None = None
        self._stopped = threading.Event()
        threading.Thread(target=self._follow, daemon=True).start()

    @classmethod
    def start(cls, device: torch.device) -> GpuSampler | None:
        """A sampler at work; None on a CPU, without nvidia-ml-py, and where the driver does not answer."""
        if device.type != "cuda":
            return None
        try:
            nvml = importlib.import_module("pynvml")
            nvml.nvmlInit()
        except Exception:  # NVML's own classes are not known without the module
            return None
        return cls(nvml)

    def read(self) -> int | None:
        """Peak bytes since the last reading, of which this one starts anew; None where the driver has none."""
        now = process_bytes(self._nvml)
        found = [n for n in (self._peak, now) if n is not None]
        self._peak = now
        return max(found, default=None)

    def stop(self) -> None:
        self._stopped.set()

    def _follow(self) -> None:
        while not self._stopped.wait(INTERVAL_S):
            now = process_bytes(self._nvml)
            if now is not None:
                self._peak = max(now, self._peak or 0)


def process_bytes(nvml: Any) -> int | None:
    """Bytes of this process on all GPUs now; None where it is not listed, as in a container with process ids of its
    own, or where the driver keeps its counts to itself."""
    found = []
    with contextlib.suppress(Exception):  # as in `start`
        for at in range(nvml.nvmlDeviceGetCount()):
            processes = nvml.nvmlDeviceGetComputeRunningProcesses(nvml.nvmlDeviceGetHandleByIndex(at))
            found += [p.usedGpuMemory for p in processes if p.pid == os.getpid() and p.usedGpuMemory is not None]
    return sum(found) if found else None


def peak_host_bytes() -> int | None:
    """High-water mark of this process's resident memory (VmHWM) since the process started or `reset_host_peak`.

    None where the kernel does not report it. Not ru_maxrss: that is inherited from the parent through fork and exec.
    """
    return status_bytes("self").get("VmHWM")


def reset_host_peak() -> bool:
    """Let the high-water mark start again from the memory resident now; False where that is not permitted."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peaks(device: torch.device) -> dict[str, int]:
    """Peak bytes of this process by kind of memory (`bench.columns.MEMORIES`), those that are known."""
    found = {"peak_host_bytes": peak_host_bytes(), **gpu_peaks(device)}
    return {name.removeprefix("peak_").removesuffix("_bytes"): n for name, n in found.items() if n is not None}


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
