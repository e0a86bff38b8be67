"""The processes beside the first of a run that takes several: started, watched and heard by the first.

They end with it, however it ends (`bench.child`), and are of its process group. When one of them ends before its work
is done, the run fails with what that one told, or with how it ended, even if this process waits for it in vain.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.child import python
from bench.failure import death
from bench.host import oom_kills
from bench.ranks import ALONE, Place, Ranks

Fail = Callable[[str, str], None]  # (status, reason)
Rows = Callable[[], list[dict[str, Any]]]
GRACE_S = 2.0  # for a failure noticed in one process to be told by another, which may know the reason


class FailedElsewhere(RuntimeError):
    """Another process of the run failed; ``status`` is the run's."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Failure:
    """How a process failed. ``follows``: its error says no more than that it has lost another."""

    status: str
    reason: str
    follows: bool = False


@contextmanager
def processes(folder: Path, world_size: int, fail: Fail | None) -> Iterator[tuple[Ranks, Rows]]:
    """The processes of a run: starts all but this one, which is the first, and kills what is left of them.

    Yields also a function that waits until the others have done their work and gives the columns that each measured.
    Raises FailedElsewhere in the place of an error that follows from the end of another. If this process does not come
    out of its work within seconds of that, it is ended, by a thread, after ``fail(status, reason)``.
    """
    if world_size == 1:
        yield ALONE, list
        return
    ranks, address = Ranks.lead(world_size)
    followers = Followers(folder, world_size, address, fail)
    try:
        yield ranks, followers.rows
    except ConnectionError as error:
        if cause := followers.cause():
            raise FailedElsewhere(cause.status, cause.reason) from error
        raise
    finally:
        followers.end()


class Followers:
    """Ranks 1 to ``world_size`` − 1."""

    def __init__(self, folder: Path, world_size: int, address: str, fail: Fail | None) -> None:
        self._world_size, self._fail = world_size, fail
        self._rows: dict[int, dict[str, Any]] = {}
        self._failures: list[Failure] = []
        self._changed = threading.Condition()
        self._out = threading.Lock()  # taken by what tells first how this process has ended: itself, or a watch
        self._oom_kills = oom_kills()
        self._processes = [self._start(folder, Place(rank, world_size, address)) for rank in range(1, world_size)]

    def _start(self, folder: Path, place: Place) -> subprocess.Popen[str]:
        command, env = python("bench.child", **place.to_env())
        process = subprocess.Popen(
            [*command, str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=env,
        )
        for work in (self._watch, _pass_on):
            threading.Thread(target=work, args=(place.rank, process), daemon=True).start()
        return process

    def rows(self) -> list[dict[str, Any]]:
        """What each measured, in the order of ranks, once all have done their work. FailedElsewhere when one fails."""
        with self._changed:
            self._changed.wait_for(lambda: self._failures or len(self._rows) == self._world_size - 1)
        if cause := self.cause():
            raise FailedElsewhere(cause.status, cause.reason)
        return [row for _, row in sorted(self._rows.items())]

    def cause(self) -> Failure | None:
        """The failure that the others follow from, of those noticed within GRACE_S; None where there is none."""
        with self._changed:
            over = len(self._rows) == self._world_size - 1
            if not over:
                self._changed.wait_for(lambda: any(not failure.follows for failure in self._failures), GRACE_S)
            return min(self._failures, key=lambda failure: failure.follows, default=None)

    def end(self) -> None:
        """Kill what is left of them: the work of this process is over."""
        self._out.acquire()
        for process in self._processes:
            process.kill()

    def _watch(self, rank: int, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        told: dict[str, Any] = {}
        for line in process.stdout:
            with suppress(ValueError):  # a line torn by its death
                told = json.loads(line)
        code = process.wait()
        with self._changed:
            if "row" in told:
                self._rows[rank] = told["row"]
            else:
                short = code == -signal.SIGKILL and oom_kills() > self._oom_kills
                status = "oom_host" if short else "crashed"
                failure = Failure(**told["failed"]) if "failed" in told else Failure(status, death(code, short))
                reason = f"process {rank} of {self._world_size}: {failure.reason}"
                self._failures.append(replace(failure, reason=reason))
            self._changed.notify_all()
            if "row" in told:
                return
        threading.Event().wait(2 * GRACE_S)
        if self._fail and self._out.acquire(blocking=False) and (cause := self.cause()):
            self._fail(cause.status, cause.reason)
            os._exit(0)


def _pass_on(rank: int, process: subprocess.Popen[str]) -> None:
    """What it prints, into this process's log."""
    assert process.stderr is not None
    for line in process.stderr:
        sys.stderr.write(f"[rank {rank}] {line}")
        sys.stderr.flush()
