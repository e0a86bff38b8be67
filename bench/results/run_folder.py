"""The folder of one run: written under a hidden name, completed by one rename."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.common.errors import DataError
from bench.common.files import sync, write_atomic
from bench.config.spec import RunSpec
from bench.results.record import RunRecord

if TYPE_CHECKING:  # the launching process makes folders, but no predictions
    from bench.results.predictions import RankedLabels

CHECKPOINTS = ".checkpoints"  # in an experiment's folder: a folder for each run that can be gone on with


class RunFolder:
    """The folder of one run while it is written: a hidden sibling of the folder that it becomes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(
        cls, runs: Path, run_id: str, spec: RunSpec, code: str = "", question: str = "", process: str | None = None
    ) -> RunFolder:
        """A fresh folder under a temporary name, holding spec.json with the hash of the code.

        ``question``: the hash of spec and data (`RunSpec.question`), which goes with it.

        ``process``: its name among those that have a folder of the run at the same time, without dots; default its
        number.
        """
        content = {**json.loads(spec.to_json()), "code": code, "asked": question}
        return cls._create(runs, run_id, json.dumps(content, sort_keys=True, indent=1), process)

    @classmethod
    def create_foreign(cls, runs: Path, run_id: str, origin: Mapping[str, str]) -> RunFolder:
        """A folder for predictions made elsewhere; its spec.json names where they come from."""
        return cls._create(runs, run_id, json.dumps({"foreign": dict(origin)}, indent=1) + "\n")

    @classmethod
    def _create(cls, runs: Path, run_id: str, spec: str, process: str | None = None) -> RunFolder:
        path = runs / f".{run_id}.{process or os.getpid()}.tmp"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        write_atomic(path / "spec.json", spec)
        return cls(path)

    @property
    def run_id(self) -> str:
        return run_id_of(self.path)

    @property
    def checkpoint(self) -> Path:
        """Where the run's checkpoint is kept: outside of this folder, which goes when the run is killed."""
        return self.experiment / CHECKPOINTS / self.run_id

    @property
    def experiment(self) -> Path:
        """The folder of the experiment that the run is of."""
        return self.path.parents[1]

    @property
    def results(self) -> Path:
        """The folder of all experiments."""
        return self.path.parents[2]

    def spec(self) -> RunSpec:
        return RunSpec.from_json((self.path / "spec.json").read_text())

    def code(self) -> str:
        """Hash of the code that is to answer."""
        return str(json.loads((self.path / "spec.json").read_text())["code"])

    def write_curve(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The learning curve so far, one row an epoch."""
        text = io.StringIO()
        writer = csv.DictWriter(
            text, fieldnames=list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows)
        write_atomic(self.path / "curve.csv", text.getvalue())

    def write_predictions(self, predictions: Sequence[RankedLabels]) -> None:
        """topk.npz: ``labels`` int32 [P, N, k], ``scores`` float32 [P, N, k], ``R`` int32 [P] (0: no repetitions),
        ``decoder`` text [P] (empty: the method has one way only)."""
        packed = io.BytesIO()
        np.savez_compressed(
            packed,
            R=np.array([p.R or 0 for p in predictions], dtype=np.int32),
            decoder=np.array([p.decoder or "" for p in predictions]),
            labels=np.stack([p.labels for p in predictions]),
            scores=np.stack([p.scores for p in predictions]),
        )
        write_atomic(self.path / "topk.npz", packed.getvalue())

    def write_record(self, record: RunRecord) -> None:
        """record.json, written last: a folder with a record is complete."""
        write_atomic(self.path / "record.json", json.dumps(record.to_json(), indent=1) + "\n")

    def complete(self) -> Path:
        """Move the folder to its final name.

        An earlier result of the same run gives way, moved aside first; but a failure never replaces a
        success: then the new folder is dropped, and only the ledger records the attempt.
        """
        final = self.path.parent / self.run_id
        if not final.exists():
            self.path.rename(final)
        elif status_of(final) == "ok" and status_of(self.path) != "ok":
            shutil.rmtree(self.path)
        else:
            aside = self.path.parent / f".{self.run_id}.{os.getpid()}.old"
            final.rename(aside)
            self.path.rename(final)
            shutil.rmtree(aside)
        sync(self.path.parent)
        return final


def status_of(folder: Path) -> str | None:
    """The status in a run's record; None where none can be read."""
    return _peek(folder).get("status")


def _peek(folder: Path) -> dict[str, Any]:
    """A record as far as it can be read."""
    try:
        record = json.loads((folder / "record.json").read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def run_id_of(unfinished: Path) -> str:
    """The run that a hidden folder belongs to, from its name .<run_id>.<process>.tmp or .old."""
    return unfinished.name[1:].rsplit(".", 2)[0]


def settle(leftover: Path, attempt: str | None) -> None:
    """A hidden folder whose process is gone: what was complete gets its name, anything unfinished goes.

    Complete is an earlier result that was moved aside, and a record of ``attempt``, the last that the ledger knows.
    """
    final = leftover.parent / run_id_of(leftover)
    if leftover.name.endswith(".old") and not final.exists():
        leftover.rename(final)
    elif leftover.name.endswith(".tmp") and attempt is not None and _peek(leftover).get("attempt") == attempt:
        RunFolder(leftover).complete()
    else:
        shutil.rmtree(leftover, ignore_errors=True)


COLUMNS = ("epoch", "fit_s", "train_loss", "P@1", "repetitions")


def read_curve(path: Path) -> list[dict[str, Any]]:
    """The rows of one ``curve.csv``; P@1 None where not evaluated (a run that never was has no such column),
    repetitions "" or a group such as "0-3".

    Raises DataError naming file and line when a column is missing or a value is no number.
    """
    try:
        with path.open(encoding="utf-8", newline="") as f:
            return list(_curve_rows(path, csv.DictReader(f)))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(path, None, f"no readable text ({error})", "comma-separated values in UTF-8") from None
    except OSError as error:
        raise DataError(path, None, f"no readable file ({error.strerror})", "a file") from None


def _curve_rows(path: Path, reader: csv.DictReader[str]) -> Iterator[dict[str, Any]]:
    absent = [name for name in COLUMNS if name not in (reader.fieldnames or []) and name != "P@1"]
    if absent:
        raise DataError(path, 1, f"no column {absent[0]!r}", f"columns {', '.join(COLUMNS)}")
    for record in reader:
        row: dict[str, Any] = {"repetitions": record["repetitions"] or ""}
        for name in COLUMNS[:-1]:
            try:
                row[name] = float(record[name]) if record.get(name) else None
            except ValueError:
                found = f"{record[name]!r} in column {name!r}"
                raise DataError(path, reader.line_num, found, "a number or nothing") from None
        yield row
