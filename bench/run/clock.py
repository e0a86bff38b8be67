"""Clocks and memories of the process that runs one spec. Units are in the names: seconds and bytes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bench.run.steps import StepTimes


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
