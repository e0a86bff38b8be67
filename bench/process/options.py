"""How the process of a run executes it, beside the spec, which says what it executes; sent by the launcher."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

OPTIONS = "MACHBENCH_OPTIONS"  # environment variable of the process that executes a run


@dataclass(frozen=True)
class Rendezvous:
    """How the first process of a run finds the others where something else starts them (`bench.run.ranks.rendezvous`).

    ``folder``: on the machine of the first process; ``host``: the address by which the other machines reach it;
    ``threads``: of the first process alone.
    """

    folder: str
    world_size: int
    host: str
    threads: int


@dataclass(frozen=True)
class FailedRepetitions:
    """For a run whose repetitions other runs trained: the first repetition that failed, with status and reason."""

    first: int
    status: str
    reason: str


@dataclass(frozen=True)
class RunOptions:
    """How a run is executed.

    ``skip_above``: the run is skipped where it is predicted to need more bytes than this, or than are free; inf: only
    what is free counts; None: it is not skipped.
    """

    attempt: str | None = None  # identifies this start in the ledger
    skip_above: float | None = None
    retrain: bool = False  # train again the repetitions that were kept
    started_at: float | None = None  # seconds since 1970 when another run started to train the first repetition
    failed_repetitions: FailedRepetitions | None = None
    shards: Sequence[str] = ()  # runs that hold a shard of the predictions each, in order
    rendezvous: Rendezvous | None = None  # None: this process starts the other processes of the run

    def to_env(self) -> dict[str, str]:
        """As an environment variable."""
        return {OPTIONS: json.dumps(asdict(self))}

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> RunOptions:
        """What `to_env` gave; the defaults where there is nothing."""
        content = json.loads(env.get(OPTIONS, "{}"))
        for name, kind in (("failed_repetitions", FailedRepetitions), ("rendezvous", Rendezvous)):
            if content.get(name):
                content[name] = kind(**content[name])
        content["shards"] = tuple(content.get("shards", ()))
        return cls(**content)
