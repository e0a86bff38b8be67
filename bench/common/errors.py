"""Errors that a user can cause and correct: they end a command with exit status 2 and no traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class InputError(ValueError):
    """Something from outside (file, config, argument) is wrong; the message says what, where and what was expected."""


class DataError(InputError):
    """A data file is malformed. ``path`` and ``line`` (1-based) are kept for callers."""

    def __init__(self, path: Path | str, line: int | None, found: str, expected: str) -> None:
        self.path, self.line, self.found, self.expected = str(path), line, found, expected
        where = f"{path}, line {line}" if line is not None else str(path)
        super().__init__(f"{where}: found {found}; expected {expected}")


def unknown_name(kind: str, name: str, known: Iterable[str], where: str = "") -> InputError:
    """The error for a misspelt name, with the nearest known one ("did you mean", as in lm-evaluation-harness)."""
    choices = sorted(known)
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return InputError(f"unknown {kind} {name!r}{f' in {where}' if where else ''}{hint} Known: {', '.join(choices)}")
