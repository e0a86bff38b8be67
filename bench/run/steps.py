"""How long the steps of training took: counts in bins of one per cent, so that millions of steps take no memory."""

from __future__ import annotations

import math
from collections import defaultdict

BIN = math.log(1.01)  # width of a bin, in logarithms of seconds
SHORTEST = 1e-9  # a clock that does not tick between two readings


class StepTimes:
    """Durations as a histogram with bins of 1 %: quantiles are within half a per cent, and every step counts.

    Adding costs about a microsecond, and the bins that are in use are a few hundred at most.
    """

    def __init__(self) -> None:
        self._counts: defaultdict[int, int] = defaultdict(int)

    def __len__(self) -> int:
        return sum(self._counts.values())

    def add(self, seconds: float) -> None:
        self._counts[round(math.log(max(seconds, SHORTEST)) / BIN)] += 1

    def quantile(self, share: float) -> float | None:
        """Seconds that at least ``share`` of the steps did not exceed (the inverted CDF); None without steps."""
        wanted = math.ceil(share * len(self))
        for at in sorted(self._counts):
            wanted -= self._counts[at]
            if wanted <= 0:
                return math.exp(at * BIN)
        return None

    def columns(self) -> dict[str, float | None]:
        """Median and 95th percentile as columns of the results."""
        return {"step_p50_s": self.quantile(0.5), "step_p95_s": self.quantile(0.95)}
