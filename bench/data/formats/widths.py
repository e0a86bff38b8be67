"""Are the ids and widths of a file believable beside the number of entries that it has?

A width becomes memory: each label costs a few numbers in every count over labels, and a row of weights in a model. So
one mistyped id must not decide it. Without a header an id may be as large as `limit` says; a header is believed, and
a width above the limit gets a note.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bench.data.formats.csr_blocks import Block, Int

# A small file may well be a sample of a large dataset, so ids up to a fixed limit are always right: for labels above
# all published label sets (2.8 million) and cheap to count (128 MiB as int64), for features above common hash spaces
# (2^18 to 2^24; nothing that reads data has an array over features).
ALWAYS = {"label": 1 << 24, "feature": 1 << 28, "point": 1 << 24}
# Above that limit, a file of all points has on average at least one entry for every 100 labels, whatever its size.
# Features are hashed into large spaces, which stay nearly empty.
PER_ENTRY = {"label": 100, "feature": 1000, "point": 100}


def limit(kind: str, entries: int) -> int:
    """The largest believable number of labels, features or points of a file with so many entries of that kind."""
    return max(ALWAYS[kind], PER_ENTRY[kind] * entries)


@dataclass
class Seen:
    """Entries and largest id of one kind, over blocks."""

    entries: int = 0
    largest: int = -1
    point: int = 0  # of the largest id, the first where there are several

    @property
    def width(self) -> int:
        """Ids up to the largest."""
        return self.largest + 1

    def add(self, lengths: Int, ids: Int, before: int) -> None:
        """Count a block's ids [entries], given entries of each point [n] and the number of points before."""
        self.entries += len(ids)
        if (top := int(ids.max(initial=-1))) > self.largest:
            self.largest = top
            self.point = before + int(np.searchsorted(np.cumsum(lengths), int(np.argmax(ids)), side="right"))


def watch(blocks: Iterator[Block], features: Seen, labels: Seen) -> Iterator[Block]:
    """The blocks, counted on their way."""
    points = 0
    for block in blocks:
        features.add(block.x_lengths, block.x_indices, points)
        labels.add(block.y_lengths, block.y_indices, points)
        points += len(block.x_lengths)
        yield block
