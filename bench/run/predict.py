"""The rankings of a run: batch by batch, the run's own row on the clock, the other R and decoders off it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp
import torch

from bench.config.spec import RunSpec
from bench.interface import Ranking
from bench.metrics.scorer import Scorer
from bench.model.ensemble import Ensemble, RepetitionGroup
from bench.results.measurements import Memory
from bench.results.predictions import RankedLabels
from bench.results.store import REPETITIONS, Store
from bench.run.clock import Clock
from bench.run.context import RunContext
from bench.run.prediction_shards import RankingKey, gather, points_of

TopK = Callable[[sp.csr_matrix, int, sp.csr_matrix | None], list[Ranking]]


@dataclass(frozen=True)
class Points:
    """Points to rank.

    Args:
        X: their features, CSR [N, n_features].
        k: labels for each.
        batch: points ranked at a time.
        left_out: CSR [N, n_labels], pairs that may not be predicted (`bench.metrics.scorer.Scorer`); None: any may.
    """

    X: sp.csr_matrix
    k: int
    batch: int
    left_out: sp.csr_matrix | None = None


@dataclass(frozen=True)
class Ranked:
    """Rankings, the run's own last, and the seconds of that one.

    Args:
        rankings: in the order of `wanted_of`.
        seconds: of the run's own ranking; of all processes together where several made it.
        processes: how many made them, None for the run's own process alone; ``others``: what these took.
    """

    rankings: list[RankedLabels]
    seconds: float
    processes: int | None = None
    others: tuple[Memory, ...] = field(default=())


def rank_points(run: RunContext, ensemble: Ensemble, shards: Sequence[str] = ()) -> Ranked:
    """All rankings of the points to evaluate; ``shards``: runs that have made them, if any."""
    if shards:
        runs = Store(run.folder.results / REPETITIONS).runs
        found = gather(runs, shards, wanted_of(ensemble), len(run.scorer), run.note)
        if found is not None:
            return Ranked(found.rankings, found.predict_s, len(shards), found.memory)
    wanted = wanted_of(ensemble)
    own = [wanted[-1]]
    with torch.no_grad():
        with Clock(run.device).running() as predict_clock:
            points = points_to_rank(run.scorer, run.spec)
            last = predict(lambda X, *asked: ensemble.topk(X, ensemble.prefixes[-1:], *asked), points, own)
        # Off the clock: the smaller R, and other decoders, come from the same model in one more pass.
        if len(wanted) == 1:
            return Ranked(last, predict_clock.seconds)
        order = [(R, decoder) for decoder in ensemble.decoders for R in ensemble.prefixes]
        every = predict(lambda X, *asked: ensemble.topk_decoders(X, ensemble.prefixes, *asked), points, order)
    first = len(ensemble.prefixes)
    return Ranked([*every[first:], *every[: first - 1], *last], predict_clock.seconds)


def wanted_of(ensemble: Ensemble) -> list[RankingKey]:
    """R and decoder of each ranking of a run; its own comes last: all repetitions, by the first decoder."""
    first, *others = ensemble.decoders
    return [(R, name) for name in others for R in ensemble.prefixes] + [(R, first) for R in ensemble.prefixes]


def points_to_rank(scorer: Scorer, spec: RunSpec, batch: int | None = None) -> Points:
    """The points that the run evaluates, or the shard of them that it ranks, with the pairs that are left out."""
    rows = points_of(spec.shard)
    left_out = None if scorer.left_out is None else scorer.left_out[rows]
    return Points(scorer.points.X[rows], spec.train.top_k, batch or spec.train.predict_batch, left_out)


def predict(topk: TopK, points: Points, wanted: Sequence[RankingKey]) -> list[RankedLabels]:
    """Rankings of points: ``topk(X, k, left_out)`` gives (scores, labels) for each of ``wanted`` in turn."""
    parts: list[list[Ranking]] = []
    for low in range(0, points.X.shape[0], points.batch):
        rows = slice(low, low + points.batch)
        parts.append(topk(points.X[rows], points.k, None if points.left_out is None else points.left_out[rows]))
    return [
        RankedLabels(
            R, np.concatenate([part[at][0] for part in parts]), np.concatenate([part[at][1] for part in parts]), decoder
        )
        for at, (R, decoder) in enumerate(wanted)
    ]


def validate(ensemble: Ensemble, group: RepetitionGroup, scorer: Scorer) -> dict[str, float]:
    """P@k on the scorer's points of all that is trained when ``group`` is being trained."""
    points = Points(scorer.points.X, ensemble.settings.top_k, ensemble.settings.predict_batch, scorer.left_out)
    with torch.no_grad():
        (ranked,) = predict(lambda X, *asked: [ensemble.topk_so_far(X, group, *asked)], points, [(None, None)])
    return scorer.precision(ranked.labels)
