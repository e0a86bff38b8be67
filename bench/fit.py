"""Build, train and predict with one method on the clock: a network with an output layer, or a classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch

from bench import measure
from bench.checkpoint import Checkpoints, Refused, identity_of, refusing
from bench.data import Dataset
from bench.metrics import evaluate
from bench.predict import Prediction, Ranking, predict
from bench.prepare import identity_of as identity_of_data
from bench.ranks import ALONE, Ranks
from bench.repetitions import Repetitions, names
from bench.score import evaluated_points
from bench.shares import LABELS, Gathered, gather, points_of
from bench.spec import NOTHING, RunSpec, TrainSettings, derive_seed
from bench.store import REPETITIONS, WEIGHTS, RunFolder, Store
from bench.training_state import random_state, set_random_state
from bench.worlds import Group, Worlds

Report = Callable[[dict[str, Any]], None]


def fit_network(
    method: type,
    spec: RunSpec,
    data: Dataset,
    device: torch.device,
    report: Report,
    folder: RunFolder,
    shares: Sequence[str] = (),
    ranks: Ranks = ALONE,
) -> tuple[list[Prediction], list[dict[str, Any]], dict[str, Any]]:
    """Build, warm up, train and predict with an output layer on the shared trunk; in all processes of the run at once.

    A run that was killed goes on from its checkpoint; from the beginning, and says so, if that cannot be used.
    ``shares``: runs that hold its predictions, if any (`bench.shares`).
    """

    def note(text: str) -> None:
        report({"note": text})

    def attempt(checkpoints: Checkpoints) -> tuple[list[Prediction], list[dict[str, Any]], dict[str, Any]]:
        with ExitStack() as held:
            return _fit_network(method, spec, data, device, report, folder, checkpoints, shares, held)

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
    method: Any, spec: RunSpec, data: Dataset, device: torch.device, note: Callable[[str], None], folder: RunFolder
) -> Repetitions | None:
    """Where the run's repetitions are kept; None where it is not to keep them, or the layer has none to be kept."""
    if not spec.train.keep_repetitions or not hasattr(method, "part"):
        return None
    identity, total = identity_of_data(data.fingerprint, spec.dataset), method.encoders(**spec.settings)["repetitions"]
    named = names(method, spec, folder.code(), identity, device.type, torch.get_num_threads(), total)
    return Repetitions(folder.path.parents[2] / REPETITIONS / WEIGHTS, named, note) if named else None


