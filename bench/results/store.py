"""What runs leave on disk: a folder for each run, an append-only ledger, and the table made of them.

Several processes, also of several machines on a shared folder, may work on one experiment: see docs/running.md.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from bench.common.errors import InputError
from bench.common.locks import held, hold
from bench.results.answers import Answer, read_answer, replaced, replacements
from bench.results.ledger import ENDS, Ledger, end_of
from bench.results.left_out.damage import read_quarantine, read_run
from bench.results.record import RunRecord
from bench.results.run_folder import CHECKPOINTS, run_id_of, settle, status_of

REPETITIONS, WEIGHTS = ".repetitions", "weights"  # beside the experiments: trained repetitions that are kept
OVER = ("ok", "diverged", "unsupported")  # statuses after which there is nothing to go on with
UNSETTLED = ("interrupted", "skipped_by_plan")  # statuses of runs that the next command takes up again
SHOWN_CODE = 8  # hex digits of a code's hash in table.csv


class Store:
    """results/<experiment>/: run folders, ledger, table."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.runs = root / "runs"
        self.ledger = Ledger(root / "ledger.jsonl")

    @property
    def results(self) -> Path:
        """The folder of all experiments."""
        return self.root.parent

    def record(self, run_id: str) -> RunRecord | None:
        """A run's record; None when there is none that can be read: `bench.results.left_out.damage` says why."""
        try:
            return read_run(self.runs / run_id)
        except InputError:
            return None

    def records(self) -> Iterator[RunRecord]:
        """Records of all complete runs that can be read, by run id."""
        for folder in sorted(self.runs.glob("[!.]*")):
            record = self.record(folder.name)
            if record is not None:
                yield record

    def quarantined(self, run_id: str) -> str | None:
        """Why a run's result is withdrawn; None when it is not. A mark that cannot be read withdraws it too."""
        try:
            return read_quarantine(self.runs / run_id)
        except InputError as error:
            return str(error)

    @contextmanager
    def lock(self, shared: bool = False) -> Iterator[None]:
        """Keep the experiment: shared by those that run it, alone for what rewrites results.

        InputError when another process keeps it from that.
        """
        path = self.root / ".lock"
        with hold(path, shared) as mine:
            if mine is None:
                doing = "rewriting results of" if shared else "running"
                raise InputError(f"another machbench is {doing} this experiment (it holds {path})")
            yield

    def run_lock(self, run_id: str) -> AbstractContextManager[int | None]:
        """Hold the lock of one run, so that no other process executes it; None when another process holds it."""
        return hold(self.root / ".locks" / run_id)

    def run_locked(self, run_id: str) -> bool:
        """Whether a living process, here or on another machine, holds the lock of the run."""
        return held(self.root / ".locks" / run_id)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write what is made of all runs (table, tables, figures, report) one process after the other."""
        with hold(self.root / ".writing", wait=True):
            yield

    def sweep_up(self) -> list[str]:
        """Close the books on runs that were killed, and drop what they left unfinished; returns their ids.

        Runs that a living process holds are left alone, and so are checkpoints of runs without a result.
        """
        interrupted = []
        for run_id in sorted({*self.ledger.open_starts(), *(run_id_of(path) for path in self.runs.glob(".*"))}):
            with self.run_lock(run_id) as mine:
                if mine is not None and self.close_books(run_id):
                    interrupted.append(run_id)
        with self.writing():
            for folder in (self.root, self.root / "tables", self.root / "figures"):
                for aside in folder.glob(".*.tmp"):
                    aside.unlink(missing_ok=True)
        for kept in (self.root / CHECKPOINTS).glob("*"):
            if status_of(self.runs / kept.name) in OVER and not self.run_locked(kept.name):
                self.drop_checkpoint(kept.name)
        return interrupted

    def drop_checkpoint(self, run_id: str) -> None:
        """Forget how far a run has come; does nothing when nothing is known of it."""
        shutil.rmtree(self.root / CHECKPOINTS / run_id, ignore_errors=True)

    def checkpoints_by_question(self) -> dict[str, list[str]]:
        """Runs that left a checkpoint, by their spec and data (`RunSpec.question`), as far as the ledger has it."""
        started = {entry["run_id"]: entry.get("asked") for entry in self.ledger.events() if entry["event"] == "started"}
        found: dict[str, list[str]] = {}
        for run_id, question in started.items():
            if question and (self.root / CHECKPOINTS / run_id).is_dir():
                found.setdefault(question, []).append(run_id)
        return found

    def close_books(self, run_id: str, reason: str = "started, but neither finished nor failed") -> bool:
        """Settle what a killed process left of a run, whose lock the caller holds. Whether it was interrupted.

        A run that was complete but for the last rename, or for the ledger, is finished: it is not run again.
        """
        start = self.ledger.open_starts().get(run_id)
        attempt = start["attempt"] if start and "attempt" in start else None
        for leftover in sorted(self.runs.glob(".*")):  # .old before .tmp
            if run_id_of(leftover) == run_id:
                settle(leftover, attempt)
        if start is None:
            return False
        record = self.record(run_id)
        if record is not None and record.attempt == attempt and record.status != "interrupted":
            self.ledger.append(end_of(record.status), run_id, status=record.status)
            return False
        kept = {name: start[name] for name in ("shared", "asked", "request") if name in start}
        self.ledger.append("interrupted", run_id, reason=reason, **kept)
        return True

    def answer(self, record: RunRecord) -> Answer:
        """A record with what it is an answer to."""
        return read_answer(record, self.runs / record.run_id)

    def answers(self) -> list[Answer]:
        """All results in the order of the ledger."""
        events = self.ledger.events()
        position = {run_id: at for at, run_id in enumerate(dict.fromkeys(entry["run_id"] for entry in events))}
        records = sorted(self.records(), key=lambda record: position.get(record.run_id, len(position)))
        return [self.answer(record) for record in records]

    def rows(self) -> list[dict[str, Any]]:
        """Rows of table.csv from all records but withdrawn and replaced ones, in the order of the ledger.

        A result is replaced by a later result of the same spec, also of other code or on other data.
        """
        events = list(self.ledger.events())
        answers = self.answers()
        gone = replaced(answers, events)
        because = replacements(answers, gone)
        rows = []
        for answer in answers:
            record = answer.record
            if record.run_id in gone or self.quarantined(record.run_id) is not None:
                continue
            further = {"code": answer.code[:SHOWN_CODE] or None, **because.get(record.run_id, {})}
            rows += [row | further for row in record.rows(self.root.name)]
        return rows + list(_open_rows(self.root.name, events, answers))


def _open_rows(
    experiment: str, events: Sequence[Mapping[str, Any]], answers: Sequence[Answer]
) -> Iterator[dict[str, Any]]:
    """Rows for runs that were killed and have no record, unless another run answers the same request."""
    recorded = {answer.record.run_id for answer in answers}
    ended = [answer for answer in answers if answer.record.status != "interrupted"]
    answered = {known for answer in ended for known in (answer.request, answer.question) if known is not None}
    last = {entry["run_id"]: entry for entry in events if entry["event"] in (*ENDS, "started", "forgotten")}
    for run_id, entry in last.items():
        if run_id in recorded or entry["event"] != "interrupted":
            continue
        if not {entry.get("request"), entry.get("asked")} & answered:
            shared = {**entry.get("shared", {}), "experiment": experiment, "run_id": run_id}
            yield shared | {"status": "interrupted", "reason": entry.get("reason")}
