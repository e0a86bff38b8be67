"""Memory and processes, read from /proc of Linux. Imports nothing heavy: the launching process reads it too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")


def status_bytes(pid: int | str) -> dict[str, int]:
    """The memory lines (``Vm...``) of a process's status in bytes; empty where there is no such process or /proc."""
    try:
        lines = (PROC / str(pid) / "status").read_text().splitlines()
    except OSError:
        return {}
    fields = (line.split() for line in lines if line.startswith("Vm"))
    return {name.rstrip(":"): int(kilobytes) * 1024 for name, kilobytes, _ in fields}


def family(pid: int) -> Iterator[int]:
    """A process and its living descendants, also those that its threads started."""
    yield pid
    try:
        threads = list((PROC / str(pid) / "task").iterdir())
    except OSError:
        return
    for thread in threads:
        try:
            children = (thread / "children").read_text().split()
        except OSError:  # the thread has ended, or the kernel has no such file
            continue
        for child in children:
            yield from family(int(child))


def oom_kills() -> int:
    """Processes that the kernel has killed because memory ran out, since the machine started; 0 where it is unknown."""
    try:
        lines = (PROC / "vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def host_bytes() -> int | None:
    """Resident memory now (VmRSS)."""
    return status_bytes("self").get("VmRSS")
