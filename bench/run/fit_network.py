"""Build, train and predict with one method on the clock: a network with an output layer, or a classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch

from bench.config.spec import NOTHING, RunSpec, TrainSettings, derive_seed
from bench.data import Dataset
from bench.data.dataset import identity_of as identity_of_data
from bench.interface import Ranking
from bench.metrics.ranking import evaluate
from bench.metrics.scorer import evaluated_points
from bench.model.built_method import BuiltClassifier
from bench.model.ensemble import Ensemble, Grouping, RepetitionGroup
from bench.model.methods import Method
from bench.results.predictions import RankedLabels
from bench.results.run_folder import RunFolder
from bench.results.store import REPETITIONS, WEIGHTS, Store
from bench.run.checkpoint.checkpoint import Checkpoints, Refused, identity_of, refusing
from bench.run.checkpoint.trained_repetitions import Repetitions, names
from bench.run.checkpoint.training_state import random_state, set_random_state
from bench.run.clock import Clock
from bench.run.predict import predict
from bench.run.prediction_shards import LABELS, Gathered, gather, points_of
from bench.run.ranks.group import ALONE, ProcessGroup
from bench.run.train import train_groups

Report = Callable[[dict[str, Any]], None]


def fit_network(
    method: Method,
    spec: RunSpec,
    data: Dataset,
    device: torch.device,
    report: Report,
    folder: RunFolder,
    shards: Sequence[str] = (),
    ranks: ProcessGroup = ALONE,
) -> tuple[list[RankedLabels], list[dict[str, Any]], dict[str, Any]]:
    """Build, warm up, train and predict with an output layer on the shared trunk; in all processes of the run at once.

    A run that was killed goes on from its checkpoint; from the beginning, and says so, if that cannot be used.
    ``shards``: runs that hold its predictions, if any (`bench.run.prediction_shards`).
    """

    def note(text: str) -> None:
        report({"note": text})

    def attempt(checkpoints: Checkpoints) -> tuple[list[RankedLabels], list[dict[str, Any]], dict[str, Any]]:
        with ExitStack() as held:
            return _fit_network(method, spec, data, device, report, folder, checkpoints, shards, held)

    def checkpoints() -> Checkpoints:
        identity = identity_of(folder.run_id, spec, data)
        return Checkpoints(folder.checkpoint, identity, spec.train, device, note, ranks)

    at_first, found = random_state(device), checkpoints()
    try:
        found.find()
        return attempt(found)
    except Refused as why:
        note(f"checkpoint not used, the run starts over: {why}")
    set_random_state(device, at_first)
    return attempt(checkpoints())


def kept_repetitions(
    method: Method, spec: RunSpec, data: Dataset, device: torch.device, note: Callable[[str], None], folder: RunFolder
) -> Repetitions | None:
    """Where the run's repetitions are kept; None where it is not to keep them, or the layer has none to be kept."""
    if not spec.train.keep_repetitions or not method.has_parts:
        return None
    identity = identity_of_data(data.fingerprint, spec.dataset)
    named = names(method, spec, folder.code(), identity, device.type, torch.get_num_threads())
    return Repetitions(folder.path.parents[2] / REPETITIONS / WEIGHTS, named, note) if named else None


