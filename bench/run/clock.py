"""The clocks of a run, and the time of each training step: counts in bins, so that millions of steps take no memory."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch

BIN = math.log(1.01)  # width of a bin, in logarithms of seconds
SHORTEST = 1e-9  # a clock that does not tick between two readings


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


class StepTimes:
    """Durations as a histogram with bins of 1 %: quantiles are within half a per cent, and every step counts.

    Adding costs about a microsecond, and the bins that are in use are a few hundred at most.
    """

    def __init__(self) -> None:
        self._counts: defaultdict[int, int] = defaultdict(int)

    def __len__(self) -> int:
        return sum(self._counts.values())

    def add(self, seconds: float) -> None:
        self._counts[round(math.log(max(seconds, SHORTEST)) / BIN)] += 1

    def quantile(self, share: float) -> float | None:
        """Seconds that at least ``share`` of the steps did not exceed (the inverted CDF); None without steps."""
        wanted = math.ceil(share * len(self))
        for at in sorted(self._counts):
            wanted -= self._counts[at]
            if wanted <= 0:
                return math.exp(at * BIN)
        return None
