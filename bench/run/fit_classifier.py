"""Fit a classifier that is not a network, and rank with it, on the same clocks as a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bench.config.spec import derive_seed
from bench.model.built_method import BuiltClassifier
from bench.results.measurements import Memory, Times
from bench.results.record import Evaluation
from bench.run.clock import Clock
from bench.run.context import Fitted, RunContext
from bench.run.predict import points_to_rank, predict


def fit_classifier(run: RunContext) -> Fitted:
    """Fit and predict with a `bench.interface.Classifier`."""
    split = run.split  # off the clocks: without the validation points it is a copy
    classifier = run.method.build_classifier()
    built = BuiltClassifier(classifier)
    build_s = prepare(run, built)
    run.begin("fit")
    with Clock(run.device).running() as fit_clock:
        classifier.fit(split.X, split.Y)
    run.begin("predict")
    batch = None if built.batched else len(run.scorer)
    with Clock(run.device).running() as predict_clock:
        points = points_to_rank(run.scorer, run.spec, batch)
        rankings = predict(lambda X, *asked: [built.topk(X, *asked)], points, [(None, None)])
    own = built.facts()
    times = Times(build_s=build_s, predict_s=predict_clock.seconds)
    if own is None:
        return Fitted(rankings, [_evaluation({}, fit_clock.seconds)], times)
    evaluation = _evaluation(own, fit_clock.seconds)
    assert evaluation.fit_s is not None
    # Where a method works in another process and measures there, what is left of its ``fit`` was not fitting.
    rest = fit_clock.seconds - evaluation.fit_s
    times = times.with_known(Times.from_json(own))
    times = replace(times, build_s=(times.build_s or 0.0) + rest)
    return Fitted(rankings, [evaluation], times, own_memory=Memory.from_json(own))


def prepare(run: RunContext, built: BuiltClassifier) -> float | None:
    """Have it build what it needs before it sees data, on the clock; None where it offers no such step."""
    if not built.prepares:
        return None
    run.begin("build")
    with Clock(run.device).running() as build_clock:
        built.prepare(seed=derive_seed(run.spec.seed, "initialisation"), threads=run.settings.threads)
    return build_clock.seconds


def _evaluation(own: Mapping[str, Any], fit_s: float) -> Evaluation:
    """``own``: columns of the method, whose seconds go before those of the harness."""
    evaluation = Evaluation.from_json({"fit_s": fit_s, **own})
    return replace(evaluation, device_seconds=evaluation.fit_s)
