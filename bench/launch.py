"""Runs an experiment: a process for each run, a ledger entry before and after, and the table at the end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench import environment
from bench.experiment import Experiment
from bench.paper import keep_paper
from bench.plan import PlannedRun, plan
from bench.progress import Progress
from bench.store import OVER, RunFolder, Store, described
from bench.tune import write_chosen

RETRY = {
    "oom": {"oom_host", "oom_device"},
    "timeout": {"timeout"},
    "failed": {"crashed", "diverged"},
    "all": {"oom_host", "oom_device", "timeout", "crashed", "diverged", "unsupported"},
}


def run_experiment(
    experiment: Experiment, results: Path, progress: Progress, retry: str | None = None, force: bool = False
) -> int:
    """Run what is missing; returns 0 when all runs of the experiment are done, 1 when some run failed.

    Finished runs are skipped, failed ones only repeated with ``retry``, interrupted ones always, withdrawn ones never;
    ``force`` repeats all and from the beginning, where the others go on from their checkpoint if they have one.
    Whatever happens to a run, those finished before it stay as they are. KeyboardInterrupt stops the run in progress,
    writes it down and is raised again. Where the experiment tunes, the chosen settings are written last.
    """
    store = Store(results / experiment.name)
    with store.lock():
        for run_id in store.sweep_up():
            progress.note(f"{run_id}: was interrupted, will run again if it is still wanted")
        environment.write(results)
        keep_paper(experiment.paper, store.root)
        runs = plan(experiment, store, lambda name: progress.note(f"building dataset {name} (once)"))
        again = RETRY[retry] if retry else set()
        withdrawn = {r.run_id: reason for r in runs if (reason := store.quarantined(r.run_id)) is not None}
        if not force:
            for run_id, reason in withdrawn.items():
                progress.note(f"{run_id}: in quarantine ({reason}); left as it is, --force runs it again")
        wanted = {None, "interrupted"} | again
        todo = [r for r in runs if force or (r.status in wanted and r.run_id not in withdrawn)]
        for run in runs:
            event = "planned" if run in todo else "skipped"
            store.ledger.append(event, run.run_id, reason=None if run in todo else f"already {run.status}")
        progress.plan(len(runs), len(todo))
        statuses = {run.run_id: run.status for run in runs}
        try:
            for run in todo:
                if force:
                    store.drop_checkpoint(run.run_id)
                statuses[run.run_id] = _run_one(run, store, experiment.time_limit_s, progress)
        finally:
            store.write_table()
        write_chosen(experiment, runs, store)
    return 0 if all(status == "ok" for status in statuses.values()) else 1


def _run_one(run: PlannedRun, store: Store, time_limit_s: float | None, progress: Progress) -> str:
    """Execute one run in a process of its own; returns its status."""
    attempt = uuid.uuid4().hex
    folder = RunFolder.create(store.runs, run.run_id, run.spec)
    progress.start(run.run_id)
    with (folder.path / "log.txt").open("w") as log:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "bench.execute", str(folder.path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,  # its own process group, so that all of it can be killed
            env=environment.THREADS | os.environ | {"MACHBENCH_ATTEMPT": attempt, "PYTHONPATH": _python_path()},
        )
    store.ledger.append("started", run.run_id, pid=child.pid, attempt=attempt, shared=described(run.spec))
    expired = threading.Event()
    watch = threading.Timer(time_limit_s or 0, _expire, (child, expired))
    watch.daemon = True
    if time_limit_s:
        watch.start()
    started = time.monotonic()
    predicted: dict[str, Any] = {}
    try:
        for event in _events(child):
            predicted |= {name: event[name] for name in ("predicted_peak_bytes",) if name in event}
            progress.event(run.run_id, event)
        code = child.wait()
    except KeyboardInterrupt:
        _kill(child)
        _record_failure(folder, run, "interrupted", "stopped by the user", attempt)
        folder.complete()
        store.ledger.append("interrupted", run.run_id, reason="stopped by the user")
        raise
    finally:
        watch.cancel()
    if not (folder.path / "record.json").is_file():
        limit = f"killed at the limit of {time_limit_s:g} s" if expired.is_set() else None
        _record_failure(folder, run, "timeout" if limit else "crashed", limit or _death(code), attempt, predicted)
    record = json.loads((folder.path / "record.json").read_text())
    status: str = record["status"]
    folder.complete()
    if status in OVER:
        store.drop_checkpoint(run.run_id)
    ended = {
        "status": status,
        "reason": record.get("reason"),
        "seconds": round(time.monotonic() - started, 3),
    }
    store.ledger.append("finished" if status == "ok" else "failed", run.run_id, **ended)
    progress.end(run.run_id, status, record.get("reason"), record["rows"][-1])
    return status


def _events(child: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    """JSON lines that the child prints; a line torn by its death is passed over."""
    assert child.stdout is not None
    for line in child.stdout:
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue
        yield event


def _record_failure(
    folder: RunFolder,
    run: PlannedRun,
    status: str,
    reason: str,
    attempt: str,
    predicted: Mapping[str, Any] | None = None,
) -> None:
    record = {
        "status": status,
        "reason": reason,
        "shared": described(run.spec),
        "rows": [dict(predicted or {})],
        "attempt": attempt,
    }
    folder.write_record(record)


def _expire(child: subprocess.Popen[str], expired: threading.Event) -> None:
    expired.set()
    _kill(child)


def _kill(child: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _death(code: int) -> str:
    if code == -signal.SIGKILL:
        return "killed by signal 9; the kernel does that when memory runs out"
    return f"killed by signal {-code}" if code < 0 else f"exit status {code} without a record; see log.txt"


def _python_path() -> str:
    """What the parent was given, and this package's own place, so that an uninstalled checkout works too."""
    return os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(Path(__file__).resolve().parents[1])]))
