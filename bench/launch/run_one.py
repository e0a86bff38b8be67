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
from dataclasses import dataclass, field, replace
from functools import partial

from bench.common.child_processes import DISK_FULL, python
from bench.common.files import is_full
from bench.config.experiment import Experiment
from bench.launch.memory_watch import MemoryWatch
from bench.launch.progress import Progress
from bench.plan.plan import PlannedRun
from bench.process.events import Emit, Event, RunTrace, parse
from bench.process.failure import death, failure_record
from bench.process.options import RunOptions
from bench.results.ledger import end_of
from bench.results.record import described, read_record
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
    started = time.monotonic()
    start = _Attempt(RunFolder.create(store.runs, run.run_id, run.spec, run.code, run.question), uuid.uuid4().hex)
    folder, child = start.folder, None
    progress.start(run.run_id)
    try:
        child = _spawn(folder, replace(options, attempt=start.attempt).to_env(), lock)
        started_with = {"shared": described(run.spec), "asked": run.question, "request": run.spec.request()}
        store.ledger.append("started", run.run_id, pid=child.pid, attempt=start.attempt, **started_with)
        code = _watch(child, start, experiment, partial(progress.event, run.run_id))
        if code == DISK_FULL:
            raise OSError(errno.ENOSPC, FULL, str(folder.path))
        record = read_record(folder.path / "record.json")
        folder.complete()
        if record.status in OVER:
            store.drop_checkpoint(run.run_id)
        ended = {"status": record.status, "reason": record.reason, "seconds": round(time.monotonic() - started, 3)}
        store.ledger.append(end_of(record.status), run.run_id, **ended)
    except (KeyboardInterrupt, OSError) as error:
        if isinstance(error, OSError) and not is_full(error):
            raise
        if child is not None:
            _kill_group(child)
            child.wait()
        _record_interruption(start, run, store, FULL if isinstance(error, OSError) else STOPPED)
        raise
    progress.end(run.run_id, record)
    return record.status


@dataclass(frozen=True)
class _Attempt:
    """One start of a run: its folder, its name in the ledger, and what its events have reported."""

    folder: RunFolder
    attempt: str
    trace: RunTrace = field(default_factory=RunTrace)

    def write_failure(self, status: str, reason: str, peak_host_bytes: int | None = None) -> None:
        """Its record, where its process has left none that holds."""
        self.folder.write_record(failure_record(self.folder, status, reason, self.trace, peak_host_bytes, self.attempt))

    @property
    def is_recorded(self) -> bool:
        return (self.folder.path / "record.json").is_file()


def _watch(child: subprocess.Popen[str], start: _Attempt, experiment: Experiment, emit: Emit) -> int:
    """Follow the process of a run to its end, within its limits; its exit status. A record is left unless DISK_FULL."""
    expired = threading.Event()
    memory = MemoryWatch(child.pid, experiment.memory_limit_bytes, partial(_kill_group, child))
    with _limit(child, experiment.time_limit_s, expired), memory:
        for event in _events(child):
            start.trace.add(event)
            memory.check(start.trace.measured.memory.peaks.get("host"))
            emit(event)
        code = _end(child)
    if code == DISK_FULL:
        return code
    short = memory.reason(code)
    if memory.over or not start.is_recorded:
        if short:
            failure = ("oom_host", short)
        elif expired.is_set():
            failure = ("timeout", f"killed at the limit of {experiment.time_limit_s:g} s")
        else:
            failure = ("crashed", death(code))
        start.write_failure(*failure, memory.peak)
    return code


def _spawn(folder: RunFolder, given: Mapping[str, str], lock: int) -> subprocess.Popen[str]:
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


def _events(child: subprocess.Popen[str]) -> Iterator[Event]:
    """Events that the child writes, without a last line cut short by its death. ValueError for an unknown event."""
    assert child.stdout is not None
    for line in child.stdout:
        try:
            event = parse(line)
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


def _record_interruption(start: _Attempt, run: PlannedRun, store: Store, reason: str) -> None:
    """Write an interruption into record and ledger as far as the disk allows; else the start without an end says it.

    A run that was complete when it was interrupted is finished.
    """
    try:
        if start.folder.path.is_dir() and not start.is_recorded:
            start.write_failure("interrupted", reason)
        store.close_books(run.run_id, reason)
    except OSError as error:
        if not is_full(error):
            raise
        shutil.rmtree(start.folder.path, ignore_errors=True)
