"""Copies of an experiment's inputs that are kept beside its results."""

from __future__ import annotations

from pathlib import Path

from bench.common.errors import InputError
from bench.common.files import write_atomic
from bench.config.paper import KEPT as PAPER
from bench.config.paper import read_paper

DESCRIPTION = "description.txt"
CHOSEN = "chosen.yaml"  # settings chosen by the trials of an experiment, see bench.launch.tune


def keep_description(description: str, folder: Path) -> None:
    """Write the description into a results folder; remove that of an earlier run when there is none."""
    if description:
        write_atomic(folder / DESCRIPTION, description + "\n")
    else:
        (folder / DESCRIPTION).unlink(missing_ok=True)


def read_description(folder: Path) -> str:
    """The kept description; empty where there is none. InputError when it is not text."""
    try:
        return (folder / DESCRIPTION).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise InputError(f"{folder / DESCRIPTION}: not readable as UTF-8 text: {error}") from error


def keep_paper(paper: Path | None, folder: Path) -> None:
    """Copy the file, after checking it, to the results folder; remove that of an earlier run when there is none."""
    if paper is None:
        for path in (folder / PAPER, *(folder / "tables").glob("reproduction.*")):
            path.unlink(missing_ok=True)
        return
    read_paper(paper)
    write_atomic(folder / PAPER, paper.read_bytes())
