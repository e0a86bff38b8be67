"""The predictions of one run made by several processes: each takes a shard of the points or of the labels.

Joined, the shards are exactly the predictions of one process. Each process needs the whole model, so this is for runs
whose repetitions are kept (`bench.run.checkpoint.trained_repetitions`). See docs/cluster.md."""

from __future__ import annotations

import itertools
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.common.errors import InputError
from bench.config.spec import RunSpec, Shard
from bench.results.measurements import Memory
from bench.results.predictions import RankedLabels
from bench.results.record import read_record

POINTS, LABELS = "points", "labels"
RankingKey = tuple[int | None, str | None]  # R and decoder of a ranking


@dataclass(frozen=True)
class PredictionSize:
    """What decides how predictions are split.

    ``needed_bytes``: predicted memory of a process that ranks all labels; None where it is not known. ``by_label``:
    whether the layer can rank a range of labels alone.
    """

    n_points: int
    n_labels: int
    batch: int  # points per batch
    needed_bytes: int | None = None
    by_label: bool = False


def split(size: PredictionSize, workers: int, memory_bytes: float) -> list[Shard]:
    """The shards for so many workers with so much memory each; none where one process may as well predict alone.

    Points are split between batches, so that a batch, and with it every score, is what it is in one process. Points are
    split wherever each worker gets a batch and has memory for all labels; labels otherwise, because a process with a
    shard of the labels still computes the hidden units of all points.
    """
    n_batches = -(-size.n_points // size.batch)
    too_large = size.needed_bytes is not None and size.needed_bytes > memory_bytes
    if size.by_label and (too_large or n_batches < workers) and size.n_labels >= workers:
        return [Shard(LABELS, low, high) for low, high in _ranges(size.n_labels, workers)]
    found = [
        Shard(POINTS, low * size.batch, min(high * size.batch, size.n_points))
        for low, high in _ranges(n_batches, min(workers, n_batches))
    ]
    return found if len(found) > 1 else []


def _ranges(total: int, parts: int) -> list[tuple[int, int]]:
    """0 … total in so many ranges, whose sizes differ by one at most."""
    return [(total * at // parts, total * (at + 1) // parts) for at in range(parts)]


def shard_spec(spec: RunSpec, shard: Shard) -> RunSpec:
    """The spec that makes one shard of a run's predictions from its kept repetitions."""
    return replace(spec, train=replace(spec.train, validate_every=0, keep_repetitions=True), shard=shard)


def points_of(shard: Shard | None) -> slice:
    """The rows of the points that a shard predicts for; all rows where the labels are split, or nothing is."""
    return slice(shard.start, shard.stop) if shard and shard.axis == POINTS else slice(None)


@dataclass(frozen=True)
class Gathered:
    """Predictions joined from shards, the run's own last; seconds of all shards, and what each took."""

    rankings: list[RankedLabels]
    predict_s: float
    memory: tuple[Memory, ...]


def gather(
    runs: Path,
    run_ids: Sequence[str],
    expected: Sequence[RankingKey],
    n_points: int,
    note: Callable[[str], None],
) -> Gathered | None:
    """What runs in the folder ``runs`` predicted, joined; None, with a note, where a file is missing or does not fit.

    expected: R and decoder of each ranking, in order.
    """
    try:
        shards = [_read_shard(runs / run_id, expected) for run_id in run_ids]
        scores, labels = join(
            [found.shard for found in shards], [found.scores for found in shards], [found.labels for found in shards],
            n_points,
        )  # fmt: skip
        seconds = sum(found.predict_s for found in shards)
    except (InputError, OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        note(f"shards of the predictions not used, all is predicted here: {error}")
        return None
    rankings = [RankedLabels(R, scores[at], labels[at], decoder) for at, (R, decoder) in enumerate(expected)]
    return Gathered(rankings, seconds, tuple(found.memory for found in shards))


@dataclass(frozen=True)
class _Shard:
    """One shard of the predictions, as its run left it: scores and labels [P, N, k]."""

    shard: Shard
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    predict_s: float
    memory: Memory


def _read_shard(folder: Path, expected: Sequence[RankingKey]) -> _Shard:
    spec = RunSpec.from_json((folder / "spec.json").read_text())
    record = read_record(folder / "record.json")
    with np.load(folder / "topk.npz", allow_pickle=False) as arrays:
        found = [
            (R or None, str(name) or None) for R, name in zip(arrays["R"].tolist(), arrays["decoder"], strict=True)
        ]
        labels, scores = arrays["labels"], arrays["scores"]
    if spec.shard is None or found != list(expected):
        raise ValueError(f"{folder.name}: found rankings by {found}; expected a shard of {list(expected)}")
    if record.times.predict_s is None:
        raise ValueError(f"{folder.name}: found no predict_s; expected the seconds of its predictions")
    return _Shard(spec.shard, scores, labels, record.times.predict_s, record.memory)


def join(
    shards: Sequence[Shard], scores: Sequence[npt.NDArray[np.float32]], labels: Sequence[npt.NDArray[np.int32]], n: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Rankings (scores, labels) [P, n, k] from those of all shards, each [P, N, k], in any order.

    Each shard of the labels has the best k of its own labels, so the best k of all labels are among them; ties go to
    the lowest label id, as in one process. ValueError where the shards are not all of one axis, overlap, or leave a
    gap.
    """
    order = sorted(range(len(shards)), key=lambda at: shards[at].start)
    axes = {shard.axis for shard in shards}
    adjacent = all(shards[a].stop == shards[b].start for a, b in itertools.pairwise(order))
    if len(axes) != 1 or not adjacent or shards[order[0]].start != 0:
        raise ValueError(f"found shards {list(shards)}; expected adjacent ones of one axis, from 0 on")
    by_label = axes == {LABELS}
    axis = 2 if by_label else 1
    found = np.concatenate([scores[at] for at in order], axis), np.concatenate([labels[at] for at in order], axis)
    if found[0].shape[1] != n:
        raise ValueError(f"found predictions of {found[0].shape[1]} points; expected {n}")
    if not by_label:
        return found
    k = max(array.shape[2] for array in labels)
    best = np.lexsort((found[1], -found[0]))[..., :k]
    return np.take_along_axis(found[0], best, 2), np.take_along_axis(found[1], best, 2)
