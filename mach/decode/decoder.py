"""From bucket scores to labels: exact top-k over all K labels, for one R or for every R at once.

There are two exact methods, which return the same scores and labels bit for bit: `mach.decode.cpu.scan` bounds every
label with one byte per score; `mach.decode.cpu.pruned` scores only labels that share enough of a point's best buckets,
and proves that no other label can be among the top k. Which is faster depends on how peaked a point's scores are, so
``auto`` decides for each point. No array of size points × labels exists. Ties go to the lowest label id."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from mach.decode.cpu.inverted_index import LabelIndex
from mach.decode.cpu.pruned import PrunedSearch
from mach.decode.cpu.scan import DenseScan
from mach.decode.estimators import ESTIMATORS, Estimator
from mach.decode.reference import top_k_reference
from mach.kernels.excluded import Excluded, Pairs

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.integer]

METHODS = ("auto", "dense", "pruned", "reference")


def top_k(
    bucket_scores: Floats,
    lookup: Ints,
    k: int,
    *,
    estimator: str = "logit_sum",
    method: str = "auto",
    excluded: Pairs | None = None,
) -> tuple[Floats, npt.NDArray[np.int32]]:
    """Top-k labels of each point; exact but for the estimator ``top_buckets``, which is approximate.

    bucket_scores [N, R, B] float32, the scores that the estimator reads (`mach.decode.estimators`); lookup [R,
    n_labels] bucket ids; returns (scores [N, k], labels [N, k]), best first, ties by lowest label id. With fewer than k
    labels the other entries are label −1 at score −inf. method: ``auto``, ``dense``, ``pruned`` (points that cannot be
    pruned are scanned) or ``reference``. Raises ValueError for wrong shapes, names, and NaN or infinite scores.

    excluded: labels that may not be ranked, as a CSR matrix [N, n_labels] whose stored entries are the pairs of a point
    and a label, or as its arrays (indptr [N + 1], indices [pairs]). The result is that of the other labels alone.

    To decode batch after batch with one table, keep a `Decoder`.
    """
    decoder = Decoder(lookup, _buckets(bucket_scores))
    return decoder.top_k(bucket_scores, k, estimator=estimator, method=method, excluded=excluded)


def top_k_prefixes(
    bucket_scores: Floats,
    lookup: Ints,
    k: int,
    prefixes: list[int],
    *,
    estimator: str = "logit_sum",
    method: str = "auto",
    excluded: Pairs | None = None,
) -> tuple[Floats, npt.NDArray[np.int32]]:
    """Top-k from the first R' repetitions, for every R' in ``prefixes`` (ascending), in one pass.

    Returns (scores [len(prefixes), N, k], labels [len(prefixes), N, k]); entry p equals `top_k` on the first
    prefixes[p] repetitions bit for bit, because the sum over repetitions runs in the same order.
    """
    decoder = Decoder(lookup, _buckets(bucket_scores))
    return decoder.top_k_prefixes(bucket_scores, k, prefixes, estimator=estimator, method=method, excluded=excluded)


class Decoder:
    """Decodes with one lookup table [R, n_labels] of buckets 0..B−1; its index is built once that saves time.

    Raises ValueError for a table that is not two-dimensional or names a bucket out of range.
    """

    def __init__(self, lookup: Ints, B: int) -> None:
        if lookup.ndim != 2:
            raise ValueError(f"lookup: found shape {lookup.shape}; expected [R, n_labels]")
        if lookup.size and not 0 <= int(lookup.min()) <= int(lookup.max()) < B:
            raise ValueError(f"lookup names buckets {lookup.min()} to {lookup.max()}, but there are {B}")
        self.lookup, self.B = np.ascontiguousarray(lookup), B
        self._dense = DenseScan(self.lookup, B)

    def prepare(self) -> None:
        """Build the index and copies of the lookup now, which are otherwise built after many points were decoded."""
        _ = self.index
        self._dense.prepare()

    @cached_property
    def index(self) -> LabelIndex:
        """Labels by bucket: 4 bytes per label and repetition."""
        return self._pruned.index

    @cached_property
    def _pruned(self) -> PrunedSearch:
        return PrunedSearch(self.lookup, self.B, self._dense)

    def top_k(
        self,
        bucket_scores: Floats,
        k: int,
        *,
        estimator: str = "logit_sum",
        method: str = "auto",
        excluded: Pairs | Excluded | None = None,
    ) -> tuple[Floats, npt.NDArray[np.int32]]:
        """See the function `top_k`."""
        names = {"estimator": estimator, "method": method}
        scores, labels = self.top_k_prefixes(bucket_scores, k, [len(self.lookup)], **names, excluded=excluded)
        return scores[0], labels[0]

    def top_k_prefixes(
        self,
        bucket_scores: Floats,
        k: int,
        prefixes: list[int],
        *,
        estimator: str = "logit_sum",
        method: str = "auto",
        excluded: Pairs | Excluded | None = None,
    ) -> tuple[Floats, npt.NDArray[np.int32]]:
        """See the function `top_k_prefixes`."""
        how = self._check(bucket_scores, k, prefixes, estimator, method)
        if not isinstance(excluded, Excluded):
            excluded = Excluded.of(excluded, len(bucket_scores), self.lookup.shape[1])
        bucket_scores = np.ascontiguousarray(bucket_scores, dtype=np.float32)
        scores, labels = self._combined(bucket_scores, excluded, k, list(prefixes), how.combine, method)
        return how.finish(scores, np.asarray(prefixes), self.B), labels

    def _combined(
        self, bucket_scores: Floats, excluded: Excluded, k: int, prefixes: list[int], combine: str, method: str
    ) -> tuple[Floats, npt.NDArray[np.int32]]:
        if combine == "top_buckets":
            _check_finite(bucket_scores)
            parts = [self.index.top_buckets(bucket_scores, R, k, excluded) for R in prefixes]
            return np.stack([scores for scores, _ in parts]), np.stack([labels for _, labels in parts])
        if method == "reference":
            _check_finite(bucket_scores)
            return top_k_reference(bucket_scores, self.lookup, k, prefixes, combine, excluded)
        # Pruning works for a sum over one set of repetitions; several prefixes share one scan instead.
        if method == "dense" or combine != "sum" or (method == "auto" and len(prefixes) > 1):
            return self._dense.top_k(bucket_scores, k, prefixes, combine, excluded=excluded)
        always = method == "pruned"
        parts = [self._pruned.top_k(bucket_scores, R, k, always=always, excluded=excluded) for R in prefixes]
        return np.stack([scores for scores, _ in parts]), np.stack([labels for _, labels in parts])

    def _check(self, bucket_scores: Floats, k: int, prefixes: list[int], estimator: str, method: str) -> Estimator:
        R = len(self.lookup)
        if bucket_scores.ndim != 3 or bucket_scores.shape[1:] != (R, self.B):
            raise ValueError(
                "bucket_scores [N, R, B] and lookup [R, n_labels] do not fit: "
                f"{bucket_scores.shape}, {self.lookup.shape}, B={self.B}"
            )
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        if not prefixes or sorted(set(prefixes)) != list(prefixes) or not 1 <= prefixes[0] <= prefixes[-1] <= R:
            raise ValueError(f"prefixes must ascend within 1..{R}, got {prefixes}")
        for name, value, known in [("estimator", estimator, ESTIMATORS), ("method", method, METHODS)]:
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")
        return ESTIMATORS[estimator]


def _buckets(bucket_scores: Floats) -> int:
    if bucket_scores.ndim != 3:
        raise ValueError(f"bucket_scores: found shape {bucket_scores.shape}; expected [N, R, B]")
    return bucket_scores.shape[2]


def _check_finite(bucket_scores: Floats) -> None:
    if not np.isfinite(bucket_scores).all():
        raise ValueError("bucket_scores hold NaN or infinite values")
