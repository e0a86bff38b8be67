"""A process beside the first of a run, for what starts it: told its place, listened to, killed. Imports no torch."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
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
    """Which process of how many, and the host:port where they meet: that of the first process's store.

    ``threads``: of a process that was given threads, and a GPU where there are any, of its own; 0: it shares those of
    its machine with the others.
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
    """How a process failed. ``follows``: its error says no more than that it has lost another."""

    status: str
    reason: str
    follows: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a process ended: ``row``, the columns that it measured, or its failure."""

    row: dict[str, Any] | None = None
    failure: Failure | None = None

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Outcome | None:
        """From the JSON of a process (`bench.run.ranks.peer_main`) or of an outcome; None where it says neither."""
        if told.get("row") is not None:
            return cls(row=told["row"])
        return cls(failure=Failure(**told["failure"])) if told.get("failure") else None


class PeerProcess:
    """One process, which has begun, in the folder of its run. It ends with the one that makes this object."""

    def __init__(self, folder: Path, place: RankAddress) -> None:
        command, env = python("bench.run", **place.to_env())
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

    def wait(self, log: Callable[[str], None]) -> Outcome:
        """How it ends; ``log`` gets each line that it prints meanwhile, in another thread."""
        assert self._process.stdout is not None
        threading.Thread(target=self._pass_on, args=(log,), daemon=True).start()
        told: dict[str, Any] = {}
        for line in self._process.stdout:
            with suppress(ValueError):  # a line torn by its death
                told = json.loads(line)
        code = self._process.wait()
        short = code == -signal.SIGKILL and oom_kills() > self._oom_kills
        died = Failure("oom_host" if short else "crashed", death(code, short))
        return Outcome.of(told) or Outcome(failure=died)

    def kill(self) -> None:
        """Does nothing to one that has ended."""
        self._process.kill()

    def _pass_on(self, log: Callable[[str], None]) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            log(line)
