"""The predictions of one run made by several processes: each takes some points, or some labels; joined exactly.

Only for runs whose repetitions are kept (`bench.run.checkpoint.trained_repetitions`), because each of the processes has
to have the model. See docs/cluster.md."""

from __future__ import annotations

import itertools
import json
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.columns import MEMORIES, PHASES
from bench.config.spec import RunSpec, Share
from bench.results.predictions import RankedLabels

POINTS, LABELS = "points", "labels"


def cut(
    n_points: int, n_labels: int, batch: int, workers: int, needed: int | None, memory: float, by_label: bool
) -> list[Share]:
    """The shares of that many workers; none where one of them may as well do it alone.

    Points are cut between batches, so that a batch is what it is in one process, and with it every score. They are
    shared wherever each worker gets a batch and has room for all labels: a process that has some labels still
    computes the hidden units of all points. ``needed``: predicted bytes of a process that ranks all labels (None: not
    known), of ``memory`` that a worker has; by_label: whether the layer can rank some labels alone.
    """
    n_batches = -(-n_points // batch)
    tight = needed is not None and needed > memory
    if by_label and (tight or n_batches < workers) and n_labels >= workers:
        return [Share(LABELS, low, high) for low, high in _ranges(n_labels, workers)]
    found = [
        Share(POINTS, low * batch, min(high * batch, n_points))
        for low, high in _ranges(n_batches, min(workers, n_batches))
    ]
    return found if len(found) > 1 else []


def _ranges(total: int, parts: int) -> list[tuple[int, int]]:
    """0 … total in so many ranges, whose sizes differ by one at most."""
    return [(total * at // parts, total * (at + 1) // parts) for at in range(parts)]


def share_spec(spec: RunSpec, share: Share) -> RunSpec:
    """The spec that makes one share of a run's predictions from its kept repetitions."""
    return replace(spec, train=replace(spec.train, validate_every=0, keep_repetitions=True), share=share)


def points_of(share: Share | None) -> slice:
    """Places of the points that a share predicts for; all where it shares the labels, or is none."""
    return slice(share.start, share.stop) if share and share.of == POINTS else slice(None)


@dataclass(frozen=True)
class Gathered:
    """Predictions joined from shares, the run's own last; seconds of all shares; the highest peaks; how many."""

    predictions: list[RankedLabels]
    predict_s: float
    peaks: dict[str, int]
    processes: int


def gather(
    runs: Path,
    run_ids: Sequence[str],
    expected: Sequence[tuple[int | None, str | None]],
    n_points: int,
    note: Callable[[str], None],
) -> Gathered | None:
    """What runs in the folder ``runs`` predicted, joined; None, and told, where a file is missing or does not fit.

    expected: R and decoder of each ranking, in order.
    """
    try:
        shares, labels, scores, rows = [], [], [], []
        for run_id in run_ids:
            spec = RunSpec.from_json((runs / run_id / "spec.json").read_text())
            rows.append(json.loads((runs / run_id / "record.json").read_text())["rows"][-1])
            with np.load(runs / run_id / "topk.npz", allow_pickle=False) as arrays:
                found = [
                    (R or None, str(name) or None)
                    for R, name in zip(arrays["R"].tolist(), arrays["decoder"], strict=True)
                ]
                labels.append(arrays["labels"])
                scores.append(arrays["scores"])
            if spec.share is None or found != list(expected):
                raise ValueError(f"{run_id}: found rankings by {found}; expected a share of {list(expected)}")
            shares.append(spec.share)
        joined = join(shares, scores, labels, n_points)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        note(f"shares of the predictions not used, all is predicted here: {error}")
        return None
    predictions = [RankedLabels(R, joined[0][at], joined[1][at], decoder) for at, (R, decoder) in enumerate(expected)]
    columns = [f"peak_{kind}{phase}_bytes" for kind in MEMORIES for phase in ("", *(f"_{name}" for name in PHASES))]
    peaks = {name: max(of) for name in columns if (of := [row[name] for row in rows if row.get(name) is not None])}
    return Gathered(predictions, sum(row["predict_s"] for row in rows), peaks, len(rows))


def join(
    shares: Sequence[Share], scores: Sequence[npt.NDArray[np.float32]], labels: Sequence[npt.NDArray[np.int32]], n: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Rankings (scores, labels) [P, n, k] from those of all shares, each [P, N, k], in any order.

    Of shares of the labels each holds the best k of its own, so that the best k of all are among them; ties go to the
    lowest label id, as ever. ValueError where the shares are not all of one kind, or overlap, or leave a gap.
    """
    order = sorted(range(len(shares)), key=lambda at: shares[at].start)
    kinds = {share.of for share in shares}
    met = all(shares[a].stop == shares[b].start for a, b in itertools.pairwise(order))
    if len(kinds) != 1 or not met or shares[order[0]].start != 0:
        raise ValueError(f"found shares {list(shares)}; expected neighbours of one kind, from 0 on")
    by_label = kinds == {LABELS}
    axis = 2 if by_label else 1
    found = np.concatenate([scores[at] for at in order], axis), np.concatenate([labels[at] for at in order], axis)
    if found[0].shape[1] != n:
        raise ValueError(f"found predictions of {found[0].shape[1]} points; expected {n}")
    if not by_label:
        return found
    k = max(array.shape[2] for array in labels)
    best = np.lexsort((found[1], -found[0]))[..., :k]
    return np.take_along_axis(found[0], best, 2), np.take_along_axis(found[1], best, 2)
