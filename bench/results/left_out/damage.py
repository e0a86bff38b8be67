"""Run folders that cannot be read: what is broken, and what a user can do. Other runs go on without them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.columns import NEVER_EMPTY, STATUS_WORDS, is_missing, odd_values
from bench.common.errors import InputError
from bench.results.ledger import Ledger
from bench.results.record import RunRecord, read_record
from bench.results.run_folder import read_curve

QUARANTINE = "quarantine.json"  # in a run's folder: its result is withdrawn, and why
NAMED = 5  # damaged runs that are named one by one


@dataclass(frozen=True)
class Damage:
    """What is broken in a run's folder. ``lost``: its result cannot be used; otherwise its rows stay in the table."""

    run_id: str
    reason: str
    lost: bool


def read_run(folder: Path) -> RunRecord | None:
    """The record in a run's folder; None where there is none.

    InputError where record.json or spec.json cannot be read, the record is that of another run, or a row with a result
    has a value that its column cannot have.
    """
    path = folder / "record.json"
    try:
        record = read_record(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if record.run_id != folder.name:
        raise InputError(f"{path}, key run_id: found {record.run_id!r}; expected {folder.name!r}, as its folder")
    _check_spec(folder / "spec.json")
    for row in record.rows("experiment"):
        _check_row(path, row)
    return record


def _check_spec(path: Path) -> None:
    """InputError for a spec that is there and is neither that of a run nor that of predictions made elsewhere."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable spec: {error}") from None
    if not isinstance(content, dict) or not ("foreign" in content or {"method", "train", "dataset"} <= set(content)):
        raise InputError(f"{path}: not a readable spec: expected keys method, train and dataset")


def _check_row(path: Path, row: Mapping[str, Any]) -> None:
    if row["status"] not in STATUS_WORDS:
        raise InputError(f"{path}, key status: found {row['status']!r}; expected one of {', '.join(STATUS_WORDS)}")
    for name in NEVER_EMPTY:
        if is_missing(row.get(name)):
            raise InputError(f"{path}, key {name}: found nothing; expected a value")
    for name, words in odd_values(row).items() if row["status"] == "ok" else ():
        raise InputError(f"{path}, key {name}: {words}")


def read_quarantine(folder: Path) -> str | None:
    """Why the result of a run is withdrawn; None where it is not. InputError when the mark cannot be read."""
    path = folder / QUARANTINE
    if not path.is_file():
        return None
    try:
        return str(json.loads(path.read_text())["reason"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a readable mark of quarantine: {error}") from error


def damage(folder: Path) -> Damage | None:
    """What is broken in the folder of a run; None where all can be read. Predictions are not read to their end."""
    try:
        record = read_run(folder)
        if record is None:
            missing = (folder / "spec.json").exists()
            return Damage(folder.name, f"{folder}: found no record.json", lost=True) if missing else None
        read_quarantine(folder)
    except InputError as error:
        return Damage(folder.name, str(error), lost=True)
    predictions, curve = folder / "topk.npz", folder / "curve.csv"
    try:
        if predictions.is_file() and not zipfile.is_zipfile(predictions):
            raise InputError(f"{predictions}: not readable predictions: the file is broken or cut")
        if curve.is_file():
            read_curve(curve)
    except InputError as error:
        return Damage(folder.name, str(error), lost=False)
    return None


def damaged(runs: Path) -> Iterator[Damage]:
    """The broken ones of the run folders in ``runs``, by run id."""
    for folder in sorted(runs.glob("[!.]*")):
        found = damage(folder)
        if found is not None:
            yield found


def lost_runs(runs: Path) -> set[str]:
    """Ids of the runs whose result cannot be used."""
    return {found.run_id for found in damaged(runs) if found.lost}


def damage_lines(root: Path) -> list[str]:
    """What a command says of the damage in an experiment's results: a line per run with the way out, how many there
    are, and lines of the ledger that are passed over. Nothing where all can be read."""
    found = list(damaged(root / "runs"))
    elsewhere = "" if str(root.parent) == "results" else f" --results {root.parent}"
    lines = [f"unreadable: {one.reason}; {_ways_out(root.name, one, elsewhere)}" for one in found[:NAMED]]
    if found:
        lines.append(
            f"{len(found)} run{' is' if len(found) == 1 else 's are'} unreadable; `machbench status` lists all"
        )
    ledger = Ledger(root / "ledger.jsonl")
    if broken := ledger.broken_lines():
        numbers = ", ".join(map(str, broken[:NAMED])) + (", …" if len(broken) > NAMED else "")
        lines.append(f"{ledger.path}: passed over what cannot be read in lines {numbers}; results are in runs/")
    return lines


def _ways_out(experiment: str, one: Damage, options: str) -> str:
    if QUARANTINE in one.reason:
        return f"`machbench quarantine {experiment} {one.run_id} --lift{options}` takes the mark away"
    forget = f"`machbench forget {experiment} --where run_id={one.run_id}{options}` moves it to the trash"
    if one.lost:
        return f"`machbench run` repeats it if it is still wanted, {forget}"
    return f"its rows stay in the table; {forget}"
