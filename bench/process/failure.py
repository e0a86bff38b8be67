"""What is kept of a run that failed, whether it tells itself or was killed. Imports no torch."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

from bench.columns import above_baseline
from bench.config.spec import RunSpec
from bench.process.events import RunTrace
from bench.results.record import described

LAST_LINES, TAIL_BYTES = 20, 16_384


def failure_record(
    spec: RunSpec, status: str, reason: str, told: RunTrace, peak_host_bytes: int | None, log: Path
) -> dict[str, Any]:
    """The record of a run that ended in phase ``told.phase`` with a status of the results contract.

    ``peak_host_bytes``: the memory it was last seen to hold at most, in this phase or before; None is not known. What
    was measured in earlier phases stays, and the last lines of the log go with it.
    """
    row = dict(told.row)
    peaks = [n for n in (row.get("peak_host_bytes"), peak_host_bytes) if n is not None]
    row["peak_host_bytes"] = max(peaks, default=None)
    return {
        "status": status,
        "reason": f"{told.phase}: {reason}",
        "phase": told.phase,
        "shared": described(spec),
        "rows": [row | above_baseline(row)],
        "phases": told.phases,
        "log_tail": last_lines(log),
    }


def death(code: int, short: bool = False) -> str:
    """How a process without a record ended, from its exit status as of `subprocess`; short: known to lack memory."""
    if short:
        return "killed by the kernel, which was out of memory"
    if code == -signal.SIGKILL:
        return "killed by signal 9; the kernel does that when memory runs out"
    return f"killed by signal {-code}" if code < 0 else f"exit status {code} without a record; see log.txt"


def last_lines(log: Path) -> list[str]:
    """The last lines of a log, without those that are empty; nothing where there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-LAST_LINES:]
