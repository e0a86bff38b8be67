"""Own speed beside plain references, as ratios of medians of interleaved repeats. A file per measurement.

`configs/speed.yaml` is the list of measurements.
"""

from __future__ import annotations

import importlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.common.errors import InputError, unknown_name
from bench.common.paths import config_root
from bench.config.yaml_files import read_yaml

REPEATS = 5  # at least; more while all together take less than ENOUGH_S, up to MOST
MOST, ENOUGH_S = 15, 60.0
Row = dict[str, Any]
Array = npt.NDArray[Any]
Variants = dict[str, Callable[[], Sequence[Array]]]


def _same(variant: str, found: Array, expected: Array) -> bool:
    """Integers exactly; floats as far as the order of a sum allows."""
    del variant
    if found.dtype.kind in "iu":
        return np.array_equal(found, expected)
    return np.allclose(found, expected, 1e-3, 1e-6)


@dataclass(frozen=True)
class Measurement:
    """Variants of the same work, the reference first, for measurements that need more than a dict of them."""

    variants: Variants
    same: Callable[[str, Array, Array], bool] = _same  # (variant, found, expected): whether the results agree
    beside: Mapping[str, Callable[[], object]] = field(default_factory=dict)  # other work, timed in the same rounds
    more: Callable[[list[Row]], list[Row]] = list  # the rows to report, from the rows as measured


def known() -> dict[str, str]:
    """What can be measured: name → dotted path of a function (configs/speed.yaml).

    The function returns variants, or an iterator of (case, variants) or (case, variants, other work to time beside
    them), or finished rows where other processes work.
    """
    return {name: str(path) for name, path in read_yaml(config_root() / "speed.yaml").items()}


def measure(what: str | None = None) -> Iterator[Row]:
    """Rows {what, variant, median_s, ratio, repeats_s} of one measurement or of all; ratio = reference / variant.

    Every repeat runs all variants one after the other, so that a slow minute of the machine affects all of them. Their
    results are compared before anything is reported. Raises InputError for an unknown name.
    """
    targets = known()
    if what is not None and what not in targets:
        raise unknown_name("measurement", what, targets)
    for name in [what] if what else targets:
        module, _, function = targets[name].rpartition(".")
        try:
            found = getattr(importlib.import_module(module), function)()
        except NotImplementedError as error:  # this machine lacks something that it needs
            if what is not None:
                raise InputError(f"speed {name}: {error}") from error
            print(f"speed {name} left out: {error}", file=sys.stderr)
            continue
        if isinstance(found, list):
            yield from found
        elif isinstance(found, Iterator):
            for case, variants, *beside in found:
                measurement = Measurement(variants, beside=beside[0]) if beside else variants
                yield from (row | {"variant": f"{case}: {row['variant']}"} for row in compare(name, measurement))
        else:
            yield from compare(name, found)


def compare(what: str, measurement: Measurement | Variants, repeats: int | None = None) -> list[Row]:
    """Time variants against the first. RuntimeError when the arrays they return differ.

    ``repeats``: rounds of all variants; None for as many as give a steady median within a minute.
    """
    if not isinstance(measurement, Measurement):
        measurement = Measurement(measurement)
    variants = measurement.variants
    results = {name: variant() for name, variant in variants.items()}  # also warms up
    reference, *_ = results
    for name, found in results.items():
        if not all(measurement.same(name, *pair) for pair in zip(found, results[reference], strict=True)):
            raise RuntimeError(f"speed {what}: {name!r} and {reference!r} give different results")
    del results
    timed = {**variants, **measurement.beside}
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    began = time.perf_counter()
    for done in range(repeats or MOST):
        if repeats is None and done >= REPEATS and time.perf_counter() - began > ENOUGH_S:
            break
        for name, work in timed.items():
            started = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    rows = [
        {
            "what": what,
            "variant": name,
            "median_s": medians[name],
            "ratio": medians[reference] / medians[name],
            "repeats_s": times,
        }
        for name, times in seconds.items()
    ]
    return measurement.more(rows)
