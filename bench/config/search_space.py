"""Search spaces of settings, and the trials drawn from them: fixed before the first run, equal on every machine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.common.errors import InputError, unknown_name
from bench.config.spec import derive_seed

RANGES = ("uniform", "log_uniform", "uniform_int", "log_uniform_int")
KINDS = ("choice", *RANGES)
REDRAWS = 1000  # attempts to draw a new trial, until the space counts as exhausted


@dataclass(frozen=True)
class Space:
    """Values that a setting may take: ``choice`` of a list, or a range of numbers that includes both ends.

    ``uniform`` and ``log_uniform`` give numbers rounded to three digits, ``uniform_int`` and ``log_uniform_int``
    whole numbers; the log kinds are uniform in the logarithm.
    """

    kind: str
    values: tuple[Any, ...]

    @classmethod
    def read(cls, value: Mapping[str, Any], where: str) -> Space:
        """From ``{kind: values}``. InputError naming ``where`` for an unknown kind or values that do not fit it."""
        if len(value) != 1:
            raise InputError(f"{where}: found {dict(value)!r}; expected one of {', '.join(KINDS)} and its values")
        ((kind, values),) = value.items()
        if kind not in KINDS:
            raise unknown_name("search space", str(kind), KINDS, where)
        if not isinstance(values, list) or not values:
            raise InputError(f"{where}.{kind}: found {values!r}; expected a list")
        if kind in RANGES:
            whole, lowest = kind.endswith("_int"), 0 if kind.startswith("log") else -math.inf
            numbers = [v for v in values if isinstance(v, int if whole else int | float) and not isinstance(v, bool)]
            if len(numbers) != 2 or len(values) != 2 or not lowest < numbers[0] < numbers[1]:
                what = f"two {'whole ' if whole else ''}numbers{' above 0' if lowest == 0 else ''}"
                raise InputError(f"{where}.{kind}: found {values!r}; expected {what}, the lower first")
        return cls(kind, tuple(values))

    def at(self, u: float) -> Any:
        """The value at quantile ``u`` in [0, 1)."""
        if self.kind == "choice":
            return self.values[int(u * len(self.values))]
        low, high = self.values
        above = high + 1 if self.kind.endswith("_int") else high
        if self.kind.startswith("log"):
            value = math.exp(math.log(low) + u * (math.log(above) - math.log(low)))
        else:
            value = low + u * (above - low)
        rounded = math.floor(value) if self.kind.endswith("_int") else float(f"{value:.3g}")
        return min(max(rounded, low), high)


def draw_trials(
    spaces: Mapping[str, Space], defaults: Mapping[str, Any], n: int, seed: int, axes: Sequence[str]
) -> list[dict[str, Any]]:
    """Settings of ``n`` trials, all different: the defaults, then random ones; fewer when the space has no more.

    A trial depends on the seed, the axes (dataset and method) and its number, never on the result of another or on
    ``n``: trials can run in any order, and more trials later do not change those already run.
    """
    found = [dict(defaults)]
    while len(found) < n:
        for attempt in range(REDRAWS):
            position = ("trial", *axes, str(len(found)), str(attempt))
            drawn = {key: space.at(derive_seed(seed, *position, key) / 2**31) for key, space in spaces.items()}
            if drawn not in found:
                found.append(drawn)
                break
        else:
            break
    return found
