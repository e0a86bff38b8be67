"""One run in a process of its own, from its start in the ledger to its end there."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from bench.child import NO_ROOM, python
from bench.experiment import Experiment
from bench.files import is_full
from bench.plan import PlannedRun
from bench.progress import Progress
from bench.store import OVER, RunFolder, Store, described

STOPPED = "stopped by the user"
FULL = "no space left on the disk"


def run_one(run: PlannedRun, store: Store, claim: int, experiment: Experiment, progress: Progress) -> str:
    """Execute one run, whose claim the caller holds; returns its status.

    The child holds the claim too, so that nobody takes up the run while either lives. KeyboardInterrupt and OSError
    for a full disk end the run as ``interrupted`` and are raised again; the latter names the run's folder.
    """
    attempt, started = uuid.uuid4().hex, time.monotonic()
    folder = RunFolder.create(store.runs, run.run_id, run.spec, run.code, run.asked)
    progress.start(run.run_id)
    predicted: dict[str, Any] = {}
    child: subprocess.Popen[str] | None = None
    expired = threading.Event()
    try:
        child = _start(folder, attempt, claim)
        started_with = {"shared": described(run.spec), "asked": run.asked}
        store.ledger.append("started", run.run_id, pid=child.pid, attempt=attempt, **started_with)
        with _limit(child, experiment.time_limit_s, expired):
            for event in _events(child):
                predicted |= {name: event[name] for name in ("predicted_peak_bytes",) if name in event}
                progress.event(run.run_id, event)
            code = _end(child)
        if code == NO_ROOM:
            raise OSError(errno.ENOSPC, FULL, str(folder.path))
        if not (folder.path / "record.json").is_file():
            limit = f"killed at the limit of {experiment.time_limit_s:g} s" if expired.is_set() else None
            failure = ("timeout" if limit else "crashed", limit or _death(code))
            folder.write_record(_failure(run, *failure, attempt, predicted))
        record = json.loads((folder.path / "record.json").read_text())
        status, reason = str(record["status"]), record.get("reason")
        folder.complete()
        if status in OVER:
            store.drop_checkpoint(run.run_id)
        ended = {"status": status, "reason": reason, "seconds": round(time.monotonic() - started, 3)}
        store.ledger.append({"ok": "finished", "interrupted": "interrupted"}.get(status, "failed"), run.run_id, **ended)
    except (KeyboardInterrupt, OSError) as error:
        if isinstance(error, OSError) and not is_full(error):
            raise
        if child is not None:
            _kill_group(child)
            child.wait()
        _write_down(folder, run, store, FULL if isinstance(error, OSError) else STOPPED, attempt)
        raise
    progress.end(run.run_id, status, reason, record["rows"][-1])
    return status


def _start(folder: RunFolder, attempt: str, claim: int) -> subprocess.Popen[str]:
    command, env = python("bench.child", MACHBENCH_ATTEMPT=attempt)
    with (folder.path / "log.txt").open("w") as log:
        return subprocess.Popen(
            [*command, str(folder.path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,  # its own process group, so that all of it can be killed
            pass_fds=(claim,),
            env=env,
        )


def _events(child: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    """JSON lines that the child prints; a line torn by its death is passed over."""
    assert child.stdout is not None
    for line in child.stdout:
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue
        yield event


@contextlib.contextmanager
def _limit(child: subprocess.Popen[str], time_limit_s: float | None, expired: threading.Event) -> Iterator[None]:
    """Kill the child's process group when the time is up; nothing is killed once the block has been left."""

    def expire() -> None:
        expired.set()
        _kill_group(child)

    watch = threading.Timer(time_limit_s or 0, expire)
    watch.daemon = True
    if time_limit_s:
        watch.start()
    try:
        yield
    finally:
        watch.cancel()


def _end(child: subprocess.Popen[str]) -> int:
    """Exit status of the child, after whatever it left running in its process group was killed."""
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # not yet reaped, so that the group is still its own
    _kill_group(child)
    return child.wait()


def _kill_group(child: subprocess.Popen[str]) -> None:
    if child.returncode is None:  # reaped, its number may belong to others
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def _write_down(folder: RunFolder, run: PlannedRun, store: Store, reason: str, attempt: str) -> None:
    """Record and ledger an interruption as far as the disk lets us; without, the open start says the same.

    A run that was complete when it was interrupted is finished.
    """
    try:
        if folder.path.is_dir() and not (folder.path / "record.json").is_file():
            folder.write_record(_failure(run, "interrupted", reason, attempt, {}))
        store.close_books(run.run_id, reason)
    except OSError as error:
        if not is_full(error):
            raise
        shutil.rmtree(folder.path, ignore_errors=True)


def _failure(run: PlannedRun, status: str, reason: str, attempt: str, predicted: Mapping[str, Any]) -> dict[str, Any]:
    shared = described(run.spec)
    return {"status": status, "reason": reason, "shared": shared, "rows": [dict(predicted)], "attempt": attempt}


def _death(code: int) -> str:
    if code == -signal.SIGKILL:
        return "killed by signal 9; the kernel does that when memory runs out"
    return f"killed by signal {-code}" if code < 0 else f"exit status {code} without a record; see log.txt"
