"""What runs leave on disk: a folder for each run, completed by one rename, and an append-only ledger beside them."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import environment
from bench.errors import InputError
from bench.files import write_atomic
from bench.frame import rows_to_frame, write_table
from bench.predict import Prediction
from bench.spec import RunSpec

RECORD_VERSION = 1
CHECKPOINTS = ".checkpoints"  # in an experiment's folder: a folder for each run that can be gone on with
OVER = ("ok", "diverged", "unsupported")  # statuses after which there is nothing to go on with
QUARANTINE = "quarantine.json"  # in a run's folder: its result is withdrawn, and why
ENDS = ("finished", "failed", "interrupted", "skipped")


class RunFolder:
    """The folder of one run while it is written: a hidden sibling of its final place."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, runs: Path, run_id: str, spec: RunSpec) -> RunFolder:
        """A fresh folder under a temporary name, holding spec.json."""
        return cls._create(runs, run_id, spec.to_json())

    @classmethod
    def create_foreign(cls, runs: Path, run_id: str, origin: Mapping[str, str]) -> RunFolder:
        """A folder for predictions made elsewhere; its spec.json names where they come from."""
        return cls._create(runs, run_id, json.dumps({"foreign": dict(origin)}, indent=1) + "\n")

    @classmethod
    def _create(cls, runs: Path, run_id: str, spec: str) -> RunFolder:
        path = runs / f".{run_id}.{os.getpid()}.tmp"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        write_atomic(path / "spec.json", spec)
        return cls(path)

    @property
    def run_id(self) -> str:
        return self.path.name[1:].rsplit(".", 2)[0]

    @property
    def checkpoint(self) -> Path:
        """Where the run's checkpoint is kept: outside of this folder, which goes when the run is killed."""
        return self.path.parents[1] / CHECKPOINTS / self.run_id

    def spec(self) -> RunSpec:
        return RunSpec.from_json((self.path / "spec.json").read_text())

    def write_curve(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The learning curve so far, one row an epoch."""
        text = io.StringIO()
        writer = csv.DictWriter(
            text, fieldnames=list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows)
        write_atomic(self.path / "curve.csv", text.getvalue())

    def write_predictions(self, predictions: Sequence[Prediction]) -> None:
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

    def write_record(self, record: Mapping[str, Any]) -> None:
        """record.json, written last: a folder with a record is complete."""
        content = {"version": RECORD_VERSION, "run_id": self.run_id, **record}
        write_atomic(self.path / "record.json", json.dumps(content, indent=1) + "\n")

    def complete(self) -> Path:
        """Move the folder to its final name.

        An earlier result of the same run gives way, moved aside first; but a failure never takes the place of a
        success: then the new folder is dropped, and the ledger alone tells of the attempt.
        """
        final = self.path.parent / self.run_id
        if not final.exists():
            self.path.rename(final)
        elif _status(final) == "ok" and _status(self.path) != "ok":
            shutil.rmtree(self.path)
        else:
            aside = self.path.parent / f".{self.run_id}.{os.getpid()}.old"
            final.rename(aside)
            self.path.rename(final)
            shutil.rmtree(aside)
        _sync_folder(self.path.parent)
        return final


@dataclass(frozen=True)
class Ledger:
    """Append-only history of an experiment. A start without an end is a run that was killed."""

    path: Path

    def append(self, event: str, run_id: str, **details: Any) -> None:
        """One line, one write, flushed to disk."""
        entry = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "event": event, "run_id": run_id}
        line = json.dumps({**entry, "host": socket.gethostname(), **details}) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            # A line torn by a crash or a full disk must not swallow this one.
            torn = os.fstat(descriptor).st_size > 0 and not self.path.read_bytes().endswith(b"\n")
            os.write(descriptor, (("\n" if torn else "") + line).encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def events(self) -> Iterator[dict[str, Any]]:
        """All entries that can be read, oldest first; torn lines are passed over."""
        if not self.path.is_file():
            return
        for line in self.path.read_text(errors="replace").splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(entry, dict) and "event" in entry and "run_id" in entry:
                yield entry

    def open_starts(self) -> dict[str, dict[str, Any]]:
        """Runs whose last word is ``started``: the entry of that start by run id."""
        starts: dict[str, dict[str, Any]] = {}
        for entry in self.events():
            if entry["event"] == "started":
                starts[entry["run_id"]] = entry
            elif entry["event"] in ENDS:
                starts.pop(entry["run_id"], None)
        return starts


class Store:
    """results/<experiment>/: run folders, ledger, table."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.runs = root / "runs"
        self.ledger = Ledger(root / "ledger.jsonl")

    def record(self, run_id: str) -> dict[str, Any] | None:
        """A run's record; None when there is none. InputError when it cannot be read."""
        path = self.runs / run_id / "record.json"
        if not path.is_file():
            return None
        try:
            record = json.loads(path.read_text())
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: not a readable record: {error}") from error
        if not isinstance(record, dict) or record.get("version") != RECORD_VERSION or "status" not in record:
            found = record.get("version") if isinstance(record, dict) else type(record).__name__
            raise InputError(f"{path}, key version: found {found!r}; expected {RECORD_VERSION}")
        return record

    def records(self) -> Iterator[dict[str, Any]]:
        """Records of all complete runs, by run id."""
        for folder in sorted(self.runs.glob("[!.]*")):
            record = self.record(folder.name)
            if record is not None:
                yield record

    def quarantined(self, run_id: str) -> str | None:
        """Why a run's result is withdrawn; None when it is not. InputError when the mark cannot be read."""
        path = self.runs / run_id / QUARANTINE
        if not path.is_file():
            return None
        try:
            return str(json.loads(path.read_text())["reason"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not a readable mark of quarantine: {error}") from error

    def drop_checkpoint(self, run_id: str) -> None:
        """Forget how far a run has come; does nothing when nothing is known of it."""
        shutil.rmtree(self.root / CHECKPOINTS / run_id, ignore_errors=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the experiment for one running process; InputError when another holds it."""
        import fcntl

        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("a") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InputError(f"another machbench is running this experiment (it holds {handle.name})") from error
            yield

    def sweep_up(self) -> list[str]:
        """Close the books on runs that were killed: ledger them as interrupted, drop their unfinished folders.

        Call only while holding the lock. Returns the run ids.
        """
        interrupted = []
        for run_id, start in self.ledger.open_starts().items():
            record = self.record(run_id)
            if record is not None and record.get("attempt") == start.get("attempt"):
                self.ledger.append("finished", run_id)  # killed between the rename and the ledger
                if record["status"] in OVER:
                    self.drop_checkpoint(run_id)
                continue
            reason = "started, but neither finished nor failed"
            self.ledger.append("interrupted", run_id, reason=reason, shared=start.get("shared", {}))
            interrupted.append(run_id)
        for leftover in self.runs.glob(".*"):
            _restore_or_drop(leftover)
        return interrupted

    def write_table(self) -> Path:
        """table.csv from all records but withdrawn ones, in the order in which the ledger first names the runs."""
        place = {run_id: at for at, run_id in enumerate(dict.fromkeys(e["run_id"] for e in self.ledger.events()))}
        records = sorted(self.records(), key=lambda record: place.get(record["run_id"], len(place)))
        valid = [record for record in records if self.quarantined(record["run_id"]) is None]
        rows = [row for record in valid for row in record_rows(self.root.name, record)]
        rows += self._open_rows({record["run_id"] for record in records})
        path = self.root / "table.csv"
        write_table(rows_to_frame(rows), path)
        return path

    def _open_rows(self, recorded: set[str]) -> Iterator[dict[str, Any]]:
        """Rows for runs that have no record because they were killed."""
        last = {entry["run_id"]: entry for entry in self.ledger.events() if entry["event"] in (*ENDS, "started")}
        for run_id, entry in last.items():
            if run_id not in recorded and entry["event"] == "interrupted":
                shared = {**entry.get("shared", {}), "experiment": self.root.name, "run_id": run_id}
                yield shared | {"status": "interrupted", "reason": entry.get("reason")}


def described(spec: RunSpec, device: str | None = None) -> dict[str, Any]:
    """Identity and settings of a run as columns; known before anything runs, so that failures have them too."""
    return {
        "method": spec.method,
        "dataset": spec.dataset_name,
        "seed": spec.seed,
        "evaluated_on": spec.train.evaluate_on,
        "env_id": environment.env_id(),
        **spec.settings,
        "hidden": spec.train.hidden,
        "epochs": spec.train.epochs,
        "batch_size": spec.train.batch_size,
        "lr": spec.train.lr,
        "decoder": spec.settings.get("estimator"),
        "precision": spec.train.precision,
        "device": device,
        **spec.swept,
    }


def record_rows(experiment: str, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The table rows of a record: one for each evaluation point; all but the last are marked as derived from it.

    The last is the run's own: the largest R, by the first of its decoders.
    """
    identity = {"experiment": experiment, "status": record["status"], "reason": record.get("reason")}
    run_id = record["run_id"]
    rows = []
    for row in record["rows"]:
        own = row is record["rows"][-1]
        other = f"-{row['decoder']}" if row.get("decoder") != record["rows"][-1].get("decoder") else ""
        name = {"run_id": run_id} if own else {"run_id": f"{run_id}@R{row['R']}{other}", "derived_from": run_id}
        rows.append({**identity, **record["shared"], **row, **name})
    return rows


def _status(folder: Path) -> str | None:
    try:
        status = json.loads((folder / "record.json").read_text()).get("status")
    except (OSError, ValueError, AttributeError):
        return None
    return str(status)


def _restore_or_drop(leftover: Path) -> None:
    """An earlier result moved aside by a killed rename goes back; anything unfinished goes."""
    if leftover.name.endswith(".old"):
        final = leftover.parent / leftover.name[1:].rsplit(".", 2)[0]
        if not final.exists():
            leftover.rename(final)
            return
    shutil.rmtree(leftover, ignore_errors=True)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
