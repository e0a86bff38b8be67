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
from dataclasses import replace
from functools import partial
from typing import Any

from bench.common.child_processes import DISK_FULL, python
from bench.common.files import is_full
from bench.config.experiment import Experiment
from bench.launch.memory_watch import MemoryWatch
from bench.launch.progress import Progress
from bench.plan.plan import PlannedRun
from bench.process.events import RunTrace
from bench.process.failure import death, failure_record
from bench.process.options import RunOptions
from bench.results.ledger import end_of
from bench.results.record import described
from bench.results.run_folder import RunFolder
from bench.results.store import OVER, Store

STOPPED = "stopped by the user"
FULL = "no space left on the disk"


def run_one(
    run: PlannedRun, store: Store, lock: int, experiment: Experiment, progress: Progress, options: RunOptions
) -> str:
    """Execute one run, whose lock (a file descriptor) the caller holds; returns its status.

    The child holds the lock too, so that no other process executes the run while either lives. KeyboardInterrupt and
    OSError for a full disk end the run as ``interrupted`` and are raised again; the latter names the run's folder.
    """
    attempt, started = uuid.uuid4().hex, time.monotonic()
    folder = RunFolder.create(store.runs, run.run_id, run.spec, run.code, run.asked)
    progress.start(run.run_id)
    told = RunTrace()
    child: subprocess.Popen[str] | None = None
    expired = threading.Event()
    try:
        child = _start(folder, replace(options, attempt=attempt).to_env(), lock)
        started_with = {"shared": described(run.spec), "asked": run.asked}
        store.ledger.append("started", run.run_id, pid=child.pid, attempt=attempt, **started_with)
        memory = MemoryWatch(child.pid, experiment.memory_limit_bytes, partial(_kill_group, child))
        with _limit(child, experiment.time_limit_s, expired), memory:
            for event in _events(child):
                told.note(event)
                memory.check(told.row.get("peak_host_bytes"))
                progress.event(run.run_id, event)
            code = _end(child)
        if code == DISK_FULL:
            raise OSError(errno.ENOSPC, FULL, str(folder.path))
        short = memory.reason(code)
        if memory.over or not (folder.path / "record.json").is_file():
            if short:
                failure = ("oom_host", short)
            elif expired.is_set():
                failure = ("timeout", f"killed at the limit of {experiment.time_limit_s:g} s")
            else:
                failure = ("crashed", death(code))
            _write_failure(folder, run, *failure, told, memory.peak, attempt)
        record = json.loads((folder.path / "record.json").read_text())
        status, reason = str(record["status"]), record.get("reason")
        folder.complete()
        if status in OVER:
            store.drop_checkpoint(run.run_id)
        ended = {"status": status, "reason": reason, "seconds": round(time.monotonic() - started, 3)}
        store.ledger.append(end_of(status), run.run_id, **ended)
    except (KeyboardInterrupt, OSError) as error:
        if isinstance(error, OSError) and not is_full(error):
            raise
        if child is not None:
            _kill_group(child)
            child.wait()
        _write_down(folder, run, store, FULL if isinstance(error, OSError) else STOPPED, told, attempt)
        raise
    progress.end(run.run_id, status, reason, record["rows"][-1])
    return status


def _start(folder: RunFolder, given: Mapping[str, str], lock: int) -> subprocess.Popen[str]:
    command, env = python("bench.run", **given)
    with (folder.path / "log.txt").open("w") as log:
        return subprocess.Popen(
            [*command, str(folder.path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,  # its own process group, so that all of it can be killed
            pass_fds=(lock,),
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


def _write_down(folder: RunFolder, run: PlannedRun, store: Store, reason: str, told: RunTrace, attempt: str) -> None:
    """Record and ledger an interruption as far as the disk lets us; without, the open start says the same.

    A run that was complete when it was interrupted is finished.
    """
    try:
        if folder.path.is_dir() and not (folder.path / "record.json").is_file():
            _write_failure(folder, run, "interrupted", reason, told, None, attempt)
        store.close_books(run.run_id, reason)
    except OSError as error:
        if not is_full(error):
            raise
        shutil.rmtree(folder.path, ignore_errors=True)


def _write_failure(
    folder: RunFolder, run: PlannedRun, status: str, reason: str, told: RunTrace, peak: int | None, attempt: str
) -> None:
    record = failure_record(run.spec, status, reason, told, peak, folder.path / "log.txt")
    folder.write_record(record | {"attempt": attempt})
