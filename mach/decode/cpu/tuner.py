"""How the next points of a scan are grouped, and the time that it will need, from what has been measured so far."""

from __future__ import annotations

from dataclasses import dataclass, field

import numba
import numpy as np

from mach.decode.cpu.scan_bounds import is_far
from mach.decode.cpu.simd.vectors import LINE

FEW = 4  # points that are cheaper to scan one by one than as a group, where the table is far
BYTES_AFTER = 32  # groups that are scanned with bytes after one whose scores are too wide for half a byte
LATELY, AGAIN = 3, 32  # groups whose median time counts; groups between trying again what was slower
# First guesses in seconds of one core, replaced by what is measured as soon as something has run.
NEAR_LINE_SECONDS, FAR_LINE_SECONDS, BYTE_SECONDS, SCORE_SECONDS = 1.4e-9, 3e-9, 4e-10, 8e-10
HALVES_SLOWER = 1.6  # a group with half bytes takes so many times as long as one with bytes


@dataclass(frozen=True)
class Grain:
    """How finely scores are counted, and how many points then share a line.

    spread: scores more than this many standard deviations below a repetition's mean count 0. aim: the bar in units, of
    1..255; the room above it is for a bar that still rises. aim_first: the same for the bar of a few labels. good:
    units are kept when a first part of the labels gives a bar in this range. drain: after four repetitions a sum loses
    the units of an average label, so that units can be finer; at most so many, since a sum needs room for as much above
    the bar. 0: nothing is lost.
    """

    points: int
    spread: float
    aim: int
    aim_first: int
    good: tuple[int, int]
    drain: int = 0


WHOLE = Grain(points=LINE, spread=1.5, aim=180, aim_first=130, good=(140, 215), drain=48)
# Where repetitions are not added in fours, as with every number of repetitions as a prefix.
UNDRAINED = Grain(points=LINE, spread=0.75, aim=210, aim_first=150, good=(180, 245))
HALF = Grain(points=2 * LINE, spread=0.75, aim=140, aim_first=105, good=(110, 170))

Work = tuple[Grain | None, int, int]  # how scores are counted (None: not at all), repetitions, prefixes


@dataclass
class _Seconds:
    """Times of a group, or of a single point: the last few, and how many there were."""

    lately: list[float] = field(default_factory=list)
    seen: int = 0

    def learn(self, seconds: float) -> None:
        self.seen += 1
        if self.seen > 1:  # the first compiles, and finds its memory
            self.lately = [*self.lately, seconds][-LATELY:]

    def median(self) -> float | None:
        return float(np.median(self.lately)) if self.lately else None


@dataclass
class Tuner:
    """Choices for one lookup table. They change the time that a scan takes, never its result."""

    n_labels: int
    B: int
    _seconds: dict[Work, _Seconds] = field(default_factory=dict)
    _bytes_for: int = 0  # groups that are still to be scanned with bytes

    def choose(self, n_points: int, combine: str, R: int, n_prefixes: int) -> Work:
        """How to scan the next of ``n_points``.

        Half bytes may pay where fetching lines takes most of the time and there are points for both halves. Whether
        they do depends on how finely scores must be counted, so both are measured, and again from time to time.
        """
        whole, half, single = ((grain, R, n_prefixes) for grain in (WHOLE, HALF, None))
        if not is_far(self.B) or combine == "median":
            return whole
        if n_points <= FEW:
            return single
        if combine != "sum" or n_points <= LINE or self._bytes_for:
            return whole
        of_half, of_whole = (self._seconds.setdefault(work, _Seconds()) for work in (half, whole))
        by_half, by_whole = of_half.median(), of_whole.median()
        if by_half is None or by_whole is None:
            return half if by_half is None else whole
        other_one = (of_half.seen + of_whole.seen) % AGAIN == 0
        return half if (by_half < 2 * by_whole) != other_one else whole

    def expected_seconds(self, n_points: int, R: int) -> float:
        """Seconds that a scan of so many points for the sums of R repetitions will take."""
        seconds = 0.0
        while n_points > 0:
            work = grain, _, _ = self.choose(n_points, "sum", R, 1)
            count = min(grain.points if grain else n_points, n_points)
            guess = self._guess(grain, R)
            known = self._seconds.get(work, _Seconds()).median()
            seconds += (known or guess / numba.get_num_threads()) * (1 if grain else count)
            n_points -= count
        return seconds

    def _guess(self, grain: Grain | None, R: int) -> float:
        """Seconds of one core for a group, or for a single point, before any was measured."""
        if grain is None:
            return self.n_labels * R * SCORE_SECONDS
        seconds = self.n_labels * R * (FAR_LINE_SECONDS if is_far(self.B) else NEAR_LINE_SECONDS)
        seconds += R * self.B * LINE * BYTE_SECONDS
        return seconds * HALVES_SLOWER if grain == HALF else seconds

    def learn(self, work: Work, n_points: int, seconds: float) -> None:
        """Note the seconds of a group, or of so many single points."""
        self._bytes_for = max(0, self._bytes_for - 1)
        self._seconds.setdefault(work, _Seconds()).learn(seconds / (1 if work[0] else n_points))

    def too_wide(self) -> None:
        """Note that the scores of a group do not fit into half bytes; the next groups will probably be the same."""
        self._bytes_for = BYTES_AFTER
