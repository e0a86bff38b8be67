"""MACH as an output layer: R independent linear classifiers over B hash buckets each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from mach.decode import ESTIMATORS, top_k_prefixes
from mach.hashing import hash_labels
from mach.loss import LOSSES, bucket_loss, bucket_targets
from mach.theory import unresolved_pairs

# A bucket without positives gets the prior of half a positive, so that its bias is finite.
SMOOTHING = 0.5


class MachOutput(nn.Module):
    """R worlds of B buckets (Medini et al., NeurIPS 2019; Huang et al., arXiv 1810.04254).

    Asks for one encoder for each repetition: hidden is [R, N, H]. Repetition r depends on the seeds and on r alone,
    never on R, and the repetitions share no parameter; so they may be trained together, in groups (`subset`) or
    apart, and a model of R repetitions holds the models of every smaller R.

    loss: ``bce`` over buckets or ``softmax`` with 1/|buckets| targets. bias: ``prior`` starts a bucket at the
    log-odds (bce) or log share (softmax) of its train frequency, ``zero`` at 0. estimator: how bucket scores become a
    label's score; see `mach.decode`.
    """

    def __init__(
        self,
        *,
        n_labels: int,
        hidden: int,
        train_labels: sp.csr_matrix,
        seeds: dict[str, int],
        B: int,
        R: int,
        loss: str = "bce",
        hash: str = "universal",
        bias: str = "prior",
        estimator: str = "logit_sum",
    ) -> None:
        super().__init__()
        for name, value, known in [
            ("loss", loss, LOSSES),
            ("bias", bias, ("prior", "zero")),
            ("estimator", estimator, ESTIMATORS),
        ]:
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")
        self.B, self.R, self.loss_kind, self.estimator = B, R, loss, estimator
        self.lookup = hash_labels(n_labels, B, R, family=hash, seed=seeds["hashing"])
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for r in range(R):
            generator = torch.Generator().manual_seed(seeds["initialisation"] + r)
            bound = 1.0 / math.sqrt(hidden)
            self.weights.append(nn.Parameter(torch.empty(B, hidden).uniform_(-bound, bound, generator=generator)))
            start = bucket_prior(train_labels, self.lookup[r], B, loss) if bias == "prior" else torch.zeros(B)
            self.biases.append(nn.Parameter(start))

    @property
    def repetitions(self) -> int:
        """Encoders that the layer asks for."""
        return self.R

    @staticmethod
    def parameter_count(*, hidden: int, B: int, R: int, **_: object) -> int:
        """Trained parameters of the layer: R·(H·B + B), whatever the number of labels."""
        return R * (hidden * B + B)

    def index_bytes(self) -> int:
        """Bytes of the hash tables that decoding needs."""
        return int(self.lookup.nbytes)

    def facts(self) -> list[dict[str, int]]:
        """For each R up to the layer's: label pairs that share their buckets in all of the first R repetitions."""
        return [{"unresolved_pairs": int(pairs)} for pairs in unresolved_pairs(self.lookup)]

    def subset(self, repetitions: range) -> MachSubset:
        """The layer seen by the encoders of some repetitions; parameters are shared with this one."""
        return MachSubset(self, repetitions)

    def loss(self, hidden: Tensor, labels: sp.csr_matrix) -> Tensor:
        """Mean over repetitions of their losses: hidden [R, N, H], labels CSR [N, n_labels]."""
        return self.subset(range(self.R)).loss(hidden, labels)

    def topk(self, hidden: Tensor, k: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        """Exact top-k from all repetitions: (scores [N, k], labels [N, k])."""
        scores, labels = self.topk_prefixes(hidden, k, [self.R])
        return scores[0], labels[0]

    def topk_prefixes(
        self, hidden: Tensor, k: int, prefixes: Sequence[int]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        """Exact top-k from the first R' repetitions for each R' asked for: two arrays [len(prefixes), N, k]."""
        return self._topk(hidden, k, prefixes, range(self.R))

    def _topk(
        self, hidden: Tensor, k: int, prefixes: Sequence[int], repetitions: range
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        scores = np.empty((hidden.shape[1], len(repetitions), self.B), dtype=np.float32)
        for at, r in enumerate(repetitions):
            logits = torch.addmm(self.biases[r], hidden[at], self.weights[r].T)
            if self.estimator == "mean":
                logits = logits.sigmoid() if self.loss_kind == "bce" else logits.softmax(1)
            scores[:, at] = logits.float().cpu().numpy()
        lookup = self.lookup[repetitions.start : repetitions.stop]
        return top_k_prefixes(scores, lookup, k, list(prefixes), estimator=self.estimator)


class MachSubset(nn.Module):
    """Some repetitions of a MachOutput, to be trained by themselves; holds no parameter of its own."""

    def __init__(self, whole: MachOutput, repetitions: range) -> None:
        super().__init__()
        self.weights = nn.ParameterList([whole.weights[r] for r in repetitions])
        self.biases = nn.ParameterList([whole.biases[r] for r in repetitions])
        self.worlds = repetitions
        self._whole = (whole,)  # in a tuple, so that its parameters are not registered here

    @property
    def repetitions(self) -> int:
        return len(self.worlds)

    def loss(self, hidden: Tensor, labels: sp.csr_matrix) -> Tensor:
        """Mean over these repetitions of their losses: hidden [G, N, H]."""
        (whole,) = self._whole
        losses = []
        for at, r in enumerate(self.worlds):
            rows, columns = (t.to(hidden.device) for t in bucket_targets(labels, whole.lookup[r]))
            losses.append(bucket_loss(hidden[at], self.weights[at], self.biases[at], rows, columns, whole.loss_kind))
        return torch.stack(losses).sum()

    def topk(self, hidden: Tensor, k: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        """Exact top-k from these repetitions alone: (scores [N, k], labels [N, k])."""
        scores, labels = self._whole[0]._topk(hidden, k, [len(self.worlds)], self.worlds)
        return scores[0], labels[0]


def bucket_prior(train_labels: sp.csr_matrix, buckets: npt.NDArray[np.integer], B: int, loss: str) -> Tensor:
    """Bias that reproduces the buckets' train frequencies when nothing else is known, float32 [B]."""
    _, columns = bucket_targets(train_labels, buckets)
    positives = np.bincount(columns.numpy(), minlength=B) + SMOOTHING
    if loss == "bce":
        share = positives / (train_labels.shape[0] + 2 * SMOOTHING)
        prior = np.log(share) - np.log1p(-share)
    else:
        prior = np.log(positives / positives.sum())
    return torch.from_numpy(prior.astype(np.float32))
