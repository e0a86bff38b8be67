"""``--where key=value``: which rows are meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.columns import is_missing
from bench.common.errors import InputError, unknown_name


@dataclass(frozen=True)
class Condition:
    """A column has one of these values, given as text; an empty text is a value that is missing."""

    key: str
    values: tuple[str, ...]

    def holds(self, row: Mapping[str, Any]) -> bool:
        return any(_equal(row.get(self.key), value) for value in self.values)

    def __str__(self) -> str:
        return f"{self.key}={self.values[0]}"


def read_conditions(given: Iterable[str]) -> list[Condition]:
    """From ``key=value`` or ``key=value,value``; a value with commas is also looked for as a whole. InputError for
    anything else."""
    conditions = []
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise InputError(f"--where: found {text!r}; expected key=value, for example method=mach or B=64,256")
        conditions.append(Condition(key.strip(), tuple(dict.fromkeys([value, *value.split(",")]))))
    return conditions


def check_conditions(conditions: Sequence[Condition], known: Iterable[str]) -> None:
    """InputError for a key that is no column, with the nearest one."""
    names = list(known)
    for condition in conditions:
        if condition.key not in names:
            raise unknown_name("column", condition.key, names, "--where")


def hold(conditions: Sequence[Condition], row: Mapping[str, Any]) -> bool:
    """Whether all conditions hold for a row."""
    return all(condition.holds(row) for condition in conditions)


def _equal(found: Any, text: str) -> bool:
    if is_missing(found):
        return not text
    if str(found) == text or (isinstance(found, bool) and str(found).lower() == text.lower()):
        return True
    try:
        return float(found) == float(text)
    except (TypeError, ValueError):
        return False
