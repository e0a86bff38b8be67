"""Seconds of training: from operations and this machine's rates, or better from earlier runs of the same method."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.common import environment
from bench.common.errors import InputError
from bench.config.spec import RunSpec
from bench.plan.forecast import Forecast
from bench.results.record import read_record

SIDE, POINTS = 1024, 256  # of the product that is timed, and points in it
STREAM = 2**24  # numbers that are read and written
REPEATS = 5


@dataclass(frozen=True)
class Rates:
    """What this machine reaches: floating-point operations per second in products, bytes per second in long streams."""

    flops: float
    bytes: float

    def seconds(self, predicted: Forecast) -> float | None:
        """Of training, as if products and memory traffic came one after the other; None without operations."""
        if predicted.step_flops is None or predicted.step_bytes is None:
            return None
        return predicted.n_steps * (predicted.step_flops / self.flops + predicted.step_bytes / self.bytes)


def measure_rates() -> Rates:
    """Medians of a few products and of a few passes over an array larger than the caches: half a second in all."""
    x, w = torch.rand(POINTS, SIDE), torch.rand(SIDE, SIDE)
    values = torch.rand(STREAM)
    product, stream = _median(lambda: x @ w), _median(lambda: values.mul_(1.0))
    return Rates(2 * POINTS * SIDE * SIDE / product, 2 * 4 * STREAM / stream)


def _median(work: Callable[[], Any]) -> float:
    work()
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


@dataclass(frozen=True)
class EarlierRun:
    """A finished run on this machine: what it was and how long it trained."""

    spec: RunSpec
    fit_s: float


def earlier_runs(results: Path) -> Iterator[EarlierRun]:
    """Finished runs under a results folder that were made in this environment; what cannot be read is passed over."""
    here = environment.env_id()
    for path in sorted(results.glob("*/runs/[!.]*/record.json")):
        try:
            record = read_record(path)
            if record.status == "ok" and record.shared.get("env_id") == here and record.own.fit_s:
                yield EarlierRun(RunSpec.from_json((path.parent / "spec.json").read_text()), record.own.fit_s)
        except (OSError, InputError, ValueError, KeyError, TypeError, AttributeError):
            continue


def seconds_like(
    spec: RunSpec, model_s: float, earlier: list[EarlierRun], model_of: Callable[[RunSpec], float | None]
) -> float | None:
    """Seconds of the most similar earlier run of this method on this dataset, scaled by the cost model.

    Most similar: whose model seconds are nearest as a ratio. model_s and ``model_of``: seconds by the cost model. None
    when there is no such run.
    """
    found = []
    for run in earlier:
        same = (run.spec.target, run.spec.dataset, run.spec.train.threads) == (
            spec.target, spec.dataset, spec.train.threads,
        )  # fmt: skip
        model = model_of(run.spec) if same else None
        if model:
            found.append((abs(math.log(model_s / model)), run.fit_s * model_s / model))
    return min(found)[1] if found else None
