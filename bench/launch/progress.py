"""The progress of runs: a bar with an ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from bench.process.events import EpochDone, Event, Note, PhaseStarted
from bench.results.record import RunRecord


class Progress:
    """Follows an experiment's runs by their events."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bars: Bars | None = None
        self._started = time.monotonic()
        self._todo = self._done = 0
        self._spent = 0.0
        self._phase: str | None = None
        if console.is_terminal:
            self._bars = Bars(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(elapsed_when_finished=True),
                console=console,
                transient=True,
            )

    def __enter__(self) -> Progress:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars:
            self._bars.stop()

    def note(self, text: str) -> None:
        self.console.print(escape(text), highlight=False, soft_wrap=True)

    def plan(self, n_runs: int, n_todo: int) -> None:
        self._todo = n_todo
        self.note(f"{n_runs} runs: {n_runs - n_todo} done before, {n_todo} to do")
        if self._bars:
            self._all = self._bars.add_task("all runs", total=n_todo)

    def start(self, run_id: str) -> None:
        self._started, self._phase = time.monotonic(), None
        if self._bars:
            self._bar = self._bars.add_task(escape(run_id), total=1.0)
        else:
            self.note(f"[{self._done + 1}/{self._todo}] {run_id}")

    def event(self, run_id: str, event: Event) -> None:
        """An event of the process that executes the run."""
        match event:
            case Note(text):
                self.note(f"    {run_id}: {text}")
            case EpochDone():
                self._epoch(run_id, event)
            case PhaseStarted(phase, done):
                self._show(run_id, phase, done)

    def _epoch(self, run_id: str, event: EpochDone) -> None:
        if self._bars or not event.done:
            self._show(run_id, "fit", event.done)
            return
        self._phase = "fit"
        elapsed = time.monotonic() - self._started
        quality = f", validation P@1 {100 * event.quality['P@1']:.2f} %" if "P@1" in event.quality else ""
        repetitions = f", repetitions {event.repetitions}" if event.repetitions else ""
        self.note(
            f"    epoch {event.epoch}{repetitions}: loss {event.train_loss:.4f}{quality}, "
            f"fit {event.fit_s:.1f} s, ETA {elapsed * (1 - event.done) / event.done:.0f} s"
        )

    def _show(self, run_id: str, phase: str, done: float | None) -> None:
        if self._bars:
            self._bars.update(self._bar, description=f"{escape(run_id)} · {phase}", completed=done)
        elif phase != self._phase:
            self.note(f"    {phase}")
        self._phase = phase

    def elsewhere(self, run_id: str, status: str) -> None:
        """A run of the plan that another process has executed in the meantime."""
        self._todo -= 1
        if self._bars:
            self._bars.update(self._all, total=self._todo)
        self.note(f"{run_id}: {status}, executed by another machbench")

    def ended_on(self, run_id: str, host: str, status: str | None, outcome: str, seconds: float) -> None:
        """A run that another process has executed for this one, on a machine of that name."""
        self._done += 1
        if self._bars:
            self._bars.advance(self._all)
        where = f" on {host}" if host else ""
        self.note(f"[{self._done}/{self._todo}] {run_id}: {status or 'left'}, {outcome}, {seconds:.1f} s{where}")

    def end(self, run_id: str, record: RunRecord) -> None:
        """A run has ended with this record."""
        elapsed = time.monotonic() - self._started
        self._spent += elapsed
        self._done += 1
        left = self._spent / self._done * (self._todo - self._done)
        if self._bars:
            self._bars.remove_task(self._bar)
            self._bars.advance(self._all)
        rest = f", about {left:.0f} s left" if self._done < self._todo else ""
        ended = f"{run_id}: {record.status}, {outcome_of(record)}, {elapsed:.1f} s"
        self.note(f"[{self._done}/{self._todo}] {ended}{rest}")


def outcome_of(record: RunRecord) -> str:
    """The P@1 of a run, or why it has none, in a few words."""
    p1 = record.own.quality.get("P@1")
    return (record.reason or "") if p1 is None else f"P@1 {100 * p1:.2f} %"
