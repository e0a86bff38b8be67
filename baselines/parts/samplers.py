"""The samplers of the sampled softmax: the negatives of a step, and the probability of each label to be one."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

SAMPLERS = ("unigram", "uniform", "log_uniform", "in_batch")
LABEL_ORDERS = ("frequency", "id")

Labels = npt.NDArray[np.int64]
LogProbabilities = npt.NDArray[np.float64]


class Sampler(Protocol):
    """A source of negatives that a batch shares."""

    @property
    def rng(self) -> np.random.Generator | None:
        """The generator of its draws; None for a sampler that draws nothing."""

    def sample(self, labels: sp.csr_matrix) -> Labels:
        """Distinct labels, ascending, for a batch whose labels are CSR [N, n_labels]."""

    def log_inclusion(self, chosen: Labels, n_points: int) -> LogProbabilities:
        """Log of the probability that each chosen label is a negative of a point without it, in a batch of N points."""


class Draws:
    """``n_samples`` draws with replacement from fixed probabilities; the sample is the distinct labels drawn."""

    def __init__(self, probabilities: npt.NDArray[np.float64], n_samples: int, seed: int) -> None:
        """probabilities [n_labels], positive, summing up to 1. ValueError for fewer than one draw."""
        if n_samples < 1:
            raise ValueError(f"n_samples must be at least 1, got {n_samples}")
        self.n_samples = n_samples
        self._cumulative = np.cumsum(probabilities)
        self._log_inclusion = log_inclusion(probabilities, n_samples)
        self.rng = np.random.Generator(np.random.PCG64(seed))

    def sample(self, labels: sp.csr_matrix) -> Labels:
        """Distinct labels drawn, ascending; the batch has no influence."""
        del labels
        # Sorted random numbers give sorted labels, and read the table in order.
        numbers = np.sort(self.rng.random(self.n_samples))
        drawn = np.searchsorted(self._cumulative, numbers, side="right")
        drawn = np.minimum(drawn, len(self._cumulative) - 1)
        return drawn[np.diff(drawn, prepend=-1) > 0]

    def log_inclusion(self, chosen: Labels, n_points: int) -> LogProbabilities:
        """log(1 − (1 − q)^n_samples), for any batch."""
        del n_points
        return self._log_inclusion[chosen]


class InBatch:
    """The labels of a batch are its negatives: those of the other points, since a point's own are masked.

    The other N − 1 points of a batch are drawn without replacement from the other n − 1 points of train, f of which
    have a label that this point has not; it is among the negatives with probability 1 − C(n−1−f, N−1) / C(n−1, N−1).
    A label without train points is never a negative, so its row is never trained.
    """

    def __init__(self, counts: npt.NDArray[np.int64], n_train: int) -> None:
        """counts [n_labels]: train points of each label."""
        self._counts, self._n_train = counts, n_train
        self.rng = None  # the batches are random already
        self._absent: dict[int, LogProbabilities] = {}  # by batch size: an epoch has two, the last batch is smaller

    def sample(self, labels: sp.csr_matrix) -> Labels:
        """Distinct labels of the batch, ascending."""
        return np.unique(labels.indices).astype(np.int64)

    def log_inclusion(self, chosen: Labels, n_points: int) -> LogProbabilities:
        """Log of the probability above; 0 for labels that are never a negative, so that no value is infinite."""
        if n_points not in self._absent:
            frequency = np.arange(self._counts.max(initial=0))
            others = max(self._n_train - 1, 1)
            # The share of the remaining points that are outside the batch, one factor for each point with the label.
            outside = (n_points - 1) / np.maximum(others - frequency, 1)
            with np.errstate(divide="ignore"):
                factors = np.log1p(-np.minimum(outside, 1.0))
            self._absent[n_points] = np.concatenate([[0.0], np.cumsum(factors)])
        included = -np.expm1(self._absent[n_points][self._counts[chosen]])
        return np.log(np.where(included > 0.0, included, 1.0))


def make_sampler(
    name: str, train_labels: sp.csr_matrix, *, n_samples: int, alpha: float, label_order: str, seed: int
) -> Sampler:
    """The sampler of that name for train labels CSR [n_train, n_labels].

    ``unigram``: probability ∝ max(train frequency, 1)^alpha. ``uniform``: all equal. ``log_uniform``: the label of rank
    r = 0, 1, … with probability log((r + 2) / (r + 1)) / log(K + 1), ranked by train ``frequency`` (ties by lowest id)
    or by ``id``, which assumes that ids are in order of frequency. ``in_batch``: see ``InBatch``. alpha matters to
    unigram alone, label_order to log_uniform, n_samples to all but in_batch. ValueError for unknown names.
    """
    if name not in SAMPLERS:
        raise ValueError(f"unknown sampler {name!r}; known: {', '.join(SAMPLERS)}")
    if label_order not in LABEL_ORDERS:
        raise ValueError(f"unknown label_order {label_order!r}; known: {', '.join(LABEL_ORDERS)}")
    n_train, n_labels = train_labels.shape
    counts = np.bincount(train_labels.indices, minlength=n_labels)
    if name == "in_batch":
        return InBatch(counts, n_train)
    if name == "log_uniform":
        weights = np.empty(n_labels)
        order = np.argsort(-counts, kind="stable") if label_order == "frequency" else np.arange(n_labels)
        weights[order] = np.log1p(1.0 / np.arange(1, n_labels + 1))
    elif name == "unigram":
        # a label without train points can still be a negative
        weights = np.maximum(counts.astype(np.float64), 1.0) ** alpha
    else:
        weights = np.ones(n_labels)
    return Draws(weights / weights.sum(), n_samples, seed)


def log_inclusion(q: npt.NDArray[np.float64], tries: int) -> LogProbabilities:
    """Log of the probability that a label is among the distinct ones of ``tries`` draws: log(1 − (1 − q)^tries)."""
    with np.errstate(divide="ignore"):
        return np.log(-np.expm1(tries * np.log1p(-q)))
