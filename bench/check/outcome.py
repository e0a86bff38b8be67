"""How a check ends: it passes, fails with what was found and expected, does not apply, or the method is unsupported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from bench.common.errors import InputError

PASSED, FAILED, DOES_NOT_APPLY, UNSUPPORTED = "passed", "failed", "not applicable", "unsupported"
S = TypeVar("S")


@dataclass(frozen=True)
class Outcome:
    """``check`` by name, how it ended, and one line on it."""

    check: str
    status: str
    detail: str

    def line(self) -> str:
        """For the terminal."""
        mark = {PASSED: "ok", FAILED: "FAILED", DOES_NOT_APPLY: "-", UNSUPPORTED: "unsupported"}[self.status]
        return f"  {mark:11}  {self.check:20}  {self.detail}"


class Failed(Exception):
    """The method breaks a rule of the interface; the message says what was found and what was expected."""

    def __init__(self, found: object, expected: object) -> None:
        super().__init__(f"found {found}; expected {expected}")


class DoesNotApply(Exception):
    """The method lacks what the check looks at; the message names it."""


def expect(condition: bool, found: object, expected: object) -> None:
    """Failed, unless the condition holds."""
    if not condition:
        raise Failed(found, expected)


def outcome_of(check: Callable[[S], str], subject: S) -> Outcome:
    """Run a check, named by its function. Any other exception comes from the method, and fails the check."""
    name = check.__name__
    try:
        return Outcome(name, PASSED, check(subject))
    except Failed as failed:
        return Outcome(name, FAILED, str(failed))
    except DoesNotApply as reason:
        return Outcome(name, DOES_NOT_APPLY, str(reason))
    except InputError as error:
        return Outcome(name, FAILED, _first_line(error))
    except NotImplementedError as error:
        return Outcome(name, UNSUPPORTED, _first_line(error))
    except Exception as error:
        return Outcome(name, FAILED, f"found {type(error).__name__}: {_first_line(error)}; expected no error")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
