"""What the launcher tells the process of a run beside its spec: how it is to be executed, not what."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

OPTIONS = "MACHBENCH_OPTIONS"  # environment variable of the process that executes a run


@dataclass(frozen=True)
class Rendezvous:
    """Where the processes of a run meet that something else starts: see `bench.run.ranks.rendezvous`.

    ``folder``: on the machine of the first process; ``host``: address of that machine for the others; ``threads``: of
    its own.
    """

    folder: str
    world_size: int
    host: str
    threads: int


@dataclass(frozen=True)
class Shortfall:
    """Of a run whose repetitions were trained elsewhere: from which on they failed, and how."""

    first: int
    status: str
    reason: str


@dataclass(frozen=True)
class RunOptions:
    """``skip_above``: bytes that the run may be predicted to take, beside what is free; inf: any; None: do not look."""

    attempt: str | None = None  # which start of the ledger this is
    skip_above: float | None = None
    afresh: bool = False  # train repetitions again that were kept
    begun: float | None = None  # seconds since 1970 when the first repetition of the run was begun elsewhere
    shortfall: Shortfall | None = None
    shares: Sequence[
        str
    ] = ()  # runs that hold the run's predictions, each its share, in order (`bench.run.prediction_shards`)
    rendezvous: Rendezvous | None = None  # where the other processes of the run are not this one's to start

    def to_env(self) -> dict[str, str]:
        """As an environment variable."""
        return {OPTIONS: json.dumps(asdict(self))}

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> RunOptions:
        """What `to_env` gave; the defaults where there is nothing."""
        content: dict[str, Any] = json.loads(env.get(OPTIONS, "{}"))
        if content.get("shortfall"):
            content["shortfall"] = Shortfall(**content["shortfall"])
        if content.get("rendezvous"):
            content["rendezvous"] = Rendezvous(**content["rendezvous"])
        return cls(**content)
