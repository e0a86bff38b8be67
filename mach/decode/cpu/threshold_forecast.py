"""A forecast of a point's k-th best sum from earlier points, so that a scan can begin with a high bar."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

REMEMBERED = 256  # points whose sums count
SHARES = (0.01, 0.1, 0.5)  # quantiles: the careful bar, the width of the lower tail, the likely bar
LEAST = 0.05  # standard deviations that the careful bar is below the likely one, at least


@dataclass
class Forecast:
    """The k-th best sum of points so far, in standard deviations above the mean of all sums.

    Mean and deviation are those of independent repetitions with each repetition's scores. A forecast is not a bound:
    after the scan one must check that k labels are above it.
    """

    _heights: dict[tuple[int, int], Floats] = field(default_factory=dict)

    def bars(self, prefixes: npt.NDArray[np.int64], k: int, mean: Floats, deviation: Floats) -> tuple[Floats, Floats]:
        """The likely k-th best sum and one that hardly any point will miss, [P, Q]; NaN where no point was seen yet.

        mean, deviation [R, Q] of a repetition's scores.
        """
        centre, width = _spread(prefixes, mean, deviation)
        heights = [self._heights.get((R, k), np.full(1, np.nan, dtype=np.float32)) for R in prefixes.tolist()]
        # Sorted by hand: numpy's quantiles take ten times as long, for every prefix of every group of points.
        low, tenth, likely = np.array([_quantiles(some) for some in heights]).T[..., None]
        careful = low - np.maximum(likely - tenth, LEAST)
        return (centre + likely * width).astype(np.float32), (centre + careful * width).astype(np.float32)

    def learn(self, prefixes: npt.NDArray[np.int64], k: int, mean: Floats, deviation: Floats, best: Floats) -> None:
        """best [P, Q]: the k-th best sums; those that are not finite are ignored."""
        centre, width = _spread(prefixes, mean, deviation)
        for R, heights in zip(prefixes.tolist(), (best - centre) / np.where(width > 0, width, np.nan), strict=True):
            heights = heights[np.isfinite(heights)]
            if len(heights):
                before = self._heights.get((R, k), heights[:0])
                self._heights[R, k] = np.concatenate([before, heights])[-REMEMBERED:]


def _spread(prefixes: npt.NDArray[np.int64], mean: Floats, deviation: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation [P, Q] of the sums of the first repetitions."""
    last = prefixes - 1
    return np.cumsum(mean, 0)[last], np.sqrt(np.cumsum(np.square(deviation), 0)[last])


def _quantiles(heights: Floats) -> Floats:
    return np.sort(heights)[[int(share * (len(heights) - 1)) for share in SHARES]]
