"""Adaptive softmax: frequent labels in a head for every point, rare labels in tails with fewer numbers per label."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, cast

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from baselines.chunked.cluster_loss import KEEP_BYTES, WeightedTargets, cluster_loss, logits_of, normaliser
from baselines.chunked.linear import chunk_on
from baselines.full_softmax import label_prior
from baselines.parts.cost import adaptive_cost
from baselines.parts.topk import Ranking, top_k_of_tiles
from mach.kernels.excluded import Excluded

ON_CPU = 8192  # labels computed at a time on a CPU
MARGIN = 1e-3  # by rounding, a label's log-probability may exceed its cluster's, by far less than this


class AdaptiveSoftmax(nn.Module):
    """Two-level softmax over clusters of labels of similar train frequency (Grave et al. 2017, sections 4.2 and 4.3).

    Labels are ranked by train frequency and cut into a head and tails by ``cutoffs``. The head is a softmax over its
    labels and one entry for each tail; tail c = 1, 2, … projects hidden to H / div_value^c numbers and is a softmax
    over its labels. log p(label) is the sum of the two. Each label of a point has target 1/|Y|, so the target of a
    tail's entry is the share of the point's labels in that tail. A tail is computed only for points with a label in it.

    cutoffs: the start of each tail, joined by '-', as numbers of labels (2000-10000) or shares of them (0.1-0.4).
    bias: ``prior`` starts at train frequencies, ``zero`` at 0. label_chunk: labels computed at a time, 0 for the
    device's default. ValueError for other values.

    The buffer ``order`` [n_labels] holds label ids by cluster, and ``position`` the position of each label in it.
    Within a cluster ids ascend, so that ties are resolved by the lowest id.
    """

    takes_excluded = True
    order: Tensor
    position: Tensor

    def __init__(
        self,
        *,
        n_labels: int,
        hidden: int,
        train_labels: sp.csr_matrix,
        seeds: dict[str, int],
        cutoffs: Annotated[str | float, cutoff_values] = "0.1-0.4",
        div_value: Annotated[float, ">= 1"] = 4.0,
        bias: Literal["prior", "zero"] = "prior",
        label_chunk: Annotated[int, ">= 0"] = 0,
    ) -> None:
        super().__init__()
        if bias not in ("prior", "zero"):
            raise ValueError(f"unknown bias {bias!r}; known: prior, zero")
        if label_chunk < 0:
            raise ValueError(f"label_chunk must be at least 1, or 0 for the device's, got {label_chunk}")
        self.bounds = [0, *cluster_ends(n_labels, cutoffs)]
        widths = tail_widths(len(self.bounds) - 2, hidden, div_value)
        self.label_chunk = label_chunk
        counts = np.bincount(train_labels.indices, minlength=n_labels)
        by_frequency = np.argsort(-counts, kind="stable").astype(np.int32)
        order = np.concatenate([np.sort(by_frequency[a:b]) for a, b in itertools.pairwise(self.bounds)])
        self.register_buffer("order", torch.from_numpy(order))
        self.register_buffer("position", torch.from_numpy(np.argsort(order).astype(np.int32)))

        generator = torch.Generator().manual_seed(seeds["initialisation"])
        prior = label_prior(train_labels, "softmax")[order] if bias == "prior" else None
        n_head, n_tails = self.bounds[1], len(widths)
        self.weight = nn.Parameter(_uniform((n_head + n_tails, hidden), generator))
        self.bias = nn.Parameter(torch.zeros(n_head + n_tails))
        self.tails = nn.ModuleList()
        for c, (low, high) in enumerate(itertools.pairwise(self.bounds[1:])):
            tail = Tail(hidden, widths[c], high - low, generator)
            self.tails.append(tail)
            if prior is not None:
                self.bias.data[n_head + c] = prior[low:high].logsumexp(0)
                tail.bias.data.copy_(prior[low:high] - prior[low:high].logsumexp(0))
        if prior is not None:
            self.bias.data[:n_head] = prior[:n_head]

    @staticmethod
    def parameter_count(
        *, n_labels: int, hidden: int, cutoffs: str | float = "0.1-0.4", div_value: float = 4.0, **_: object
    ) -> int:
        """(head + tails)·(H + 1), and for each tail of width d: H·d + labels·(d + 1)."""
        ends = cluster_ends(n_labels, cutoffs)
        widths = tail_widths(len(ends) - 1, hidden, div_value)
        total = (ends[0] + len(widths)) * (hidden + 1)
        for width, (low, high) in zip(widths, itertools.pairwise(ends), strict=True):
            total += hidden * width + (high - low) * (width + 1)
        return total

    @staticmethod
    def cost(
        *,
        n_labels: int,
        hidden: int,
        run: Mapping[str, float],
        cutoffs: str | float = "0.1-0.4",
        div_value: float = 4.0,
        label_chunk: int = 0,
        **_: object,
    ) -> dict[str, float]:
        """Bytes and operations of a run, see `baselines.parts.cost`."""
        ends = cluster_ends(n_labels, cutoffs)
        widths = tail_widths(len(ends) - 1, hidden, div_value)
        settings = {"keep_bytes": KEEP_BYTES, "label_chunk": label_chunk or ON_CPU}
        return adaptive_cost(hidden=hidden, run=run, ends=ends, widths=widths, **settings)

    def index_bytes(self) -> int:
        """Bytes of ``order`` and ``position``."""
        return self.order.nbytes + self.position.nbytes

    def loss(self, hidden: Tensor, labels: sp.csr_matrix) -> Tensor:
        """hidden [N, H], labels CSR [N, n_labels]: mean over points of −Σ log p(label) / |Y|, a scalar."""
        counts = np.diff(labels.indptr)
        points = torch.from_numpy(np.repeat(np.arange(len(counts)), counts)).to(hidden.device)
        share = (1.0 / (torch.from_numpy(counts).to(hidden) * len(counts)))[points]
        at = self.position[torch.from_numpy(labels.indices.astype(np.int64)).to(hidden.device)].long()
        cluster = torch.bucketize(at, at.new_tensor(self.bounds[1:-1]), right=True)
        entry = torch.where(cluster == 0, at, self.bounds[1] + cluster - 1)
        targets = WeightedTargets(points, entry, share)
        total = cluster_loss(hidden, self.weight, self.bias, targets, self._chunk(hidden))
        for c, tail in self._numbered_tails():
            here = (cluster == c).nonzero()[:, 0]
            if len(here):
                members, row = points[here].unique(return_inverse=True)
                narrow = hidden[members] @ tail.down.T
                targets = WeightedTargets(row, at[here] - self.bounds[c], share[here])
                total = total + cluster_loss(narrow, tail.weight, tail.bias, targets, self._chunk(narrow))
        return total

    def topk(self, hidden: Tensor, k: int, excluded: sp.csr_matrix | None = None) -> Ranking:
        """Exact top-k log-probabilities over all labels: (scores [N, k], labels [N, k]), ties by lowest label id.

        excluded: CSR [N, n_labels], pairs of a point and a label that may not be ranked; None for none. A tail is not
        computed for a point whose k-th best score so far is above the tail's own probability.
        """
        pairs = None if excluded is None else excluded[:, self.order.cpu().numpy()]
        shift = -normaliser(hidden, self.weight, self.bias, self._chunk(hidden))
        n_head = self.bounds[1]
        tails = hidden @ self.weight[n_head:].T + self.bias[n_head:] + shift
        head = hidden, self.weight[:n_head], self.bias[:n_head], shift
        scores, labels = self._best(0, *head, k, self._of_cluster(0, pairs, slice(None)))
        for c, tail in self._numbered_tails():
            of_tail = tails[:, c - 1 : c]
            rows = np.flatnonzero(of_tail[:, 0].float().cpu().numpy() + MARGIN >= scores[:, -1])
            if len(rows):
                members = torch.from_numpy(rows).to(hidden.device)
                narrow = hidden[members] @ tail.down.T
                within = of_tail[members] - normaliser(narrow, tail.weight, tail.bias, self._chunk(narrow))
                of_rows = self._of_cluster(c, pairs, rows)
                found = self._best(c, narrow, tail.weight, tail.bias, within, k, of_rows)
                scores[rows], labels[rows] = _merge((scores[rows], labels[rows]), found)
        return scores, labels

    def _chunk(self, inputs: Tensor) -> int:
        """Labels computed at a time with inputs [n, d]."""
        return self.label_chunk or chunk_on(inputs, ON_CPU)

    def _numbered_tails(self) -> Iterator[tuple[int, Tail]]:
        return ((c, cast(Tail, tail)) for c, tail in enumerate(self.tails, 1))

    def _of_cluster(
        self, c: int, pairs: sp.csr_matrix | None, rows: slice | npt.NDArray[np.int64]
    ) -> sp.csr_matrix | None:
        """The pairs [n, labels of the cluster] of some points; ``pairs``: by position, [N, n_labels]."""
        return None if pairs is None else pairs[:, self.bounds[c] : self.bounds[c + 1]][rows]

    def _best(
        self,
        c: int,
        narrow: Tensor,
        weight: Tensor,
        bias: Tensor,
        shift: Tensor,
        k: int,
        pairs: sp.csr_matrix | None,
    ) -> Ranking:
        """Top-k of logits + shift [n, 1] in one cluster, without the pairs [n, labels of the cluster]."""
        tiles = ((low, part.add_(shift)) for low, part in logits_of(narrow, weight, bias, self._chunk(narrow)))
        scores, columns = top_k_of_tiles(tiles, len(narrow), k, Excluded.of(pairs, len(narrow), len(weight)))
        ids = self.order[self.bounds[c] : self.bounds[c + 1]].cpu().numpy()
        return scores, np.where(columns < 0, np.int32(-1), ids[columns])


class Tail(nn.Module):
    """The parameters of one tail: a projection down [width, H], and weight [size, width], bias [size] of its labels."""

    def __init__(self, hidden: int, width: int, size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.down = nn.Parameter(_uniform((width, hidden), generator))
        self.weight = nn.Parameter(_uniform((size, width), generator))
        self.bias = nn.Parameter(torch.zeros(size))


def cluster_ends(n_labels: int, cutoffs: str | float) -> list[int]:
    """The end of each cluster, the last at n_labels; shares that round to the same cut become one, and none is empty.

    ValueError unless cutoffs are increasing shares between 0 and 1, or increasing counts between 0 and n_labels.
    """
    values = cutoff_values(cutoffs)
    if values[-1] < 1:
        cuts = {max(1, round(share * n_labels)) for share in values}
        return [*sorted(cut for cut in cuts if cut < n_labels), n_labels]
    if values[-1] < n_labels:
        return [*map(int, values), n_labels]
    raise ValueError(f"cutoffs: found {cutoffs!r}; expected numbers of labels below {n_labels}")


def cutoff_values(cutoffs: str | float) -> list[float]:
    """The cutoffs as numbers. ValueError unless they are increasing shares below 1, or increasing counts."""
    try:
        values = [float(part) for part in str(cutoffs).split("-")]
    except ValueError:
        values = []
    rising = bool(values) and values[0] > 0 and all(a < b for a, b in itertools.pairwise(values))
    if rising and (values[-1] < 1 or all(value.is_integer() for value in values)):
        return values
    raise ValueError(
        f"found {cutoffs!r}; expected increasing shares of the labels such as 0.1-0.4, "
        "or increasing numbers of labels such as 2000-10000"
    )


def tail_widths(n_tails: int, hidden: int, div_value: float) -> list[int]:
    """Numbers per label in each tail: hidden / div_value, hidden / div_value², …, at least 1."""
    if not div_value >= 1:
        raise ValueError(f"div_value must be at least 1, got {div_value}")
    return [max(1, int(hidden // div_value**c)) for c in range(1, n_tails + 1)]


def _uniform(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    bound = 1.0 / math.sqrt(shape[1])
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def _merge(ours: Ranking, theirs: Ranking) -> Ranking:
    """The best k of two rankings [n, k] of different labels."""
    scores, labels = (np.concatenate(pair, axis=1) for pair in zip(ours, theirs, strict=True))
    best = np.lexsort((labels, -scores))[:, : ours[0].shape[1]]
    return np.take_along_axis(scores, best, 1), np.take_along_axis(labels, best, 1)
