"""One further process of a run, as seen by what starts it: its address, its output, its outcome. Imports no torch."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.common.child_processes import python
from bench.common.procfs import oom_kills
from bench.process.failure import death

RANK = "MACHBENCH_RANK"  # environment variable of every process of a run but the first: its `RankAddress`


@dataclass(frozen=True)
class RankAddress:
    """The rank of a process, the number of processes, and the host:port of the store of the first one.

    ``threads``: of a process that has threads, and a GPU where there are any, of its own; 0: the processes on its
    machine divide those of the machine.
    """

    rank: int
    world_size: int
    address: str
    threads: int = 0

    def to_env(self) -> dict[str, str]:
        """As an environment variable."""
        return {RANK: json.dumps(asdict(self))}

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> RankAddress | None:
        """What `to_env` gave; None for the first process of a run."""
        return cls(**json.loads(env[RANK])) if RANK in env else None


@dataclass(frozen=True)
class Failure:
    """How a process failed. ``secondary``: its error says only that it lost the connection to another process."""

    status: str
    reason: str
    secondary: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a process ended: with ``row``, the columns that it measured, or with a failure."""

    row: dict[str, Any] | None = None
    failure: Failure | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Outcome | None:
        """What `to_json` gave; None where there is neither a row nor a failure."""
        if content.get("row") is not None:
            return cls(row=content["row"])
        return cls(failure=Failure(**content["failure"])) if content.get("failure") else None


def log_lines(rank: int, lines: Iterable[str]) -> None:
    """Write what another process printed into the log of the run, with its rank before each line."""
    for line in lines:
        sys.stderr.write(f"[rank {rank}] {line}")
    sys.stderr.flush()


class PeerProcess:
    """A process that has been started in the folder of its run. It ends with the process that makes this object."""

    def __init__(self, folder: Path, address: RankAddress) -> None:
        command, env = python("bench.run", **address.to_env())
        self._oom_kills = oom_kills()
        self._process = subprocess.Popen(
            [*command, str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=env,
        )

    def wait(self, on_line: Callable[[str], None]) -> Outcome:
        """The outcome, once the process has ended; ``on_line`` gets each line that it prints, in another thread."""
        assert self._process.stdout is not None
        threading.Thread(target=self._read_log, args=(on_line,), daemon=True).start()
        last: dict[str, Any] = {}
        for line in self._process.stdout:
            with suppress(ValueError):  # a line that is incomplete because the process was killed
                last = json.loads(line)
        code = self._process.wait()
        out_of_memory = code == -signal.SIGKILL and oom_kills() > self._oom_kills
        died = Failure("oom_host" if out_of_memory else "crashed", death(code, out_of_memory))
        return Outcome.from_json(last) or Outcome(failure=died)

    def kill(self) -> None:
        """Does nothing when the process has ended."""
        self._process.kill()

    def _read_log(self, on_line: Callable[[str], None]) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            on_line(line)
