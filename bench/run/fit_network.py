"""Fit a network with an output layer and rank with it: build, warm up, restore, fit, rank, each on its own clock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from bench.config.spec import NOTHING
from bench.model.ensemble import Ensemble, Grouping
from bench.results.measurements import Times, TrainedRepetition, Training, memory_of_trainers
from bench.results.predictions import RankedLabels
from bench.results.record import Evaluation
from bench.run.checkpoint.checkpoint import Checkpoints, Done, Refused, refusing
from bench.run.checkpoint.keeping import Keeping, checkpoints_of, kept_repetitions, stale_repetitions
from bench.run.checkpoint.trained_repetitions import Repetitions
from bench.run.checkpoint.training_state import random_state, set_random_state
from bench.run.clock import Clock
from bench.run.context import Fitted, RunContext
from bench.run.predict import Ranked, rank_points
from bench.run.prediction_shards import LABELS
from bench.run.train import train_groups

Seconds = dict[int | None, float]  # of training, by R


def fit_network(run: RunContext, shards: Sequence[str] = ()) -> Fitted:
    """Build, warm up, train and predict with an output layer on the shared trunk; in all processes of the run at once.

    A run that was killed goes on from its checkpoint; from the beginning, and says so, if that cannot be used.
    ``shards``: runs that hold its predictions, if any (`bench.run.prediction_shards`).
    """
    at_first, found = random_state(run.device), checkpoints_of(run)
    try:
        found.find()
        return attempt(run, found, shards)
    except Refused as why:
        run.note(f"checkpoint not used, the run starts over: {why}")
    set_random_state(run.device, at_first)
    return attempt(run, checkpoints_of(run), shards)


def attempt(run: RunContext, checkpoints: Checkpoints, shards: Sequence[str]) -> Fitted:
    """The protocol, once: from a checkpoint that was found, or from the beginning. Refused where it does not fit."""
    split, kept = run.split, kept_repetitions(run)  # off the clocks: without the validation points it is a copy
    with trained_before(run, kept, checkpoints.done) as before:
        run.begin("build")
        with Clock(run.device).running() as build_clock:
            ensemble = build_ensemble(run, checkpoints.done.group_size, before)
        run.begin("warmup")
        with Clock(run.device).running() as warmup_clock:
            ensemble.warm_up(split.X, split.Y)
        checkpoints.restore(ensemble, before)
        load_repetitions(run, ensemble, kept, before)
        keeping = Keeping(run, ensemble, checkpoints, kept)
        run.begin("fit", keeping.done)
        clock = Clock(run.device)
        fit_s = train_groups(ensemble, split, clock, keeping)
        if run.settings.evaluate_on == NOTHING:
            return trained_only(fit_s[ensemble.prefixes[-1]], checkpoints)
        run.begin("predict")
        ranked = rank_points(run, ensemble, shards)
    repetitions = tuple(kept.trained[r] for r in sorted(kept.trained)) if kept else ()
    *derived, own = evaluations_of(run, ensemble, ranked.rankings, fit_s)
    return Fitted(
        rankings=ranked.rankings,
        evaluations=[*derived, with_together(own, ensemble, repetitions)],
        times=times_of(run, build_clock, warmup_clock, ranked, fit_s[ensemble.prefixes[-1]]),
        training=training_of(run, clock, ranked, checkpoints.done).with_repetitions(repetitions),
        others=(checkpoints.earlier_memory, *ranked.others, *memory_of_trainers(repetitions)),
        earlier_s=checkpoints.earlier_s,
        repetitions=repetitions,
    )


@contextmanager
def trained_before(run: RunContext, kept: Repetitions | None, done: Done) -> Iterator[list[int]]:
    """Repetitions that are not to be trained; the others are locked until they are kept.

    Refused where a run that goes on had others when it began.
    """
    if kept is None:
        yield _as_it_began([], done)
        return
    with kept.alone(done.trained_before if done.resumed else None) as found:
        if not found and not done.resumed and (old := stale_repetitions(run, kept)):
            run.note(f"the kept repetitions of {old} are stale, made by other code; not used")
        yield _as_it_began(found, done)


def _as_it_began(found: list[int], done: Done) -> list[int]:
    if done.resumed and found != done.trained_before:
        expected = f"expected {done.trained_before}, as when the checkpoint was written"
        raise Refused(f"repetitions trained before: found {found}; {expected}")
    return found


def build_ensemble(run: RunContext, group_size: int | None, trained_before: list[int]) -> Ensemble:
    """Encoders and output layer with their seeds. ``group_size``: repetitions trained together; None: what fits."""
    spec, split = run.spec, run.split
    layer = run.method.build_layer(run.settings.hidden_sizes()[-1], split.Y, spec.seed).to(run.device)
    if spec.shard and spec.shard.axis == LABELS:
        layer.rank_only(range(spec.shard.start, spec.shard.stop))
    grouping = Grouping(group_size, trained_before)
    return Ensemble(layer, split.X.shape[1], run.settings, spec.seed, run.device, grouping)


def load_repetitions(run: RunContext, ensemble: Ensemble, kept: Repetitions | None, trained_before: list[int]) -> None:
    """Set the repetitions that were trained before. Refused where their files do not fit."""
    if kept and trained_before:
        run.note(f"{len(trained_before)} of {len(ensemble.prefixes)} repetitions were trained before")
        with refusing():
            kept.load(ensemble)


def trained_only(fit_s: float, checkpoints: Checkpoints) -> Fitted:
    """Of a run that trains repetitions for others and ranks nothing."""
    earlier = (checkpoints.earlier_memory,)
    return Fitted([], [Evaluation(fit_s=fit_s)], others=earlier, earlier_s=checkpoints.earlier_s)


def evaluations_of(
    run: RunContext, ensemble: Ensemble, rankings: Sequence[RankedLabels], fit_s: Seconds
) -> list[Evaluation]:
    """R, decoder, size, seconds of training and the layer's own columns of each ranking; not yet scored."""
    facts = ensemble.built.facts() if run.spec.shard is None else [{} for _ in ensemble.prefixes]
    facts_of = dict(zip(ensemble.prefixes, facts, strict=True))
    found = []
    for ranking in rankings:
        seconds = fit_s.get(ranking.R)
        times = {"fit_s": seconds, "device_seconds": None if seconds is None else seconds * run.ranks.world_size}
        columns = {**facts_of[ranking.R], **ensemble.parameters(ranking.R), **times}
        found.append(Evaluation.from_json({"R": ranking.R, "decoder": ranking.decoder, **columns}))
    return found


def with_together(own: Evaluation, ensemble: Ensemble, repetitions: Sequence[TrainedRepetition]) -> Evaluation:
    """The run's own evaluation with how many repetitions were trained together, by whichever process; None for none."""
    together = None if ensemble.prefixes == [None] else ensemble.group_size
    together = max((repetition.together for repetition in repetitions), default=together)
    return replace(own, size={**own.size, "repetitions_together": together})


def times_of(run: RunContext, build: Clock, warmup: Clock, ranked: Ranked, fit_s: float) -> Times:
    """``fit_s``: of all repetitions."""
    return Times(
        build_s=build.seconds,
        warmup_s=warmup.seconds,
        predict_s=ranked.seconds,
        examples_per_s=run.settings.epochs * len(run.split) / fit_s,
    )


def training_of(run: RunContext, clock: Clock, ranked: Ranked, done: Done) -> Training:
    """``clock``: the fit clock."""
    world_size = run.ranks.world_size
    return Training(
        resumed=done.resumed,
        step_p50_s=clock.steps.quantile(0.5),
        step_p95_s=clock.steps.quantile(0.95),
        processes=world_size if world_size > 1 else None,
        predicting_processes=ranked.processes,
    )
