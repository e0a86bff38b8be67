"""The one training loop. Every neural method goes through it; only the output layer differs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from bench.config.spec import TrainSettings, derive_seed
from bench.model.ensemble import Ensemble, RepetitionGroup
from bench.model.network import Network
from bench.model.optim import Optimiser
from bench.run.clock import Clock


class Diverged(RuntimeError):
    """The loss became NaN or infinite; says at which epoch and what the last finite mean loss was."""


class Keeper(Protocol):
    """Where the training of a network stands, kept so that another process can go on from there."""

    def restore(self, optimiser: Optimiser) -> tuple[int, float]:
        """Set the optimiser to what was kept, as the network is already; epochs behind them, mean loss of the last."""

    def after_epoch(self, optimiser: Optimiser, epoch: int, mean_loss: float) -> None:
        """An epoch is over."""


AfterEpoch = Callable[[RepetitionGroup, int, float, float], None]
AfterGroup = Callable[[RepetitionGroup, float], None]
KeeperOf = Callable[[Clock], Keeper]


def train_groups(
    ensemble: Ensemble,
    X: sp.csr_matrix,
    Y: sp.csr_matrix,
    clock: Clock,
    after_epoch: AfterEpoch,
    keeper_of: KeeperOf | None = None,
    finished: Sequence[float] = (),
    before: Mapping[int, float] | None = None,
    after_group: AfterGroup | None = None,
) -> dict[int | None, float]:
    """Train group after group; returns the seconds of training behind the prefix that each group completes.

    ``after_epoch(group, epoch, mean_loss, seconds)`` and ``after_group(group, seconds of it alone)`` are off the
    clock; seconds count all groups so far. ``before``: those of each repetition trained before. ``finished``: what the
    clock showed after the first of the others, when they have been trained before and are not trained again;
    ``keeper_of(clock)`` keeps where the training of each other stands, and sets the clock to go on from.
    """
    order = derive_seed(ensemble.seed, "data order")
    fit_s: dict[int | None, float] = {}
    read, behind, trained = 0.0, 0.0, 0  # the clock, seconds of repetitions trained before, groups trained
    for group in ensemble.groups:
        if not group.to_train:
            behind += sum((before or {})[r] for r in group.repetitions or ())
            fit_s[group.end] = behind + read
            continue
        begun, trained = read, trained + 1
        if trained <= len(finished):
            read = finished[trained - 1]
        else:

            def report(epoch: int, mean_loss: float, group: RepetitionGroup = group, behind: float = behind) -> None:
                after_epoch(group, epoch, mean_loss, behind + clock.seconds)

            keeper = keeper_of(clock) if keeper_of else None
            train(group.network, X, Y, ensemble.settings, order, clock, report, keeper)
            read = clock.seconds
        fit_s[group.end] = behind + read
        if after_group:
            after_group(group, read - begun)
    return fit_s


def batches(n_points: int, batch_size: int, seed: int, epoch: int) -> Iterator[npt.NDArray[np.int64]]:
    """Row numbers of each batch: rows are shuffled, not batches, and the last partial batch is used."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch])))
    order = rng.permutation(n_points)
    for low in range(0, n_points, batch_size):
        yield order[low : low + batch_size]


def train(
    network: Network,
    X: sp.csr_matrix,
    Y: sp.csr_matrix,
    settings: TrainSettings,
    order_seed: int,
    clock: Clock,
    after_epoch: Callable[[int, float], None],
    keeper: Keeper | None = None,
) -> None:
    """Train for ``settings.epochs`` epochs; the clock runs over batches and stands still in ``after_epoch``.

    X [N, n_features] and Y [N, n_labels] CSR. ``after_epoch(epoch, mean_loss)`` is called after each, counted from 1,
    and then ``keeper``, which also tells what epochs were done before: batches and learning rate follow from the epoch,
    so going on is the same as never having stopped. Raises Diverged when the mean loss of an epoch is not finite.
    """
    n_points = X.shape[0]
    steps_an_epoch = math.ceil(n_points / settings.batch_size)
    n_steps = settings.epochs * steps_an_epoch
    with Optimiser(network, settings.lr, settings.optimiser, order_seed) as optimiser:
        behind, last_finite = keeper.restore(optimiser) if keeper else (0, math.nan)
        step = behind * steps_an_epoch
        for epoch in range(behind + 1, settings.epochs + 1):
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
            after_epoch(epoch, mean_loss)
            if keeper:
                keeper.after_epoch(optimiser, epoch, mean_loss)
