"""What decides the metrics of a ranking: part of the question that a result answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

METRICS_VERSION = 1  # raise when a metric gives another value for the same ranking and the same inputs


@dataclass(frozen=True, slots=True)
class EvaluationInputs:
    """All that the metrics of a ranking depend on, besides the ranking.

    Args:
        data: fingerprint of X and Y of train and test; propensities and label groups come from train.
        points: the evaluated points, ``test`` or ``validation``.
        held_out: number of the validation points; 0 where the test points are evaluated.
        A, B: constants of the propensity model.
        filter: hash of the pairs that may not be predicted; None: any may.
        metrics: `METRICS_VERSION`.
    """

    data: str
    points: str
    held_out: int
    A: float
    B: float
    filter: str | None
    metrics: int = METRICS_VERSION

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> EvaluationInputs:
        """From what `to_json` gives. KeyError or TypeError for anything else."""
        return cls(**content)

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)

    @property
    def fingerprint(self) -> str:
        """First 16 hex digits of a sha256 over the fields: column ``evaluation_fingerprint``."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]

    def changes(self, now: EvaluationInputs) -> str:
        """In words, in which fields ``now`` differs; empty where it does not."""
        before, after = self.to_json(), now.to_json()
        different = [name for name in before if before[name] != after[name]]
        return ", ".join(
            f"{WORDS.get(name, name)} {before[name] or 'none'} → {after[name] or 'none'}" for name in different
        )


WORDS = {
    "points": "evaluated points",
    "held_out": "validation points",
    "A": "propensity A",
    "B": "propensity B",
    "metrics": "version of the metrics",
}