def _fit_network(
    method: type,
    spec: RunSpec,
    data: Dataset,
    device: torch.device,
    report: Report,
    folder: RunFolder,
    checkpoints: Checkpoints,
    shares: Sequence[str],
    held: ExitStack,
) -> tuple[list[Prediction], list[dict[str, Any]], dict[str, Any]]:
    settings, done, world_size = spec.train, checkpoints.done, checkpoints.ranks.world_size
    split = data.fit if settings.holdout else data.train

    def note(text: str) -> None:
        report({"note": text})

    kept = kept_repetitions(method, spec, data, device, note, folder)
    at_hand = held.enter_context(kept.alone(done.at_hand if done.resumed else None)) if kept else []
    if done.resumed and at_hand != done.at_hand:
        raise Refused(f"repetitions at hand: found {at_hand}; expected {done.at_hand}, which were when it was written")
    report({"phase": "build"})
    with measure.Clock(device).running() as build_clock:
        seeds = {axis: derive_seed(spec.seed, axis) for axis in ("hashing", "initialisation", "sampling")}
        layer = method(
            n_labels=split.Y.shape[1],
            hidden=settings.hidden_sizes()[-1],
            train_labels=split.Y,
            seeds=seeds,
            **spec.settings,
        ).to(device)
        if spec.share and spec.share.of == LABELS:
            layer.rank_only(range(spec.share.start, spec.share.stop))
        worlds = Worlds(layer, split.X.shape[1], settings, spec.seed, device, done.group_size, at_hand)
    report({"phase": "warm up"})
    with measure.Clock(device).running() as warmup_clock:
        worlds.warm_up(split.X, split.Y)

    checkpoints.restore(worlds, at_hand)
    if kept and at_hand:
        note(f"{len(at_hand)} of {len(worlds.prefixes)} repetitions were trained before")
        with refusing():
            kept.load(worlds)
    curve = done.curve
    if curve:
        note(f"goes on from a checkpoint: {len(curve)} epochs, {done.fit_s:.1f} s of training")
        folder.write_curve(curve)

    def after_epoch(group: Group, epoch: int, mean_loss: float, seconds: float) -> None:
        checkpoints.ranks.compare(group.network.encoder)
        point = {"repetitions": group.label, "epoch": epoch, "fit_s": seconds, "train_loss": mean_loss}
        if settings.holdout and settings.validate_every and epoch % settings.validate_every == 0:
            point |= validate(worlds, group, data)
        curve.append(point)
        folder.write_curve(curve)
        report({"phase": "fit", "done": len(curve) / n_epochs, **point})

    def after_group(group: Group, seconds: float) -> None:
        try:
            if kept:
                kept.keep(worlds, group, seconds)
        except OSError as error:
            if settings.evaluate_on == NOTHING:  # then this is what the run is for
                raise
            note(f"repetitions {group.label} not kept: {error}")

    n_epochs = max(1, len(worlds.to_train) * settings.epochs)
    report({"phase": "fit", "done": len(curve) / n_epochs})
    before = {r: trained.seconds for r, trained in kept.trained.items()} if kept else {}
    fit_s = worlds.train(split.X, split.Y, after_epoch, checkpoints.keeper, done.finished, before, after_group)
    if settings.evaluate_on == NOTHING:
        return [], [{"fit_s": fit_s[worlds.prefixes[-1]]}], {"earlier": checkpoints.earlier}

    report({"phase": "predict"})
    gathered = _gathered(worlds, data, settings, folder, shares, note) if shares else None
    if gathered is None:
        predictions, predict_s = _predict(worlds, data, spec, device)
    else:
        predictions, predict_s = gathered.predictions, gathered.predict_s
    rows: list[dict[str, Any]] = []
    facts = layer.facts() if hasattr(layer, "facts") and spec.share is None else [{} for _ in worlds.prefixes]
    told = dict(zip(worlds.prefixes, facts, strict=True))
    for prediction in predictions:
        R = prediction.R
        row = told[R] if R is None else {"R": R} | told[R]
        if prediction.decoder:
            row = row | {"decoder": prediction.decoder}
        seconds = fit_s.get(R)
        times = {"fit_s": seconds, "device_seconds": None if seconds is None else seconds * world_size}
        rows.append(row | worlds.parameters(R) | times)
    measured = {
        "build_s": build_clock.seconds,
        "warmup_s": warmup_clock.seconds,
        "predict_s": predict_s,
        "predicting_processes": gathered.processes if gathered else None,
        "peaks_of_shares": gathered.peaks if gathered else {},
        "repetitions_together": worlds.group_size if worlds.prefixes != [None] else None,
        "training_processes": world_size if world_size > 1 else None,
        "resumed": done.resumed,
        "earlier": checkpoints.earlier,
        "examples_per_s": settings.epochs * split.X.shape[0] / fit_s[worlds.prefixes[-1]],
        **worlds.steps.columns(),
        "repetitions": [kept.trained[r] for r in sorted(kept.trained)] if kept else [],
    }
    return predictions, rows, measured


def _predict(worlds: Worlds, data: Dataset, spec: RunSpec, device: torch.device) -> tuple[list[Prediction], float]:
    """All rankings, in the order of `_asked`, and the seconds that the last of them took."""
    last = worlds.prefixes[-1:]
    with torch.no_grad():
        with measure.Clock(device).running() as clock:
            whole = predict_points(worlds.topk, data, last, spec, worlds.decoders[:1])
        # Off the clock: the smaller R, and other ways of decoding, come from the same model in one more pass.
        several = len(worlds.prefixes) * len(worlds.decoders) > 1
        every = predict_points(worlds.topk_decoders, data, worlds.prefixes if several else [], spec, worlds.decoders)
    first = len(worlds.prefixes)
    return [*every[first:], *every[: first - 1], *whole], clock.seconds


