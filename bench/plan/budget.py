"""Methods at an equal budget: the largest size of each that keeps to so many output parameters, bytes or seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.common.errors import InputError, unknown_name
from bench.config.experiment import Experiment
from bench.config.spec import RunSpec
from bench.config.yaml_files import as_list, config_path, read_yaml
from bench.plan.grid import Planner

LARGEST = 2**31 - 1
QUANTITIES = ("parameters", "bytes", "seconds")


@dataclass(frozen=True)
class Budget:
    """``quantity``: parameters (of the output layer), bytes (predicted peak) or seconds (of training)."""

    quantity: str
    limit: float


@dataclass(frozen=True)
class Solution:
    """A method's size under a budget; ``override`` is None where no size meets it, and ``reason`` says why.

    Where there is one, ``reason`` names the values of the other sizes that it goes with.
    """

    spec: RunSpec
    override: str | None
    predicted: float | None
    reason: str = ""

    def row(self) -> dict[str, Any]:
        """As one JSON object."""
        named = {"method": self.spec.method, "dataset": self.spec.dataset_name}
        return named | {"override": self.override, "predicted": self.predicted, "reason": self.reason}


def solve(experiment: Experiment, planner: Planner, budget: Budget, wanted: Mapping[str, str]) -> list[Solution]:
    """One solution for each method, dataset and remaining settings; ``wanted`` names the setting to solve for.

    Without that, it is the first of the method file's ``size`` that can meet the budget. InputError for methods that
    the experiment has not, and settings that they have not.
    """
    methods = {spec.method for spec in experiment.runs}
    for method in wanted:
        if method not in methods:
            raise unknown_name("method", method, methods, "--solve")
    solutions: dict[str, Solution] = {}
    for spec in experiment.runs:
        names = [wanted[spec.method]] if spec.method in wanted else _sizes_of(experiment, spec.method)
        names = [name for name in names if name == "hidden" or name in spec.settings]
        if spec.method in wanted and not names:
            raise unknown_name("setting", wanted[spec.method], [*spec.settings, "hidden"], f"--solve {spec.method}")
        if not names:
            key = f"{spec.method} {spec.dataset} {spec.dataset_overrides}"
            solutions.setdefault(key, Solution(spec, None, None, "its file names no size to solve for"))
            continue
        found = _first_that_meets(spec, names, planner, budget)
        # Runs that differ in the size alone, or in the seed, are one question.
        at = found.override.partition("=")[0].rpartition(".")[2] if found.override else names[0]
        rest = with_size(replace(spec, seed=0, swept={}), at, 1)
        solutions.setdefault(rest.canonical(), found)
    return list(solutions.values())


def _sizes_of(experiment: Experiment, method: str) -> list[str]:
    """The settings that the method's file lists as ``size``."""
    chosen = experiment.config["methods"][method] or {}
    return [
        str(name) for name in as_list(read_yaml(config_path("method", chosen.get("method", method))).get("size", []))
    ]


def _first_that_meets(spec: RunSpec, names: Sequence[str], planner: Planner, budget: Budget) -> Solution:
    reason = ""
    for name in names:

        def quantity(size: int, name: str = name) -> float | None:
            return _quantity(with_size(spec, name, size), planner, budget.quantity)

        try:
            least, most = quantity(1), quantity(LARGEST)
        except InputError:
            raise
        except ValueError as error:
            reason = str(error)
            continue
        if least is None or most is None:
            reason = f"no {budget.quantity} are predicted for it"
        elif least > budget.limit:
            reason = f"{name}=1 already needs {least:,.4g}"
        elif most <= budget.limit:
            reason = f"{name} hardly changes its {budget.quantity}: {most:,.4g} at most"
        else:
            size = largest(quantity, budget.limit)
            others = " ".join(
                f"{other}={spec.settings[other]}" for other in names if other != name and other in spec.settings
            )
            return Solution(spec, f"methods.{spec.method}.{name}={_shown(spec, name, size)}", quantity(size), others)
    return Solution(spec, None, None, reason)


def largest(quantity: Callable[[int], float | None], limit: float) -> int:
    """The largest size from 1 up to the first that exceeds the limit, less one; ``quantity(1)`` is within it."""

    def within(size: int) -> bool:
        found = quantity(size)
        return found is not None and found <= limit

    low, high = 1, 2
    while within(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if within(middle) else (low, middle)
    return low


def with_size(spec: RunSpec, name: str, size: int) -> RunSpec:
    """The run with another size; ``hidden`` is the width of the last hidden layer."""
    if name in spec.settings:
        return replace(spec, settings={**spec.settings, name: size})
    return replace(spec, train=replace(spec.train, hidden=_shown(spec, name, size)))


def _shown(spec: RunSpec, name: str, size: int) -> str:
    if name in spec.settings:
        return str(size)
    return "-".join(str(width) for width in [*spec.train.hidden_sizes()[:-1], size])


def _quantity(spec: RunSpec, planner: Planner, quantity: str) -> float | None:
    predicted = planner.predict(spec)
    if quantity == "parameters":
        return predicted.parameters["params_output"] if predicted.parameters else None
    if quantity == "bytes":
        return predicted.peak_bytes
    return planner.seconds(spec, predicted)[0]
