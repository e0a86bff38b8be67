"""Decoding where some labels may not be ranked, beside all labels, for `machbench speed decode_filtered`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from mach.decode.decoder import Decoder
from mach.hashing.families import hash_labels
from mach.speed.decode import K_LABELS, N_POINTS, K, R

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.integer]
Variants = dict[str, Callable[[], tuple[Floats, Ints]]]
Case = tuple[str, Variants, Variants]

MEDIAN, SPREAD, MOST = 3, 1.5, 722  # pairs of a point: log-normal; at most as many as in the dataset moby_filtered
KNOWN, OTHERS = 10, 5  # labels of a point that have high scores: those that pairs begin with, and others


def decode_filtered() -> Iterator[Case]:
    """Decoders of the top-5 labels of 256 points at Amazon-670K size, R = 32, by the mean of probabilities.

    Each case has variants with the same result, and decoding without pairs beside them. flat: scores from one
    distribution. peaked: 15 labels of a point have high scores. Up to ten of them may not be ranked, as a model gives
    high scores to what it knows of a point; the other pairs are with any labels. The method is that which suits the
    scores: with ``auto`` the ratios would also depend on when it has learnt that.
    """
    for B in (2000, 20_000):
        lookup = hash_labels(K_LABELS, B, R)
        pairs, raised = drawn_pairs(N_POINTS, K_LABELS)
        for name, scores in {"flat": _flat(B), "peaked": peaked(lookup, B, raised)}.items():
            method = "pruned" if name == "peaked" and B == 20_000 else "dense"
            yield f"B={B} {name}, {method}", *variants(scores, lookup, pairs, method)


def drawn_pairs(n_points: int, n_labels: int) -> tuple[sp.csr_matrix, list[Ints]]:
    """Pairs [n_points, n_labels] that may not be ranked, few for most points; and the labels that score high."""
    rng = np.random.default_rng(2)
    counts = np.ceil(rng.lognormal(np.log(MEDIAN), SPREAD, n_points)).astype(int).clip(1, min(MOST, n_labels // 2))
    rows = [rng.choice(n_labels, size=max(count, KNOWN) + OTHERS, replace=False) for count in counts]
    points = np.repeat(np.arange(n_points), counts)
    labels = np.concatenate([row[:count] for row, count in zip(rows, counts, strict=True)])
    pairs = sp.csr_matrix((np.ones(len(points), np.float32), (points, labels)), (n_points, n_labels))
    return pairs, [np.concatenate([row[:KNOWN], row[-OTHERS:]]) for row in rows]


def peaked(lookup: Ints, B: int, raised: list[Ints]) -> Floats:
    """Probabilities [N, R, B]: low ones, and high ones in the buckets of each point's ``raised`` labels."""
    rng = np.random.default_rng(1)
    logits = rng.normal(-4.0, 1.5, size=(len(raised), len(lookup), B)).astype(np.float32)
    for n, labels in enumerate(raised):
        for label in labels:
            logits[n, np.arange(len(lookup)), lookup[:, label]] = rng.normal(1.5, 1.5, size=len(lookup))
    return np.asarray(1.0 / (1.0 + np.exp(-logits)), dtype=np.float32)


def _flat(B: int) -> Floats:
    return np.random.default_rng(0).random((N_POINTS, R, B), dtype=np.float32)


def variants(scores: Floats, lookup: Ints, pairs: sp.csr_matrix, method: str) -> tuple[Variants, Variants]:
    """Labels left out while they are ranked, or dropped from a longer ranking; and beside them, no labels left out.

    Each has a decoder of its own, because a decoder learns from the points that it has seen.
    """
    longer = K + int(np.diff(pairs.indptr).max())

    def dropped(decoder: Decoder) -> tuple[Floats, Ints]:
        found, labels = decoder.top_k(scores, longer, estimator="mean", method=method)
        points = np.repeat(np.arange(len(labels)), longer)
        forbidden = np.asarray(pairs[points, labels.ravel()]).reshape(labels.shape) > 0
        best = np.argsort(forbidden, axis=1, kind="stable")[:, :K]
        return np.take_along_axis(found, best, 1), np.take_along_axis(labels, best, 1)

    def decoder() -> Decoder:
        made = Decoder(lookup, scores.shape[2])
        made.prepare()
        return made

    masked = partial(decoder().top_k, scores, K, estimator="mean", method=method, excluded=pairs)
    unfiltered = partial(decoder().top_k, scores, K, estimator="mean", method=method)
    return {"filtered": masked, "longer, then dropped": partial(dropped, decoder())}, {"unfiltered": unfiltered}
