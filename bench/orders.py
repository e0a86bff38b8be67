"""What the launcher tells the process of a run beside its spec: how it is to be executed, not what."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.meeting import Meeting

ORDERS = "MACHBENCH_ORDERS"  # environment variable of the process that executes a run


@dataclass(frozen=True)
class Shortfall:
    """Of a run whose repetitions were trained elsewhere: from which on they failed, and how."""

    first: int
    status: str
    reason: str


@dataclass(frozen=True)
class Orders:
    """``skip_above``: bytes that the run may be predicted to take, beside what is free; inf: any; None: do not look."""

    attempt: str | None = None  # which start of the ledger this is
    skip_above: float | None = None
    afresh: bool = False  # train repetitions again that were kept
    begun: float | None = None  # seconds since 1970 when the first repetition of the run was begun elsewhere
    shortfall: Shortfall | None = None
    shares: Sequence[str] = ()  # runs that hold the run's predictions, each its share, in order (`bench.shares`)
    meeting: Meeting | None = None  # where the other processes of the run are not this one's to start

    def to_env(self) -> dict[str, str]:
        """As an environment variable."""
        return {ORDERS: json.dumps(asdict(self))}

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Orders:
        """What `to_env` gave; the defaults where there is nothing."""
        content: dict[str, Any] = json.loads(env.get(ORDERS, "{}"))
        if content.get("shortfall"):
            content["shortfall"] = Shortfall(**content["shortfall"])
        if content.get("meeting"):
            content["meeting"] = Meeting(**content["meeting"])
        return cls(**content)
