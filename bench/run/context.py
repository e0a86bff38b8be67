"""What every step of a run needs, and what fitting and ranking give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch

from bench.config.spec import RunSpec, TrainSettings
from bench.data import Dataset, Split
from bench.metrics.scorer import Scorer
from bench.model.methods import Method
from bench.process.events import Emit, Note, PhaseStarted
from bench.results.measurements import Memory, Times, TrainedRepetition, Training
from bench.results.predictions import RankedLabels
from bench.results.record import Evaluation
from bench.results.run_folder import RunFolder
from bench.run.ranks.group import ALONE, ProcessGroup


@dataclass(frozen=True)
class RunContext:
    """One run in one process.

    Args:
        spec: what is run.
        method: its method, with the settings of the spec.
        data: its dataset.
        device: of this process.
        folder: where the run's results go.
        ranks: the processes of the run, seen from this one.
        emit: takes the events of the run.
    """

    spec: RunSpec
    method: Method
    data: Dataset
    device: torch.device
    folder: RunFolder
    emit: Emit
    ranks: ProcessGroup = ALONE

    @property
    def settings(self) -> TrainSettings:
        return self.spec.train

    @cached_property
    def split(self) -> Split:
        """The points to train on: all of train, or those that are not kept for validation."""
        return self.data.fit if self.settings.holdout else self.data.train

    @cached_property
    def scorer(self) -> Scorer:
        """For the points that the run ranks. InputError where there are none."""
        return Scorer(self.data, self.settings.evaluate_on)

    def begin(self, phase: str, done: float | None = None) -> None:
        """The next phase of the run begins; ``done``: share of the training that was done before."""
        self.emit(PhaseStarted(phase, done))

    def note(self, text: str) -> None:
        """A line for the person who watches."""
        self.emit(Note(text))


@dataclass(frozen=True)
class Fitted:
    """What fitting and ranking gave, in one process of the run.

    Args:
        rankings: predictions in the order of ``evaluations``; none of a run that only trains.
        evaluations: R, size, seconds of training and facts of each ranking, the run's own last; not yet scored.
        times: by the clocks of this process.
        training: how a network was trained; None for a classifier, and for a run that only trains.
        own_memory: what the method measured itself.
        others: what other processes took for this run: earlier attempts, shards of the predictions, other trainers.
        earlier_s: seconds that earlier attempts at the run took.
        repetitions: how each kept repetition was trained.
    """

    rankings: Sequence[RankedLabels]
    evaluations: Sequence[Evaluation]
    times: Times = field(default_factory=Times)
    training: Training | None = None
    own_memory: Memory = field(default_factory=Memory)
    others: tuple[Memory, ...] = ()
    earlier_s: float = 0.0
    repetitions: tuple[TrainedRepetition, ...] = ()
