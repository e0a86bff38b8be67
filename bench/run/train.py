"""The one training loop. Every neural method goes through it; only the output layer differs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from bench.config.spec import TrainSettings, derive_seed
from bench.data import Split
from bench.model.ensemble import Ensemble, RepetitionGroup
from bench.model.network import Network
from bench.model.optim import Optimiser
from bench.run.clock import Clock


class Diverged(RuntimeError):
    """The loss became NaN or infinite; says at which epoch and what the last finite mean loss was."""


class EpochWatch:
    """What happens before and between the epochs of a group, off the fit clock; here nothing."""

    def restore(self, optimiser: Optimiser) -> tuple[int, float]:
        """Set the optimiser to where training stands; epochs done before, and the mean loss of the last of them."""
        del optimiser
        return 0, math.nan

    def after_epoch(self, optimiser: Optimiser, epoch: int, mean_loss: float) -> None:
        """An epoch is over; epochs count from 1."""


class GroupWatch:
    """What happens before and after groups of repetitions, off the fit clock; here nothing.

    ``finished``: what the clock showed after each group that was trained by an earlier attempt at the run.
    """

    finished: Sequence[float] = ()

    def seconds_before(self, repetition: int) -> float:
        """Seconds of training of a repetition that was trained before the run began."""
        raise KeyError(repetition)

    def epochs(self, group: RepetitionGroup, clock: Clock, seconds_before: float) -> EpochWatch:
        """For a group that is to be trained; ``seconds_before`` come on top of what the clock shows."""
        del group, clock, seconds_before
        return EpochWatch()

    def after_group(self, group: RepetitionGroup, seconds: float) -> None:
        """A group is trained; ``seconds`` of it alone."""


def train_groups(
    ensemble: Ensemble, split: Split, clock: Clock, watch: GroupWatch | None = None
) -> dict[int | None, float]:
    """Train group after group; returns the seconds of training behind the prefix that each group completes.

    Groups that were trained before, by this run or another, are not trained again; their seconds count.
    """
    watch = watch or GroupWatch()
    order = derive_seed(ensemble.seed, "data order")
    fit_s: dict[int | None, float] = {}
    shown, before, trained = 0.0, 0.0, 0  # by the clock; of repetitions trained before; groups of this run
    for group in ensemble.groups:
        if not group.to_train:
            before += sum(watch.seconds_before(r) for r in group.repetitions or ())
            fit_s[group.end] = before + shown
            continue
        started, trained = shown, trained + 1
        if trained <= len(watch.finished):
            shown = watch.finished[trained - 1]
        else:
            train(group.network, split, ensemble.settings, order, clock, watch.epochs(group, clock, before))
            shown = clock.seconds
        fit_s[group.end] = before + shown
        watch.after_group(group, shown - started)
    return fit_s


def batches(n_points: int, batch_size: int, seed: int, epoch: int) -> Iterator[npt.NDArray[np.int64]]:
    """Row numbers of each batch: rows are shuffled, not batches, and the last partial batch is used."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch])))
    order = rng.permutation(n_points)
    for low in range(0, n_points, batch_size):
        yield order[low : low + batch_size]


def train(
    network: Network,
    split: Split,
    settings: TrainSettings,
    order_seed: int,
    clock: Clock,
    watch: EpochWatch | None = None,
) -> None:
    """Train for ``settings.epochs`` epochs; the clock runs over batches and stands still in ``watch``.

    ``watch`` also says what epochs were done before: batches and learning rate follow from the epoch, so going on is
    the same as never having stopped. Raises Diverged when the mean loss of an epoch is not finite.
    """
    watch = watch or EpochWatch()
    X, Y, n_points = split.X, split.Y, len(split)
    steps_per_epoch = math.ceil(n_points / settings.batch_size)
    n_steps = settings.epochs * steps_per_epoch
    with Optimiser(network, settings.lr, settings.optimiser, order_seed) as optimiser:
        epochs_before, last_finite = watch.restore(optimiser)
        step = epochs_before * steps_per_epoch
        for epoch in range(epochs_before + 1, settings.epochs + 1):
            total = 0.0
            with clock.running():  # ── the fit clock: everything that trains, nothing that evaluates or logs
                for rows in batches(n_points, settings.batch_size, order_seed, epoch):
                    if settings.lr_schedule == "linear":
                        optimiser.scale_lr(1.0 - step / n_steps)
                    optimiser.zero_grad()
                    loss = network.loss(X[rows], Y[rows])
                    loss.backward()
                    optimiser.step()
                    total += float(loss.detach()) * len(rows)
                    step += 1
                    clock.step()  # reading the loss has waited for all of the step, on a GPU too
            mean_loss = total / n_points
            if not math.isfinite(mean_loss):
                raise Diverged(f"loss {mean_loss} in epoch {epoch}; last finite mean loss {last_finite:.6g}")
            last_finite = mean_loss
            watch.after_epoch(optimiser, epoch, mean_loss)