def _asked(worlds: Worlds) -> list[tuple[int | None, str | None]]:
    """R and decoder of each ranking of a run; its own comes last: all repetitions, decoded in the first way."""
    first, *others = worlds.decoders
    return [(R, name) for name in others for R in worlds.prefixes] + [(R, first) for R in worlds.prefixes]


def _gathered(
    worlds: Worlds,
    data: Dataset,
    settings: TrainSettings,
    folder: RunFolder,
    shares: Sequence[str],
    note: Callable[[str], None],
) -> Gathered | None:
    runs = Store(folder.path.parents[2] / REPETITIONS).runs
    return gather(runs, shares, _asked(worlds), len(evaluated_points(data, settings.evaluate_on)), note)


def predict_points(
    topk: Callable[[Any, list[int | None], int], list[Ranking]],
    data: Dataset,
    prefixes: list[int | None],
    spec: RunSpec,
    decoders: Sequence[str | None] = (None,),
) -> list[Prediction]:
    """Rankings of the points to evaluate; of test points without the pairs that the dataset leaves out of scoring."""
    settings = spec.train

    def of_prefixes(X: Any, k: int) -> list[Ranking]:
        return topk(X, prefixes, k)

    rows = points_of(spec.share)
    X = evaluated_points(data, settings.evaluate_on).X[rows]
    without = data.test_filter if settings.evaluate_on == "test" else None
    left_out = None if without is None else without[rows]
    return predict(of_prefixes, X, prefixes, settings.top_k, settings.predict_batch, left_out, decoders)


def validate(worlds: Worlds, group: Group, data: Dataset) -> dict[str, float]:
    """P@k on the validation points of all that is trained when ``group`` is being trained."""
    with torch.no_grad():
        (prediction,) = predict(
            lambda X, k: [worlds.topk_so_far(X, group, k)],
            data.validation.X,
            [None],
            worlds.settings.top_k,
            worlds.settings.predict_batch,
        )
    quality = evaluate(prediction.labels, data.validation.Y)
    return {name: quality[name] for name in ("P@1", "P@3", "P@5")}


def fit_classifier(
    method: type, spec: RunSpec, data: Dataset, device: torch.device, report: Report, folder: RunFolder
) -> tuple[list[Prediction], list[dict[str, Any]], dict[str, Any]]:
    """Fit and predict with a classifier that is not a network (`bench.classifier.Classifier`); the same clocks."""
    del folder
    settings = spec.train
    split = data.fit if settings.holdout else data.train
    classifier = method(**spec.settings)
    times: dict[str, Any] = {}
    if hasattr(classifier, "prepare"):
        report({"phase": "build"})
        with measure.Clock(device).running() as build_clock:
            classifier.prepare(seed=derive_seed(spec.seed, "initialisation"), threads=settings.threads)
        times["build_s"] = build_clock.seconds
    report({"phase": "fit"})
    with measure.Clock(device).running() as fit_clock:
        classifier.fit(split.X, split.Y)
    report({"phase": "predict"})
    if not getattr(classifier, "batched", True):
        every = max(1, len(evaluated_points(data, settings.evaluate_on)))
        spec = replace(spec, train=replace(settings, predict_batch=every))
    with measure.Clock(device).running() as predict_clock:
        predictions = predict_points(lambda X, _, k: [classifier.topk(X, k)], data, [None], spec)
    times |= {"fit_s": fit_clock.seconds, "predict_s": predict_clock.seconds}
    if hasattr(classifier, "facts"):
        times |= classifier.facts()
        times["build_s"] = times.get("build_s", 0.0) + fit_clock.seconds - times["fit_s"]
    times["device_seconds"] = times["fit_s"]
    return predictions, [{}], times
