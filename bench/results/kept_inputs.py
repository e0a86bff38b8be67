"""Copies of an experiment's inputs that are kept beside its results."""

from __future__ import annotations

from pathlib import Path

from bench.common.errors import InputError
from bench.common.files import write_atomic
from bench.config.paper import KEPT as PAPER
from bench.config.paper import read_paper

DESCRIPTION = "description.txt"


def keep_description(description: str, folder: Path) -> None:
    """Write it into a results folder; without one, take away what an earlier run left."""
    if description:
        write_atomic(folder / DESCRIPTION, description + "\n")
    else:
        (folder / DESCRIPTION).unlink(missing_ok=True)


def read_description(folder: Path) -> str:
    """What was kept; empty where nothing was. InputError when that is no text."""
    try:
        return (folder / DESCRIPTION).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise InputError(f"{folder / DESCRIPTION}: not readable as UTF-8 text: {error}") from error


def keep_paper(paper: Path | None, folder: Path) -> None:
    """Copy the file, after checking it, to the results folder; without one, take away what an earlier run left."""
    if paper is None:
        for path in (folder / PAPER, *(folder / "tables").glob("reproduction.*")):
            path.unlink(missing_ok=True)
        return
    read_paper(paper)
    write_atomic(folder / PAPER, paper.read_bytes())


CHOSEN = "chosen.yaml"
