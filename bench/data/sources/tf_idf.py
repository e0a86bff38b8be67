"""Bags of words: sublinear tf-idf over words and word bigrams, l2-normalised, equal on every machine."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from bench.data.cache import CacheWriter
from bench.data.formats.csr_blocks import Block

POINTS_AT_ONCE = 10_000
_WORD = re.compile(r"[a-z0-9]+")


def words(text: str) -> list[str]:
    """Lower-case runs of letters a-z and digits."""
    return _WORD.findall(text.lower())


def words_and_bigrams(text: str) -> list[str]:
    """Words, then ``b_first_second`` for each pair of neighbours."""
    tokens = words(text)
    return tokens + [f"b_{first}_{second}" for first, second in itertools.pairwise(tokens)]


def in_test(key: str) -> bool:
    """Whether a point belongs to test: the first 8 bytes of sha1(key) as a fraction lie below 0.2."""
    return int.from_bytes(hashlib.sha1(key.encode()).digest()[:8], "big") / 2**64 < 0.2


class TfIdf:
    """Vocabulary and document frequencies of train texts; features are numbered in the order of their
    names."""

    def __init__(self, train: Sequence[Sequence[str]], min_documents: int = 2) -> None:
        frequency: Counter[str] = Counter()
        for tokens in train:
            frequency.update(set(tokens))
        names = sorted(name for name, count in frequency.items() if count >= min_documents)
        self.column = {name: column for column, name in enumerate(names)}
        # Salton and Buckley's idf, smoothed as if one more document held every word
        self.idf = [math.log((1 + len(train)) / (1 + frequency[name])) + 1 for name in names]

    def block(self, texts: Sequence[Sequence[str]], labels: Sequence[Sequence[int]]) -> Block:
        """Weighted features and labels of some points.

        Values are rounded to four significant digits, which is finer than any method can use and hides
        the last bit of the platform's logarithm: the data have one fingerprint everywhere.
        """
        x_lengths, x_indices, x_values = [], [], []
        for tokens in texts:
            counts = Counter(tokens)
            row = sorted((self.column[t], n) for t, n in counts.items() if t in self.column)
            weights = [(1 + math.log(count)) * self.idf[column] for column, count in row]
            norm = math.sqrt(sum(w * w for w in weights)) or 1.0
            x_lengths.append(len(row))
            x_indices += [column for column, _ in row]
            x_values += [float(f"{w / norm:.4g}") for w in weights]
        return Block(
            np.array(x_lengths, dtype=np.int64),
            np.array(x_indices, dtype=np.int32),
            np.array(x_values, dtype=np.float64).astype(np.float32),
            np.array([len(row) for row in labels], dtype=np.int64),
            np.array([label for row in labels for label in row], dtype=np.int32),
        )


def write_tf_idf(points: Sequence[tuple[bool, Sequence[str], Sequence[str]]], out: CacheWriter) -> dict[str, int]:
    """Write points given as (in test, feature names with repeats, label names), labels in alphabetical
    order; returns the number of each label."""
    names = sorted({label for _, _, labels in points for label in labels})
    number = {name: label for label, name in enumerate(names)}
    weights = TfIdf([tokens for test, tokens, _ in points if not test])
    out.shape(len(weights.column), len(names))
    for split, wanted in (("train", False), ("test", True)):
        chosen = [(tokens, labels) for test, tokens, labels in points if test == wanted]
        for start in range(0, len(chosen), POINTS_AT_ONCE):
            part = chosen[start : start + POINTS_AT_ONCE]
            ids = [sorted({number[label] for label in labels}) for _, labels in part]
            out.append(split, weights.block([tokens for tokens, _ in part], ids))
    out.label_names(names)
    return number
