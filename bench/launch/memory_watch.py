"""Watches over the memory of a run from the process that started it. Imports no torch.

Not by RLIMIT_AS: that limits addresses, not memory. Mapped data, thread stacks, tables of zeros that nobody has touched
and the whole of CUDA's address range count in it, so that it stops runs that fit. Linux does not enforce RLIMIT_RSS.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

from bench.common.procfs import family, oom_kills, status_bytes
from bench.common.units import in_units

INTERVAL_S = 0.05


class MemoryWatch:
    """Watches a process and its descendants, and calls ``kill`` once when they hold more than ``limit`` bytes.

    Twenty times a second it adds up their resident memory (pages that several of them share count for each), and reads
    the high-water mark of each, which includes peaks between two readings. ``peak``: the highest reading, in bytes;
    None before the first.
    """

    def __init__(self, pid: int, limit: float | None, kill: Callable[[], None]) -> None:
        self._pid, self._limit, self._kill = pid, limit, kill
        self.peak: int | None = None
        self.over = False
        self._stopped = threading.Event()
        self._oom_kills = oom_kills()
        self._thread = threading.Thread(target=self._poll, daemon=True)
        self._thread.start()

    def check(self, count: int | None) -> None:
        """Take in a peak in bytes, read here or reported by the run itself."""
        if count is None:
            return
        self.peak = max(count, self.peak or 0)
        if self._limit is not None and count > self._limit and not self.over:
            self.over = True
            self._kill()

    def __enter__(self) -> MemoryWatch:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def reason(self, code: int) -> str | None:
        """Why a process that ended with ``code`` (as of `subprocess`) was short of memory; None where it was not."""
        if self.over and self._limit is not None:
            return f"killed at the memory limit of {in_units(self._limit)}; it held {in_units(self.peak)}"
        if code == -signal.SIGKILL and oom_kills() > self._oom_kills:
            return f"killed by the kernel, which was out of memory; it held {in_units(self.peak)}"
        return None

    def _poll(self) -> None:
        while not self._stopped.wait(INTERVAL_S):
            self.check(held_bytes(self._pid))


def held_bytes(pid: int) -> int | None:
    """Resident bytes of a process and its descendants together, or the high-water mark of one of them if that is more.

    None when the process has ended.
    """
    seen = [status for status in map(status_bytes, family(pid)) if "VmRSS" in status]
    if not seen:
        return None
    return max(sum(status["VmRSS"] for status in seen), *(status["VmHWM"] for status in seen))
