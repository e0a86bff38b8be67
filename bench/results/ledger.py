"""The append-only history of an experiment: what was planned, started and how it ended, by which process."""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.common.locks import hold

DONE = ("finished", "failed")
ENDS = (*DONE, "interrupted", "skipped")


def end_of(status: str) -> str:
    """The event with which a run of that status ends."""
    own = {"ok": "finished", "interrupted": "interrupted", "skipped_by_plan": "skipped"}
    return own.get(status, "failed")


@dataclass(frozen=True)
class Ledger:
    """ledger.jsonl. A start without an end is a run that goes on or was killed."""

    path: Path

    def append(self, event: str, run_id: str, **details: Any) -> None:
        """One line, one write, flushed to disk; several processes, also of several machines, may append.

        Raises OSError naming the file when the line cannot be written (disk full).
        """
        entry = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "event": event, "run_id": run_id}
        line = json.dumps({**entry, "host": socket.gethostname(), **details}) + "\n"
        # O_APPEND alone keeps writers of one machine apart, not those of several on a network file system.
        with hold(self.path, wait=True) as descriptor:
            assert descriptor is not None
            try:
                end = os.fstat(descriptor).st_size
                # A line torn by a crash or a full disk must not swallow this one.
                torn = end > 0 and os.pread(descriptor, 1, end - 1) != b"\n"
                content = (b"\n" if torn else b"") + line.encode()
                if os.write(descriptor, content) < len(content):
                    os.ftruncate(descriptor, end)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(descriptor)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(self.path)) from error

    def events(self) -> Iterator[dict[str, Any]]:
        """All entries that can be read, oldest first; torn lines are passed over."""
        if not self.path.is_file():
            return
        for line in self.path.read_text(errors="replace").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if _is_entry(entry):
                yield entry

    def broken_lines(self) -> list[int]:
        """Numbers, from 1, of the lines that cannot be read."""
        if not self.path.is_file():
            return []
        found = []
        for number, line in enumerate(self.path.read_text(errors="replace").splitlines(), 1):
            try:
                whole = not line.strip() or _is_entry(json.loads(line))
            except ValueError:
                whole = False
            if not whole:
                found.append(number)
        return found

    def open_starts(self) -> dict[str, dict[str, Any]]:
        """Runs whose last word is ``started``: the entry of that start by run id."""
        starts: dict[str, dict[str, Any]] = {}
        for entry in self.events():
            if entry["event"] == "started":
                starts[entry["run_id"]] = entry
            elif entry["event"] in (*ENDS, "forgotten"):
                starts.pop(entry["run_id"], None)
        return starts

    def times_done(self) -> Counter[str]:
        """How often each run came to an end of its own, finished or failed."""
        return Counter(entry["run_id"] for entry in self.events() if entry["event"] in DONE)


def _is_entry(found: Any) -> bool:
    if not isinstance(found, dict) or not isinstance(found.get("shared", {}), dict):
        return False
    return isinstance(found.get("event"), str) and isinstance(found.get("run_id"), str)
