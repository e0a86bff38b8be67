"""Two spreads, kept apart: across seeds (t interval of a mean) and across test points (paired bootstrap).

The first says how much another training would change a value, the second how much other test points would. Nothing here
reads files; `bench.metrics.significance_reference` has the bootstrap as plain resampling, and tests compare the two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.fft
from scipy import special

from bench.common.errors import InputError

LEVEL = 0.95  # of every interval; 1 − LEVEL is from where differences count as significant
GRID = 240  # steps from 0 to the largest difference; P@k and minP@k differences up to k = 5 lie on them exactly
TAIL = 12.0  # standard deviations of the sum that are followed to either side
LONGEST = 2**22  # cells of the sum's distribution; beyond that the grid gets coarser


def t_half_width(values: Sequence[float], level: float = LEVEL) -> float | None:
    """Half the width of the t interval of the mean of ``values``: t(n − 1) · s / √n, s the sample standard deviation.

    None for a single value: one run says nothing about the spread. The values count as independent draws, as runs
    with different seeds are; rows of one run at several R are not.
    """
    n = len(values)
    if n < 2:
        return None
    mean = math.fsum(values) / n
    s = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    return float(special.stdtrit(n - 1, (1 + level) / 2)) * s / math.sqrt(n)


@dataclass(frozen=True)
class Paired:
    """Two rankings of the same ``n`` points under one metric: B minus A.

    ``low`` and ``high`` bound the difference of the means (percentile bootstrap over points); ``p`` is two-sided.
    B ``won`` points, ``lost`` points and was equal on the other ones.
    """

    difference: float
    low: float
    high: float
    p: float
    n: int
    won: int
    lost: int

    @property
    def tied(self) -> int:
        return self.n - self.won - self.lost


def paired_bootstrap(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], level: float = LEVEL) -> Paired:
    """The paired bootstrap (Efron & Tibshirani, An Introduction to the Bootstrap, 1993) over points, without sampling.

    A resample draws n of the n differences d = b − a with replacement, so its sum is distributed as the n-fold
    convolution of the differences' histogram. That is computed here by one Fourier transform: the limit of infinitely
    many resamples, free of a seed and fast for any n. Differences are rounded to a grid of `GRID` steps of the largest
    one; the mean stays exact.

    ``p`` is 2 · min(P(S ≤ 0), P(S ≥ 0)) for the resampled sum S, at most 1; where all differences are 1, 0 or −1,
    as for P@1, it is that of the exact sign test (McNemar). With m differing points it is never below 2^(1 − m), the
    least that any exact paired test could give: resampling a handful of points knows too little of what else can be.

    Args:
        a, b: [n], what each point adds to the metric under either ranking, see `bench.metrics.ranking.evaluate_points`.

    Raises:
        InputError: the arrays are not of one length, or empty.
    """
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise InputError(f"paired points: found shapes {a.shape} and {b.shape}; expected [n] twice, the same points")
    d = b - a
    n, largest = len(d), float(np.abs(d).max())
    if largest < 1e-12:
        return Paired(0.0, 0.0, 0.0, 1.0, n, 0, 0)
    d[np.abs(d) < 1e-9 * largest] = 0.0  # the two sums may have been rounded differently
    won, lost = int((d > 0).sum()), int((d < 0).sum())
    mean = float(d.mean())
    sums, chance = _sum_distribution(d, largest)
    below, above = np.cumsum(chance), np.cumsum(chance[::-1])[::-1]
    tail = (1 - level) / 2
    low = min(int(np.searchsorted(below, tail)), len(sums) - 1)
    high = max(int(np.searchsorted(-above, -tail, side="right")) - 1, 0)
    if won + lost == int((np.abs(d) == 1.0).sum()):
        p = min(1.0, 2 * float(special.bdtr(min(won, lost), won + lost, 0.5)))
    else:
        at_most, at_least = chance[sums <= 1e-9 * largest].sum(), chance[sums >= -1e-9 * largest].sum()
        p = min(1.0, max(2 * float(min(at_most, at_least)), 2.0 ** (1 - won - lost)))
    return Paired(mean, float(sums[low]) / n, float(sums[high]) / n, p, n, won, lost)


def holm(p: Sequence[float]) -> list[float]:
    """The p-values adjusted for their number (Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979).

    Below 1 − `LEVEL`, all of them together are wrong about any true equality with a chance of at most that.
    """
    adjusted, worst = [0.0] * len(p), 0.0
    for rank, at in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        worst = max(worst, min(1.0, (len(p) - rank) * p[at]))
        adjusted[at] = worst
    return adjusted


def _sum_distribution(
    d: npt.NDArray[np.float64], largest: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Possible sums of n draws from d (rising) and their chances."""
    n, spread = len(d), float(d.std()) * math.sqrt(len(d))
    steps = GRID
    while steps > 1 and 2 * (TAIL * spread / largest * steps + steps) > LONGEST:
        steps //= 2
    step = largest / steps
    units = np.rint(d / step).astype(np.int64)
    common = int(np.gcd.reduce(np.abs(units)))  # 240 for P@1, whose differences are whole
    units, step = units // common, step * common
    reach = int(TAIL * spread / step) + 2 * int(np.abs(units).max()) + 2
    size = scipy.fft.next_fast_len(2 * reach + 1, real=True)
    # Sums are known modulo `size`; chances beyond `reach` from the mean are nil, so that names them.
    drawn = np.bincount(units % size, minlength=size) / n
    chance = scipy.fft.irfft(_power(scipy.fft.rfft(drawn), n), size)
    middle = int(units.sum())
    sums_on_grid = np.arange(middle - reach, middle + reach + 1)
    rounded = middle * step - float(d.sum())  # of all roundings together; subtracted again
    sums = (sums_on_grid * step - rounded).astype(np.float64)
    return sums, np.clip(chance[sums_on_grid % size], 0.0, None)


def _power(z: npt.NDArray[np.complex128], n: int) -> npt.NDArray[np.complex128]:
    """z**n by squaring, which keeps what is tiny tiny."""
    result = np.ones_like(z)
    while n:
        if n & 1:
            result *= z
        z, n = z * z, n >> 1
    return result
