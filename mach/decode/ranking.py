"""From the logits of R·B buckets to ranked labels, by one estimator or by several, a slice of the points at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.nn import functional as F

from mach.decode.cpu.scan import FIRST_PART, SAMPLE
from mach.decode.cpu.simd.lanes import AT_ONCE
from mach.decode.cpu.simd.vectors import LINE
from mach.decode.decoder import Decoder
from mach.decode.estimators import ESTIMATORS
from mach.decode.gpu.api import top_k_prefixes_device
from mach.kernels.excluded import Excluded
from mach.kernels.sizes import FLOAT_BYTES

Ranking = tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]
SLICE_BYTES = 256 * 2**20  # bucket scores of the points that are decoded together


@dataclass(frozen=True)
class Query:
    """Top-k from the first R' of ``repetitions``, for each R' in ``prefixes`` and by each estimator.

    ``excluded``: CSR [N, all labels], pairs of a point and a label that may not be ranked; None for none.
    """

    k: int
    prefixes: Sequence[int]
    repetitions: range
    estimators: Sequence[str]
    excluded: sp.csr_matrix | None = None


class BucketRanker:
    """Decodes with lookup [R, n_labels] of buckets 0..B−1; keeps what decoding prepares from one call to the next.

    ``first``: id of the label that the first column of the lookup belongs to.
    """

    def __init__(self, lookup: npt.NDArray[np.integer], B: int, first: int = 0) -> None:
        self.lookup, self.B, self.first = lookup, B, first
        self._decoders: dict[range, Decoder] = {}
        self._on_device: dict[torch.device, Tensor] = {}

    def rank(
        self, logits: Callable[[int, slice], Tensor], loss: str, n_points: int, query: Query
    ) -> dict[str, Ranking]:
        """For each estimator (scores, labels) [P, N, k].

        ``logits(at, points)`` returns the logits [n, B] of ``query.repetitions[at]`` for a slice of the points;
        ``loss`` (bce or softmax) defines the probability that belongs to a logit.
        """
        repetitions = query.repetitions
        size = max(LINE, SLICE_BYTES // (FLOAT_BYTES * len(repetitions) * self.B) // LINE * LINE)
        excluded = self._excluded(query, n_points)
        parts: dict[str, list[Ranking]] = {name: [] for name in query.estimators}
        for low in range(0, n_points, size):
            points = slice(low, min(low + size, n_points))
            found = [logits(at, points).float() for at in range(len(repetitions))]
            for name in query.estimators:
                parts[name].append(self._decode(found, excluded.take(points), loss, query, name))
        joined = {name: [np.concatenate(arrays, 1) for arrays in zip(*of, strict=True)] for name, of in parts.items()}
        return {name: (scores, self._named(labels)) for name, (scores, labels) in joined.items()}

    def warm_up(self, k: int, estimators: Sequence[str]) -> None:
        """Run every kernel that ranking on the host may choose on a few labels, so that none is compiled later."""
        R, K = min(AT_ONCE, len(self.lookup)), self.lookup.shape[1]
        some = np.ascontiguousarray(self.lookup[:R, : min(K, FIRST_PART * (max(SAMPLE, 8 * k) + 1))])
        scores = np.random.default_rng(0).random((2 * LINE, R, self.B), dtype=np.float32)
        decoder = Decoder(some, self.B)
        for name in estimators:
            for method in ("dense", "pruned") if ESTIMATORS[name].exact else ("auto",):
                for points in (1, LINE, 2 * LINE, 2 * LINE):  # the last twice: half bytes, then bytes
                    for prefixes in ([R], list(range(1, R + 1))):
                        decoder.top_k_prefixes(scores[:points], k, prefixes, estimator=name, method=method)

    def _excluded(self, query: Query, n_points: int) -> Excluded:
        """The pairs of the labels that the lookup has, by its columns."""
        n_labels, pairs = self.lookup.shape[1], query.excluded
        if pairs is not None and (self.first or n_labels < pairs.shape[1]):
            pairs = pairs[:, self.first : self.first + n_labels]
        return Excluded.of(pairs, n_points, n_labels)

    def _named(self, labels: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Columns of the lookup as label ids; −1 stays."""
        return np.where(labels < 0, labels, labels + np.int32(self.first)) if self.first else labels

    def _decode(self, logits: list[Tensor], excluded: Excluded, loss: str, query: Query, name: str) -> Ranking:
        how, repetitions, prefixes = ESTIMATORS[name], query.repetitions, list(query.prefixes)
        read = [bucket_scores(part, how.reads, loss) for part in logits]
        if logits[0].is_cuda and how.exact:
            table = self._table_on(logits[0].device)[repetitions.start : repetitions.stop]
            arguments = torch.stack(read, 1), table, query.k, prefixes, how.combine
            scores, labels = top_k_prefixes_device(*arguments, excluded=excluded)
            return how.finish(scores.cpu().numpy(), np.asarray(prefixes), self.B), labels.cpu().numpy()
        on_host = np.empty((len(read[0]), len(read), self.B), dtype=np.float32)
        for at, part in enumerate(read):
            on_host[:, at] = part.cpu().numpy()
        if repetitions not in self._decoders:
            self._decoders[repetitions] = Decoder(self.lookup[repetitions.start : repetitions.stop], self.B)
        decoder = self._decoders[repetitions]
        return decoder.top_k_prefixes(on_host, query.k, prefixes, estimator=name, excluded=excluded)

    def _table_on(self, device: torch.device) -> Tensor:
        if device not in self._on_device:
            signed = self.lookup.view(np.int16) if self.lookup.dtype == np.uint16 else self.lookup
            self._on_device[device] = torch.from_numpy(signed).to(device)
        return self._on_device[device]


def bucket_scores(logits: Tensor, reads: str, loss: str) -> Tensor:
    """What an estimator reads of logits [N, B]: ``logit``, ``probability`` or ``log_probability`` of each bucket.

    With ``bce`` a bucket's probability is that of holding any label of the point; with ``softmax`` buckets share 1.
    """
    if reads == "logit":
        return logits
    if reads == "probability":
        return logits.sigmoid() if loss == "bce" else logits.softmax(1)
    return F.logsigmoid(logits) if loss == "bce" else logits.log_softmax(1)
