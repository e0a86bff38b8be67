"""Own speed beside plain references: medians of interleaved repeats in one process, as ratios."""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from omegaconf import OmegaConf

from bench.errors import InputError, unknown_name
from bench.paths import config_root

REPEATS = 5
Row = dict[str, Any]
Variants = dict[str, Callable[[], Sequence[npt.NDArray[Any]]]]


def known() -> dict[str, str]:
    """What can be measured: name → dotted path of a function that returns the variants (configs/speed.yaml)."""
    content = OmegaConf.to_container(OmegaConf.load(config_root() / "speed.yaml"))
    if not isinstance(content, dict):
        raise InputError(f"{config_root() / 'speed.yaml'}: expected names and dotted paths")
    return {str(name): str(path) for name, path in content.items()}


def measure(what: str | None = None) -> Iterator[Row]:
    """Rows {what, variant, median_s, ratio, repeats_s} of one measurement or of all; ratio = reference / variant.

    Every repeat runs all variants one after the other, so that a slow minute of the machine hits them alike, and their
    results are compared before anything is reported. Raises InputError for an unknown name.
    """
    targets = known()
    if what is not None and what not in targets:
        raise unknown_name("measurement", what, targets)
    for name in [what] if what else targets:
        module, _, function = targets[name].rpartition(".")
        yield from compare(name, getattr(importlib.import_module(module), function)())


def compare(what: str, variants: Variants, repeats: int = REPEATS) -> list[Row]:
    """Time variants against the first. RuntimeError when the arrays they return differ."""
    results = {name: variant() for name, variant in variants.items()}  # also warms up
    reference, *_ = results
    for name, found in results.items():
        if not all(_same(*pair) for pair in zip(found, results[reference], strict=True)):
            raise RuntimeError(f"speed {what}: {name!r} and {reference!r} give different results")
    del results
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, variant in variants.items():
            started = time.perf_counter()
            variant()
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return [
        {
            "what": what,
            "variant": name,
            "median_s": medians[name],
            "ratio": medians[reference] / medians[name],
            "repeats_s": times,
        }
        for name, times in seconds.items()
    ]


def _same(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> bool:
    """Integers exactly; floats as far as the order of a sum allows."""
    if found.dtype.kind in "iu":
        return np.array_equal(found, expected)
    return np.allclose(found, expected, 1e-3, 1e-6)