def _fit_network(
    method: Method,
    spec: RunSpec,
    data: Dataset,
    device: torch.device,
    report: Report,
    folder: RunFolder,
    checkpoints: Checkpoints,
    shards: Sequence[str],
    held: ExitStack,
) -> tuple[list[RankedLabels], list[dict[str, Any]], dict[str, Any]]:
    settings, done, world_size = spec.train, checkpoints.done, checkpoints.ranks.world_size
    split = data.fit if settings.holdout else data.train

    def note(text: str) -> None:
        report({"note": text})

    kept = kept_repetitions(method, spec, data, device, note, folder)
    at_hand = held.enter_context(kept.alone(done.at_hand if done.resumed else None)) if kept else []
    if done.resumed and at_hand != done.at_hand:
        raise Refused(f"repetitions at hand: found {at_hand}; expected {done.at_hand}, which were when it was written")
    report({"phase": "build"})
    with Clock(device).running() as build_clock:
        layer = method.build_layer(settings.hidden_sizes()[-1], split.Y, spec.seed).to(device)
        if spec.shard and spec.shard.axis == LABELS:
            layer.rank_only(range(spec.shard.start, spec.shard.stop))
        ensemble = Ensemble(layer, split.X.shape[1], settings, spec.seed, device, Grouping(done.group_size, at_hand))
    report({"phase": "warm up"})
    with Clock(device).running() as warmup_clock:
        ensemble.warm_up(split.X, split.Y)

    checkpoints.restore(ensemble, at_hand)
    if kept and at_hand:
        note(f"{len(at_hand)} of {len(ensemble.prefixes)} repetitions were trained before")
        with refusing():
            kept.load(ensemble)
    curve = done.curve
    if curve:
        note(f"goes on from a checkpoint: {len(curve)} epochs, {done.fit_s:.1f} s of training")
        folder.write_curve(curve)

    def after_epoch(group: RepetitionGroup, epoch: int, mean_loss: float, seconds: float) -> None:
        checkpoints.ranks.compare(group.network.encoder)
        point = {"repetitions": group.label, "epoch": epoch, "fit_s": seconds, "train_loss": mean_loss}
        if settings.holdout and settings.validate_every and epoch % settings.validate_every == 0:
            point |= validate(ensemble, group, data)
        curve.append(point)
        folder.write_curve(curve)
        report({"phase": "fit", "done": len(curve) / n_epochs, **point})

    def after_group(group: RepetitionGroup, seconds: float) -> None:
        try:
            if kept:
                kept.keep(ensemble, group, seconds)
        except OSError as error:
            if settings.evaluate_on == NOTHING:  # then this is what the run is for
                raise
            note(f"repetitions {group.label} not kept: {error}")

    n_epochs = max(1, len(ensemble.to_train) * settings.epochs)
    report({"phase": "fit", "done": len(curve) / n_epochs})
    before = {r: trained.seconds for r, trained in kept.trained.items()} if kept else {}
    clock = Clock(device)
    fit_s = train_groups(
        ensemble, split.X, split.Y, clock, after_epoch, checkpoints.keeper, done.finished, before, after_group
    )
    if settings.evaluate_on == NOTHING:
        return [], [{"fit_s": fit_s[ensemble.prefixes[-1]]}], {"earlier": checkpoints.earlier}

    report({"phase": "predict"})
    gathered = _gathered(ensemble, data, settings, folder, shards, note) if shards else None
    if gathered is None:
        predictions, predict_s = _predict(ensemble, data, spec, device)
    else:
        predictions, predict_s = gathered.predictions, gathered.predict_s
    rows: list[dict[str, Any]] = []
    facts = ensemble.built.facts() if spec.shard is None else [{} for _ in ensemble.prefixes]
    told = dict(zip(ensemble.prefixes, facts, strict=True))
    for prediction in predictions:
        R = prediction.R
        row = dict(told[R]) if R is None else {"R": R, **told[R]}
        if prediction.decoder:
            row = row | {"decoder": prediction.decoder}
        seconds = fit_s.get(R)
        times = {"fit_s": seconds, "device_seconds": None if seconds is None else seconds * world_size}
        rows.append(row | ensemble.parameters(R) | times)
    measured = {
        "build_s": build_clock.seconds,
        "warmup_s": warmup_clock.seconds,
        "predict_s": predict_s,
        "predicting_processes": gathered.processes if gathered else None,
        "peaks_of_shards": gathered.peaks if gathered else {},
        "repetitions_together": ensemble.group_size if ensemble.prefixes != [None] else None,
        "training_processes": world_size if world_size > 1 else None,
        "resumed": done.resumed,
        "earlier": checkpoints.earlier,
        "examples_per_s": settings.epochs * split.X.shape[0] / fit_s[ensemble.prefixes[-1]],
        **clock.steps.columns(),
        "repetitions": [kept.trained[r] for r in sorted(kept.trained)] if kept else [],
    }
    return predictions, rows, measured


