"""What is written down while a network is trained: learning curve, events, checkpoints, kept repetitions."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from bench.config.spec import NOTHING, RunSpec
from bench.data.dataset import identity_of as identity_of_data
from bench.metrics.scorer import Scorer
from bench.model.ensemble import Ensemble, RepetitionGroup
from bench.model.optim import Optimiser
from bench.process.events import EpochDone
from bench.results.store import REPETITIONS, WEIGHTS
from bench.run.checkpoint.checkpoint import Checkpoints, GroupKeeper, identity_of
from bench.run.checkpoint.trained_repetitions import Repetitions, names
from bench.run.clock import Clock
from bench.run.context import RunContext
from bench.run.predict import validate
from bench.run.train import EpochWatch, GroupWatch


def checkpoints_of(run: RunContext) -> Checkpoints:
    """Where the run's checkpoint is found and written."""
    identity = identity_of(run.folder.run_id, run.spec, run.data)
    return Checkpoints(run.folder.checkpoint, identity, run.settings, run.device, run.note, run.ranks)


def kept_repetitions(run: RunContext) -> Repetitions | None:
    """Where the run's repetitions are kept; None where it is not to keep them, or the layer has none to be kept."""
    if not run.settings.keep_repetitions:
        return None
    identity = identity_of_data(run.data.fingerprint, run.spec.dataset)
    of_this_process = (run.device.type, torch.get_num_threads())
    named = names(run.method, run.spec, run.folder.code(), identity, *of_this_process)
    return Repetitions(run.folder.results / REPETITIONS / WEIGHTS, named, run.note) if named else None


def stale_repetitions(run: RunContext, kept: Repetitions) -> str | None:
    """The id of a run of the same experiment, spec and data whose repetitions other code has kept; None where none is.

    They have other names (`bench.run.checkpoint.trained_repetitions.names`), so they are never used.
    """
    question, code = run.spec.question(run.data.fingerprint), run.folder.code()
    identity = identity_of_data(run.data.fingerprint, run.spec.dataset)
    for path in sorted((run.folder.experiment / "runs").glob("[!.]*/spec.json")):
        content = json.loads(path.read_text())
        if content.get("asked") == question and content.get("code") != code:
            spec = RunSpec.from_json(path.read_text())
            of_old = names(run.method, spec, content["code"], identity, run.device.type, torch.get_num_threads())
            if any((kept.folder / f"{name}.json").exists() for name in of_old or ()):
                return path.parent.name
    return None


class Keeping(GroupWatch):
    """Writes down how the training of a run proceeds, off the fit clock (`bench.run.train`)."""

    def __init__(self, run: RunContext, ensemble: Ensemble, checkpoints: Checkpoints, kept: Repetitions | None) -> None:
        """checkpoints: restored. kept: where the repetitions of the run are kept, if they are."""
        self.run, self.ensemble, self.checkpoints, self.kept = run, ensemble, checkpoints, kept
        self.curve = checkpoints.done.curve
        self.finished = checkpoints.done.finished
        self._n_epochs = max(1, len(ensemble.to_train) * run.settings.epochs)
        if self.curve:
            run.note(f"goes on from a checkpoint: {len(self.curve)} epochs, {checkpoints.done.fit_s:.1f} s of training")
            run.folder.write_curve(self.curve)

    @property
    def done(self) -> float:
        """Share of the training of the run that is done, in [0, 1]."""
        return len(self.curve) / self._n_epochs

    def seconds_before(self, repetition: int) -> float:
        """As the process that trained it measured them."""
        return self.kept.trained[repetition].seconds if self.kept else 0.0

    def epochs(self, group: RepetitionGroup, clock: Clock, seconds_before: float) -> GroupKeeping:
        """For the training of one group."""
        return GroupKeeping(self, group, clock, seconds_before)

    def epoch_done(self, group: RepetitionGroup, epoch: int, mean_loss: float, seconds: float) -> None:
        """Learning curve and event; ``seconds`` of training since the run began. RuntimeError where copies differ."""
        self.run.ranks.compare(group.network.encoder)
        event = EpochDone(epoch, 0.0, seconds, mean_loss, group.label, self._quality(group, epoch))
        self.curve.append(event.curve_row())
        self.run.folder.write_curve(self.curve)
        self.run.emit(replace(event, done=self.done))

    def after_group(self, group: RepetitionGroup, seconds: float) -> None:
        """Keep its repetitions. OSError where there is no room and the run is for nothing else."""
        try:
            if self.kept:
                self.kept.keep(self.ensemble, group, seconds)
        except OSError as error:
            if self.run.settings.evaluate_on == NOTHING:
                raise
            self.run.note(f"repetitions {group.label} not kept: {error}")

    def _quality(self, group: RepetitionGroup, epoch: int) -> dict[str, float]:
        """On validation points, where it is the turn of an epoch to be validated."""
        every = self.run.settings.validate_every
        if not self.run.settings.holdout or not every or epoch % every:
            return {}
        return validate(self.ensemble, group, self._validation)

    @cached_property
    def _validation(self) -> Scorer:
        return Scorer(self.run.data, "validation")


@dataclass(frozen=True)
class GroupKeeping(EpochWatch):
    """The same for the epochs of one group, whose clock goes on from ``seconds_before``."""

    keeping: Keeping
    group: RepetitionGroup
    clock: Clock
    seconds_before: float

    def restore(self, optimiser: Optimiser) -> tuple[int, float]:
        """From the checkpoint, if there is one."""
        return self._keeper.restore(optimiser)

    def after_epoch(self, optimiser: Optimiser, epoch: int, mean_loss: float) -> None:
        """Write it down, then the checkpoint if it is time."""
        self.keeping.epoch_done(self.group, epoch, mean_loss, self.seconds_before + self.clock.seconds)
        self._keeper.after_epoch(optimiser, epoch, mean_loss)

    @property
    def _keeper(self) -> GroupKeeper:
        return self.keeping.checkpoints.keeper(self.clock)
