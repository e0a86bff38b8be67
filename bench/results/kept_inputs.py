"""Copies of an experiment's inputs that are kept beside its results."""

from __future__ import annotations

import json
from pathlib import Path

from bench.common.errors import InputError
from bench.common.files import read_json_object, sha256_of_file, write_atomic
from bench.config.paper import KEPT as PAPER
from bench.config.paper import read_paper

DESCRIPTION = "description.txt"
SOURCE = "source.json"  # the experiment's file: where it is, and the sha256 of its content
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


def check_source(file: Path, folder: Path) -> None:
    """InputError where a results folder is that of another file of the same name, which is still there and differs.

    A file that was moved, changed in place or copied unchanged is the same experiment.
    """
    earlier = _kept_source(folder)
    if earlier is None:
        return
    path, digest = earlier
    if path == file.resolve() or not path.is_file() or digest == sha256_of_file(file):
        return
    raise InputError(
        f"{folder}: found results of {path}; expected those of {file.resolve()}: two experiments have one name. "
        f"Give one of them a name by its key `name:`, or choose another folder with --results"
    )


def keep_source(file: Path, folder: Path) -> str:
    """Note the experiment's file in its results folder; returns a note where another file, which is gone, was before.

    InputError as `check_source`.
    """
    check_source(file, folder)
    earlier, now = _kept_source(folder), (file.resolve(), sha256_of_file(file))
    if earlier != now:
        content = {"file": str(now[0]), "sha256": now[1]}
        write_atomic(folder / SOURCE, json.dumps(content, indent=1) + "\n")
    if earlier is None or earlier[0] == now[0] or earlier[1] == now[1]:
        return ""
    return f"{folder}: these results are of {earlier[0]}, which is gone; {now[0]} has its place now"


def kept_source(folder: Path) -> Path | None:
    """The file with which an experiment was run last; None where it is not known or gone."""
    found = _kept_source(folder)
    return found[0] if found is not None and found[0].is_file() else None


def _kept_source(folder: Path) -> tuple[Path, str] | None:
    try:
        content = read_json_object(folder / SOURCE)
        return Path(str(content["file"])), str(content["sha256"])
    except (OSError, InputError, KeyError):  # of an earlier version, or damaged: written again by the next run
        return None