def _predict(
    ensemble: Ensemble, data: Dataset, spec: RunSpec, device: torch.device
) -> tuple[list[RankedLabels], float]:
    """All rankings, in the order of `_asked`, and the seconds that the last of them took."""
    last = ensemble.prefixes[-1:]
    with torch.no_grad():
        with Clock(device).running() as clock:
            whole = predict_points(ensemble.topk, data, last, spec, ensemble.decoders[:1])
        # Off the clock: the smaller R, and other ways of decoding, come from the same model in one more pass.
        several = len(ensemble.prefixes) * len(ensemble.decoders) > 1
        every = predict_points(
            ensemble.topk_decoders, data, ensemble.prefixes if several else [], spec, ensemble.decoders
        )
    first = len(ensemble.prefixes)
    return [*every[first:], *every[: first - 1], *whole], clock.seconds


def _asked(ensemble: Ensemble) -> list[tuple[int | None, str | None]]:
    """R and decoder of each ranking of a run; its own comes last: all repetitions, decoded in the first way."""
    first, *others = ensemble.decoders
    return [(R, name) for name in others for R in ensemble.prefixes] + [(R, first) for R in ensemble.prefixes]


def _gathered(
    ensemble: Ensemble,
    data: Dataset,
    settings: TrainSettings,
    folder: RunFolder,
    shards: Sequence[str],
    note: Callable[[str], None],
) -> Gathered | None:
    runs = Store(folder.path.parents[2] / REPETITIONS).runs
    return gather(runs, shards, _asked(ensemble), len(evaluated_points(data, settings.evaluate_on)), note)


def predict_points(
    topk: Callable[[Any, list[int | None], int], list[Ranking]],
    data: Dataset,
    prefixes: list[int | None],
    spec: RunSpec,
    decoders: Sequence[str | None] = (None,),
) -> list[RankedLabels]:
    """Rankings of the points to evaluate; of test points without the pairs that the dataset leaves out of scoring."""
    settings = spec.train

    def of_prefixes(X: Any, k: int) -> list[Ranking]:
        return topk(X, prefixes, k)

    rows = points_of(spec.shard)
    X = evaluated_points(data, settings.evaluate_on).X[rows]
    without = data.test_filter if settings.evaluate_on == "test" else None
    left_out = None if without is None else without[rows]
    return predict(of_prefixes, X, prefixes, settings.top_k, settings.predict_batch, left_out, decoders)


def validate(ensemble: Ensemble, group: RepetitionGroup, data: Dataset) -> dict[str, float]:
    """P@k on the validation points of all that is trained when ``group`` is being trained."""
    with torch.no_grad():
        (prediction,) = predict(
            lambda X, k: [ensemble.topk_so_far(X, group, k)],
            data.validation.X,
            [None],
            ensemble.settings.top_k,
            ensemble.settings.predict_batch,
        )
    quality = evaluate(prediction.labels, data.validation.Y)
    return {name: quality[name] for name in ("P@1", "P@3", "P@5")}


def fit_classifier(
    method: Method, spec: RunSpec, data: Dataset, device: torch.device, report: Report, folder: RunFolder
) -> tuple[list[RankedLabels], list[dict[str, Any]], dict[str, Any]]:
    """Fit and predict with a classifier that is not a network (`bench.interface.Classifier`); the same clocks."""
    del folder
    settings = spec.train
    split = data.fit if settings.holdout else data.train
    classifier = method.build_classifier()
    built = BuiltClassifier(classifier)
    times: dict[str, Any] = {}
    if built.prepares:
        report({"phase": "build"})
        with Clock(device).running() as build_clock:
            built.prepare(seed=derive_seed(spec.seed, "initialisation"), threads=settings.threads)
        times["build_s"] = build_clock.seconds
    report({"phase": "fit"})
    with Clock(device).running() as fit_clock:
        classifier.fit(split.X, split.Y)
    report({"phase": "predict"})
    if not built.batched:
        every = max(1, len(evaluated_points(data, settings.evaluate_on)))
        spec = replace(spec, train=replace(settings, predict_batch=every))
    with Clock(device).running() as predict_clock:
        predictions = predict_points(lambda X, _, k: [classifier.topk(X, k)], data, [None], spec)
    times |= {"fit_s": fit_clock.seconds, "predict_s": predict_clock.seconds}
    if (facts := built.facts()) is not None:
        times |= facts
        times["build_s"] = times.get("build_s", 0.0) + fit_clock.seconds - times["fit_s"]
    times["device_seconds"] = times["fit_s"]
    return predictions, [{}], times
