"""The tasks of runs on a Ray cluster: whole runs, parts of their repetitions, shares of their predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.config.spec import Share
from bench.launch.ray.forecast import Foreseen
from bench.launch.ray.worker import WorkerResult
from bench.plan.plan import PlannedRun

SMALLEST_SHARE = 8  # parts on one GPU at most


@dataclass
class Whole:
    """A run with what is foreseen of it; ``began``: when the first piece of it did.

    ``bundle``: resources of each of its processes, where they are placed one by one (`bench.launch.ray.multi_node`).
    ``shares``: of its predictions, where several workers make them; ``shared``: the runs that hold those that are
    made, empty names where they failed.
    """

    run: PlannedRun
    foreseen: Foreseen
    began: float | None = None
    bundle: dict[str, float] | None = None
    shares: list[Share] = field(default_factory=list)
    shared: dict[Share, str] = field(default_factory=dict)

    def begin(self, piece: WorkerResult) -> None:
        """A piece of it has ended: the run began with the first of them."""
        if piece.began:
            self.began = min(piece.began, self.began or piece.began)


@dataclass(frozen=True)
class Part:
    """Repetitions to be trained for a run."""

    of: Whole
    members: range

    @property
    def names(self) -> tuple[str, ...]:
        return self.of.foreseen.names[self.members.start : self.members.stop]


@dataclass(frozen=True)
class Shared:
    """A share of the predictions of a run."""

    of: Whole
    share: Share


Task = Whole | Part | Shared


def runs_of(numbers: Sequence[int], size: int) -> list[range]:
    """Increasing numbers as ranges of neighbours, each of at most ``size``."""
    found: list[range] = []
    for r in numbers:
        if found and found[-1].stop == r and len(found[-1]) < size:
            found[-1] = range(found[-1].start, r + 1)
        else:
            found.append(range(r, r + 1))
    return found


def share_of_gpu(needed: int | None, has: int | None) -> float:
    """Ray's ``num_gpus`` of a part: one over how many of its kind fit into a GPU's memory, 1 where that is unknown."""
    if not needed or not has:
        return 1.0
    return 1.0 / min(SMALLEST_SHARE, max(1, has // needed))
