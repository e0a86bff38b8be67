"""MACH as an output layer: R independent linear classifiers over B hash buckets each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from mach.decode.estimators import ESTIMATORS, estimator_names
from mach.decode.ranking import BucketRanker, Query, Ranking
from mach.hashing.families import hash_features, hash_labels
from mach.kernels.product import PRECISIONS
from mach.layer.cost import layer_cost
from mach.layer.loss import LOSSES, LossSettings, Targets, TimingHook, bucket_losses
from mach.theory.collisions import unresolved_pairs

# A bucket without positives gets the prior of half a positive, so that its bias is finite.
SMOOTHING = 0.5


class MachOutput(nn.Module):
    """R repetitions of B buckets each (Medini et al., NeurIPS 2019; Huang et al., arXiv 1810.04254).

    Needs one encoder per repetition: hidden is [R, N, H]. Repetition r depends on the seeds and on r alone, never on R,
    and the repetitions share no parameter. So they may be trained together, in groups (`subset`) or apart, and a model
    of R repetitions contains the models of every smaller R. The weights of repetition r are ``kernel[r]`` [H, B] and
    ``biases[r]`` [B].

    loss: ``bce`` over buckets or ``softmax`` with 1/|buckets| targets. bias: ``prior`` starts a bucket at the
    log-odds (bce) or log share (softmax) of its train frequency, ``zero`` at 0. estimator: how bucket scores become a
    label's score (`mach.decode.estimators`); several joined by ``+`` are all evaluated, and the first is the run's own.
    share_encoder: one encoder for all repetitions (an ablation; the first R' of them then differ from a model trained
    with R' alone). feature_hash: number of hashed input features of each repetition's encoder (`feature_lookup`), 0 for
    features that are not hashed. first: number of the first repetition, for a layer that holds only some repetitions of
    a larger one (`part`).
    """

    precisions = PRECISIONS
    takes_excluded = True

    def __init__(
        self,
        *,
        n_labels: int,
        hidden: int,
        train_labels: sp.csr_matrix,
        seeds: dict[str, int],
        B: Annotated[int, ">= 1"],
        R: Annotated[int, ">= 1"],
        loss: Literal["bce", "softmax"] = "bce",
        hash: Literal["universal", "murmur3", "balanced"] = "universal",
        bias: Literal["prior", "zero"] = "prior",
        estimator: Annotated[str, estimator_names] = "logit_sum",
        share_encoder: bool = False,
        feature_hash: Annotated[int, ">= 0"] = 0,
        first: Annotated[int, ">= 0"] = 0,
    ) -> None:
        super().__init__()
        for name, value, known in [
            ("loss", loss, LOSSES),
            ("bias", bias, ("prior", "zero")),
        ]:
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")
        check_together(B, estimator, share_encoder, feature_hash)
        self.B, self.R, self.first, self.loss_kind = B, R, first, loss
        self.decoders = estimator_names(estimator)
        self.share_encoder, self.feature_hash = share_encoder, feature_hash
        self.precision = "fp32"
        self.timing_hook: TimingHook | None = None
        self.lookup = hash_labels(n_labels, B, R, family=hash, seed=seeds["hashing"], first=first)
        self._hashing_seed = seeds["hashing"]
        self._ranker = BucketRanker(self.lookup, B)
        bound = 1.0 / math.sqrt(hidden)
        kernel, biases = torch.empty(R, hidden, B), torch.zeros(R, B)
        for r in range(R):
            generator = torch.Generator().manual_seed(seeds["initialisation"] + first + r)
            kernel[r] = torch.empty(B, hidden).uniform_(-bound, bound, generator=generator).T
            if bias == "prior":
                biases[r] = bucket_prior(train_labels, self.lookup[r], B, loss)
        self.kernel, self.biases = nn.Parameter(kernel), nn.Parameter(biases)

    @property
    def repetitions(self) -> int:
        """Encoders that the layer needs, or heads on the one encoder that they share."""
        return self.R

    @property
    def weights(self) -> Tensor:
        """The kernel as one row for each bucket: [R, B, H], a view."""
        return self.kernel.transpose(1, 2)

    def feature_lookup(self, n_features: int) -> npt.NDArray[np.integer] | None:
        """Hashed id of every input feature in every repetition, [R, n_features]; None if they are not hashed."""
        if not self.feature_hash:
            return None
        return hash_features(n_features, self.feature_hash, self.R, seed=self._hashing_seed, first=self.first)

    @staticmethod
    def parameter_count(*, hidden: int, B: int, R: int, **_: object) -> int:
        """Trained parameters of the layer: R·(H·B + B), whatever the number of labels."""
        return R * (hidden * B + B)

    @staticmethod
    def encoders(
        *,
        B: int,
        R: int,
        estimator: str = "logit_sum",
        share_encoder: bool = False,
        feature_hash: int = 0,
        **_: object,
    ) -> dict[str, int]:
        """Repetitions, encoders that they are trained with, and hashed features of each (0: not hashed).

        ValueError for settings that do not go together.
        """
        check_together(B, estimator, share_encoder, feature_hash)
        return {"repetitions": R, "encoders": 1 if share_encoder else R, "feature_hash": feature_hash}

    @staticmethod
    def part(
        repetitions: range, *, first: int = 0, share_encoder: bool = False, **settings: object
    ) -> dict[str, object] | None:
        """Settings of a layer that has only these repetitions, with all that their training depends on.

        None with a shared encoder, because all repetitions train it.
        """
        if share_encoder:
            return None
        kept = {name: value for name, value in settings.items() if name != "estimator"}
        return kept | {"R": len(repetitions), "first": first + repetitions.start}

    @staticmethod
    def cost(
        *,
        n_labels: int,
        hidden: int,
        run: Mapping[str, float],
        B: int,
        R: int,
        estimator: str = "logit_sum",
        **_: object,
    ) -> dict[str, float]:
        """See `mach.layer.cost.layer_cost`."""
        return layer_cost(n_labels=n_labels, hidden=hidden, run=run, B=B, R=R, estimator=estimator)

    def index_bytes(self) -> int:
        """Bytes of the hash tables that decoding needs."""
        return int(self.lookup.nbytes)

    def facts(self) -> list[dict[str, int]]:
        """For each R up to the layer's: label pairs that share their buckets in all of the first R repetitions.

        With a shared encoder also the number of repetitions that trained it, which is more than R in all rows but one.
        """
        shared = {"encoder_trained_by": self.R} if self.share_encoder else {}
        return [{"unresolved_pairs": int(pairs)} | shared for pairs in unresolved_pairs(self.lookup)]

    def warm_up(self, k: int) -> None:
        """Compile everything that ranking on the host may need, whichever method it will choose."""
        if not self.kernel.is_cuda:
            self._ranker.warm_up(k, self.decoders)

    def rank_only(self, labels: range) -> None:
        """Rank only these labels from now on, with their scores unchanged; for a layer after training."""
        self._ranker = BucketRanker(self.lookup[:, labels.start : labels.stop].copy(), self.B, labels.start)

    def subset(self, repetitions: range) -> MachSubset:
        """The layer of some repetitions alone; it shares its parameters with this one."""
        return MachSubset(self, repetitions)

    def loss(self, hidden: Tensor, labels: sp.csr_matrix) -> Tensor:
        """Sum over repetitions of their losses: hidden [R, N, H], labels CSR [N, n_labels]."""
        targets = Targets.of(labels, self.lookup, self.B)
        return bucket_losses(hidden, self.kernel, self.biases, targets, self._loss_settings())

    def _loss_settings(self) -> LossSettings:
        hook = {"timing_hook": self.timing_hook} if self.timing_hook else {}
        return LossSettings(self.loss_kind, self.precision, **hook)

    def topk(self, hidden: Tensor, k: int, excluded: sp.csr_matrix | None = None) -> Ranking:
        """Top-k from all repetitions by the first estimator: (scores [N, k], labels [N, k]).

        excluded: CSR [N, n_labels], pairs of a point and a label that may not be ranked; None for none.
        """
        scores, labels = self.topk_prefixes(hidden, k, [self.R], excluded)
        return scores[0], labels[0]

    def topk_prefixes(
        self, hidden: Tensor, k: int, prefixes: Sequence[int], excluded: sp.csr_matrix | None = None
    ) -> Ranking:
        """Top-k by the first estimator from the first R' repetitions, R' in ``prefixes``: [len(prefixes), N, k]."""
        query = Query(k, prefixes, range(self.R), self.decoders[:1], excluded)
        return self._ranked(hidden, query)[self.decoders[0]]

    def topk_decoders(
        self, hidden: Tensor, k: int, prefixes: Sequence[int], excluded: sp.csr_matrix | None = None
    ) -> dict[str, Ranking]:
        """The same by each of the layer's estimators."""
        return self._ranked(hidden, Query(k, prefixes, range(self.R), self.decoders, excluded))

    def _ranked(self, hidden: Tensor, query: Query) -> dict[str, Ranking]:
        def logits(at: int, points: slice) -> Tensor:
            r = query.repetitions[at]
            return torch.addmm(self.biases[r], hidden[at, points], self.weights[r].T)

        return self._ranker.rank(logits, self.loss_kind, hidden.shape[1], query)


class MachSubset(nn.Module):
    """Some repetitions of a MachOutput, trained by themselves; its parameters share memory with the whole layer."""

    takes_excluded = True

    def __init__(self, whole: MachOutput, repetitions: range) -> None:
        super().__init__()
        part = slice(repetitions.start, repetitions.stop)
        self.kernel, self.biases = nn.Parameter(whole.kernel.detach()[part]), nn.Parameter(whole.biases.detach()[part])
        self.members = repetitions
        self._whole = (whole,)  # in a tuple, so that its parameters are not registered here

    @property
    def repetitions(self) -> int:
        return len(self.members)

    def loss(self, hidden: Tensor, labels: sp.csr_matrix) -> Tensor:
        """Sum over these repetitions of their losses: hidden [G, N, H]."""
        (whole,) = self._whole
        targets = Targets.of(labels, whole.lookup[self.members.start : self.members.stop], whole.B)
        return bucket_losses(hidden, self.kernel, self.biases, targets, whole._loss_settings())

    def topk(self, hidden: Tensor, k: int, excluded: sp.csr_matrix | None = None) -> Ranking:
        """Top-k from these repetitions alone, by the first estimator: (scores [N, k], labels [N, k])."""
        (whole,) = self._whole
        name = whole.decoders[0]
        query = Query(k, [len(self.members)], self.members, [name], excluded)
        scores, labels = whole._ranked(hidden, query)[name]
        return scores[0], labels[0]


def check_together(B: int, estimator: str, share_encoder: bool, feature_hash: int) -> None:
    """ValueError for settings that are right each by itself, and not together."""
    if feature_hash < 0 or (feature_hash and share_encoder):
        raise ValueError(
            f"feature_hash: found {feature_hash} with share_encoder {share_encoder}; expected 0 or more, and 0 for "
            "a shared encoder, because every repetition hashes the features in its own way"
        )
    if B < 2 and any(ESTIMATORS[name].unbiased for name in estimator_names(estimator)):
        raise ValueError(f"B: found {B} with estimator {estimator}; expected at least 2 buckets")


def bucket_prior(train_labels: sp.csr_matrix, buckets: npt.NDArray[np.integer], B: int, loss: str) -> Tensor:
    """Bias that reproduces the buckets' train frequencies when nothing else is known, float32 [B]."""
    _, columns = Targets.of(train_labels, buckets[None], B).pairs(0)
    positives = np.bincount(columns.numpy(), minlength=B) + SMOOTHING
    if loss == "bce":
        share = positives / (train_labels.shape[0] + 2 * SMOOTHING)
        prior = np.log(share) - np.log1p(-share)
    else:
        prior = np.log(positives / positives.sum())
    return torch.from_numpy(prior.astype(np.float32))
