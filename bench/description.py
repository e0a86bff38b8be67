"""What an experiment says of itself, kept beside its results, so that the report can say what was asked."""

from __future__ import annotations

from pathlib import Path

from bench.errors import InputError
from bench.files import write_atomic

KEPT = "description.txt"


def keep_description(description: str, folder: Path) -> None:
    """Write it into a results folder; without one, take away what an earlier run left."""
    if description:
        write_atomic(folder / KEPT, description + "\n")
    else:
        (folder / KEPT).unlink(missing_ok=True)


def read_description(folder: Path) -> str:
    """What was kept; empty where nothing was. InputError when that is no text."""
    try:
        return (folder / KEPT).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise InputError(f"{folder / KEPT}: not readable as UTF-8 text: {error}") from error
