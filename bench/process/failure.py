"""What is kept of a run that failed, whether it reports that itself or was killed. Imports no torch."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

from bench.process.events import RunTrace
from bench.results.record import RunRecord, described
from bench.results.run_folder import RunFolder

LAST_LINES, TAIL_BYTES = 20, 16_384


def failure_record(
    folder: RunFolder, status: str, reason: str, trace: RunTrace, peak_host_bytes: int | None, attempt: str | None
) -> RunRecord:
    """The record of a run that ended in phase ``trace.phase`` with a status of the results contract.

    ``peak_host_bytes``: the most that it was last seen to hold, in this phase or before; None is not known. What was
    measured in earlier phases stays, and the last lines of the log go with it.
    """
    measured = trace.measured
    seen = [peak for peak in (measured.memory.peaks.get("host"), peak_host_bytes) if peak is not None]
    memory = replace(measured.memory, peaks={**measured.memory.peaks, "host": max(seen, default=None)})
    return RunRecord(
        run_id=folder.run_id,
        status=status,
        shared=described(folder.spec()),
        times=measured.times,
        memory=memory,
        reason=f"{trace.phase}: {reason}",
        phase=trace.phase,
        phases=measured.phases,
        log_tail=tuple(last_lines(folder.path / "log.txt")),
        attempt=attempt,
    )


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
