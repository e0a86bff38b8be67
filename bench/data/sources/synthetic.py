"""Source `synthetic`: twins of published datasets, of any size, learnable, from a seed.

How a twin is made (everything from integer draws, see `bench.data.sources.synthetic_draws`):

* Every label has one train point plus a Zipf share of the rest, so the train labels hold exactly the
  published number of (point, label) pairs, a long tail, and no label without a point, like the published
  splits.
* The occurrences of a label are cut into pieces of at most 8 and the pieces are shuffled into *topics* of
  at most 128 points: a tail label lives in one topic, a head label in many, and labels of a topic occur
  together.
* A point draws features from three sources: its topic, the signatures of its labels, and Zipf noise. One
  occurrence in eight leaves no signature and one point in twelve has noise features only, so no method
  can get 100 %.
* Values are term weight times a rank-based idf, both integers, l2-normalised (one exact division).

Repeats within a point are drawn again, so that the counts per point are those of the published statistics.
Labels of test points come from the same topics, so that train and test have the same structure.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.common.errors import InputError
from bench.data.cache import CacheWriter
from bench.data.formats.csr_blocks import Block
from bench.data.sources import Progress
from bench.data.sources.integers import PATTERN, distinct, label_pattern, running_shares, strided
from bench.data.sources.synthetic_draws import Draws, zipf_table

VERSION = 3
DEFAULTS: Mapping[str, Any] = {
    "n_train": None,
    "n_test": None,
    "n_features": None,
    "n_labels": None,
    "labels_per_point": None,
    "features_per_point": None,
    "label_zipf_offset": 100,  # larger: a flatter head
    "scale": 1.0,  # multiplies points, labels and features (not below 1024); averages per point stay
    "seed": 0,
}

TOPIC_SLOTS, PIECE, TOPIC_FEATURES = 700, 8, 32
CHUNK = 8192
MOST_THREADS = 16  # each needs some hundred megabytes for its chunk
# streams of the generator
_ORDER, _, _LABEL_ID, _FEATURE_ID, _PIECES, _TEST_TOPIC, _TEST_SLOT, _TEST_COUNT = range(8)
_SILENT, _SIGNED, _SIGNATURE, _SHOWN, _TOPIC, _TOPIC_SHOWN, _NOISE, _NOISE_COUNT, _WEIGHT = range(8, 17)
_MORE_LABELS, _MORE_FEATURES = 17, 18
_TEST = 32  # added to the per-point streams for test


@dataclass(frozen=True)
class Size:
    """Counts after scaling; averages in hundredths so that all arithmetic is exact."""

    n_train: int
    n_test: int
    n_features: int
    n_labels: int
    labels_x100: int
    features_x100: int


def identity(parameters: Mapping[str, Any]) -> Mapping[str, Any]:  # noqa: ARG001
    """Nothing beyond the parameters and VERSION."""
    return {}


def build(parameters: Mapping[str, Any], out: CacheWriter, progress: Progress) -> None:
    """Generate both splits chunk by chunk; memory is a few arrays over labels and some chunks of points."""
    size = _size(parameters)
    generator = _Generator(size, int(parameters["seed"]), int(parameters["label_zipf_offset"]))
    out.shape(size.n_features, size.n_labels)
    for split, points in (("train", size.n_train), ("test", size.n_test)):
        for at, block in enumerate(_blocks(generator, split == "test", points)):
            out.append(split, block)
            if at % 16 == 15:
                progress(f"generated {min((at + 1) * CHUNK, points)} of {points} {split} points")


def _blocks(generator: _Generator, test: bool, points: int) -> Iterator[Block]:
    """The chunks of a split in order; threads compute ahead, because numpy releases the lock most of the time."""
    threads = min(os.cpu_count() or 1, MOST_THREADS)
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[Future[Block]] = deque()
        for start in range(0, points, CHUNK):
            ahead.append(pool.submit(generator.points, test, start, min(start + CHUNK, points)))
            if len(ahead) > threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def sizes(parameters: Mapping[str, Any]) -> dict[str, float]:
    """Counts and averages of the data, known before they are made."""
    size = _size(parameters)
    return {
        "n_train": size.n_train,
        "n_test": size.n_test,
        "n_features": size.n_features,
        "n_labels": size.n_labels,
        "labels_per_point": size.labels_x100 / 100,
        "features_per_point": size.features_x100 / 100,
    }


def _size(parameters: Mapping[str, Any]) -> Size:
    numbers = {}
    for key in DEFAULTS:
        value = parameters[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise InputError(f"synthetic data: parameter {key!r}: found {value!r}; expected a number of 0 or more")
        numbers[key] = value
    if numbers["scale"] <= 0 or int(numbers["seed"]) != numbers["seed"]:
        raise InputError("synthetic data: expected scale above 0 and a whole seed")
    counts = [
        max(round(numbers[key] * numbers["scale"]), min(least, int(numbers[key])))
        for key, least in (("n_train", 20), ("n_test", 5), ("n_features", 1024), ("n_labels", 8))
    ]
    labels, features = round(numbers["labels_per_point"] * 100), round(numbers["features_per_point"] * 100)
    if (
        min(counts[0], counts[2], counts[3]) < 8
        or labels < 100
        or features < 400
        or counts[0] * labels // 100 < counts[3]
    ):
        raise InputError(
            "synthetic data: expected at least 8 points, features and labels, 1 label and 4 features each, "
            f"and no more labels than train (point, label) pairs; found {labels / 100:g} labels and "
            f"{features / 100:g} features per point, {counts[0] * labels // 100} pairs for {counts[3]} labels"
        )
    return Size(counts[0], counts[1], counts[2], counts[3], labels, features)


class _Generator:
    """Generates points from what they have in common: label frequencies, topics, laws of features."""

    def __init__(self, size: Size, seed: int, zipf_offset: int) -> None:
        self.size, self.draws = size, Draws(seed)
        self.counts = label_pattern(size.labels_x100)  # labels of a point, by its rank modulo PATTERN
        self.offsets = np.concatenate([[0], np.cumsum(self.counts)])
        self.n_slots = self._slot(np.array([size.n_train]))[0]
        # as many points as share about 700 label slots, so that labels of a topic occur together again
        self.topic_points = min(max(TOPIC_SLOTS * 100 // size.labels_x100, 10), 128)
        self.n_topics = -(-size.n_train // self.topic_points)
        self.piece_ends, self.piece_labels = self._pieces(zipf_offset)
        self.features = zipf_table(size.n_features, 10)
        # shares of a point's features: a quarter from its topic, 45 % from its labels, noise for the rest
        self.per_label_x1000 = 450 * size.features_x100 // size.labels_x100
        self.signature = max(2, -(-3 * self.per_label_x1000 // 2000))

    def _slot(self, rank: NDArray[np.int64]) -> NDArray[np.int64]:
        """First label slot of the train point of this rank."""
        return rank // PATTERN * self.offsets[-1] + self.offsets[rank % PATTERN]

    def _pieces(self, zipf_offset: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Shuffled pieces of label occurrences: where each ends on the line of slots, and its label."""
        n_labels = self.size.n_labels
        extra = int(self.n_slots) - n_labels
        # integer weights small enough that extra * weight stays below 2^63
        weights = np.int64(1 << 24) // (np.arange(1, n_labels + 1, dtype=np.int64) + zipf_offset)
        ends = running_shares(extra, np.cumsum(weights))
        frequency = 1 + np.diff(ends, prepend=0)
        piece = min(PIECE, self.topic_points // 5)  # larger ones would occur twice in a point
        pieces = -(-frequency // piece)
        rank = np.repeat(np.arange(n_labels, dtype=np.int64), pieces)
        lengths = np.full(len(rank), piece, dtype=np.int64)
        lengths[np.cumsum(pieces) - 1] = frequency - (pieces - 1) * piece
        order = np.argsort(self.draws.bits(_PIECES, np.arange(len(rank))), kind="stable")
        labels = self.draws.permute(_LABEL_ID, rank[order], n_labels)
        return np.cumsum(lengths[order]), labels

    def points(self, test: bool, start: int, stop: int) -> Block:
        """Points ``start`` to ``stop - 1`` of a split."""
        point = np.arange(start, stop, dtype=np.int64)
        topic, owner, labels = self._labels(test, point)
        side = _TEST if test else 0
        loud = ~self.draws.chance(_SILENT + side, point, 1, 12)
        parts = [
            self._topic_features(side, point, topic, loud),
            self._label_features(side, start, owner, labels, loud),
            self._noise(side, point),
        ]
        rows, ranks = (np.concatenate(column) for column in zip(*parts, strict=True))
        # a small vocabulary gives repeats: noise replaces them
        rows, ranks = distinct(
            rows,
            ranks,
            self.size.n_features,
            np.bincount(rows, minlength=len(point)),
            lambda row, number: self._rank(_MORE_FEATURES + side, point[row] * 65536 + number),
        )
        columns = self.draws.permute(_FEATURE_ID, ranks, self.size.n_features)
        order = np.lexsort((columns, rows))
        rows, columns, ranks = rows[order], columns[order], ranks[order]
        lengths = np.bincount(rows, minlength=len(point))
        return Block(
            lengths,
            columns.astype(np.int32),
            self._values(side, point[rows], columns, ranks, lengths),
            np.bincount(owner, minlength=len(point)),
            labels.astype(np.int32),
        )

    def _labels(self, test: bool, point: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        """Topic of each point, and the (point, label) pairs, the points counted from the chunk's start."""
        draws = self.draws
        if test:
            topic = draws.below(_TEST_TOPIC, point, self.n_topics)
            counts = self.counts[draws.below(_TEST_COUNT, point, PATTERN)]
        else:
            rank = draws.permute(_ORDER, point, self.size.n_train)
            topic, counts = rank // self.topic_points, self.counts[rank % PATTERN]
        first = self._slot(topic * self.topic_points)
        last = self._slot(np.minimum((topic + 1) * self.topic_points, self.size.n_train))
        owner = np.repeat(np.arange(len(point)), counts)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        width = (last - first)[owner]
        if test:
            position = draws.below(_TEST_SLOT, point[owner] * 4096 + within, width)
        else:
            # a train slot is used once: step through the topic's slots with a stride that is prime to
            # their number
            slot = self._slot(rank)[owner] + within - first[owner]
            position = strided(slot, width)
        # a label may be drawn twice for a point: other labels of the topic replace repeats
        side = _TEST if test else 0
        owner, labels = distinct(
            owner,
            self._label_at(first[owner] + position),
            self.size.n_labels,
            counts,
            lambda row, number: self._label_at(
                first[row] + draws.below(_MORE_LABELS + side, point[row] * 65536 + number, (last - first)[row])
            ),
        )
        return topic, owner, labels

    def _label_at(self, slot: NDArray[np.int64]) -> NDArray[np.int64]:
        """The label that occupies each slot."""
        return self.piece_labels[np.searchsorted(self.piece_ends, slot, side="right")]

    def _topic_features(
        self, side: int, point: NDArray[np.int64], topic: NDArray[np.int64], loud: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        grid = np.arange(TOPIC_FEATURES, dtype=np.int64)
        shown = self.draws.chance(
            _TOPIC_SHOWN + side,
            point[:, None] * TOPIC_FEATURES + grid,
            self.size.features_x100 // 4,
            TOPIC_FEATURES * 100,
        )
        rows, position = np.nonzero(shown & loud[:, None])
        return rows, self._rank(_TOPIC, topic[rows] * TOPIC_FEATURES + position)

    def _label_features(
        self,
        side: int,
        start: int,
        owner: NDArray[np.int64],
        labels: NDArray[np.int64],
        loud: NDArray[np.bool_],
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        pair = (owner + start) * self.size.n_labels + labels
        visible = loud[owner] & ~self.draws.chance(_SIGNED + side, pair, 1, 8)
        owner, labels, pair = owner[visible], labels[visible], pair[visible]
        grid = np.arange(self.signature, dtype=np.int64)
        shown = self.draws.chance(
            _SHOWN + side, pair[:, None] * self.signature + grid, self.per_label_x1000, self.signature * 1000
        )
        rows, position = np.nonzero(shown)
        return owner[rows], self._rank(_SIGNATURE, labels[rows] * self.signature + position)

    def _noise(self, side: int, point: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        # the average share that the other two sources leave: 30 %, and that of points and labels without signature
        mean_x100 = self.size.features_x100 * (300 + 700 - 250 * 11 // 12 - 450 * 11 * 7 // 96) // 1000
        counts = 1 + self.draws.below(_NOISE_COUNT + side, point, max(2 * mean_x100 - 100, 1)) // 100
        rows = np.repeat(np.arange(len(point)), counts)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        return rows, self._rank(_NOISE + side, point[rows] * 65536 + within)

    def _rank(self, stream: int, counter: NDArray[np.int64]) -> NDArray[np.int64]:
        """Feature ranks (0 the most frequent) by Zipf's law, one for each counter."""
        bits = (self.draws.bits(stream, counter) >> np.uint64(24)).astype(np.int64)  # 40 bits
        total = int(self.features[-1])
        return np.searchsorted(self.features, (bits >> 20) * total >> 20, side="right")

    def _values(
        self,
        side: int,
        point: NDArray[np.int64],
        columns: NDArray[np.int64],
        ranks: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        times = 2 + self.draws.below(_WEIGHT + side, point * self.size.n_features + columns, 3)
        # 1 + floor(log2(rank + 1)): frexp is exact, so this is integer arithmetic
        idf = np.frexp((ranks + 1).astype(np.float64))[1].astype(np.int64)
        weights = times * idf
        starts = np.cumsum(lengths) - lengths
        squares = np.add.reduceat(weights * weights, starts)
        norms = np.sqrt(squares.astype(np.float64))  # exact integer, correctly rounded root
        return (weights / np.repeat(norms, lengths)).astype(np.float32)
