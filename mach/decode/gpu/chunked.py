"""Exact top-k in plain torch operations, a chunk of labels at a time: the reference of the kernel, and its fallback."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mach.decode.gpu.keys import EMPTY, empty_entries, pack, unpack
from mach.kernels.excluded import Excluded, PairsByLabel

CELLS = 2**22  # points × labels × (1, or R for the median) of a chunk


def top_k_chunked(
    bucket_scores: Tensor,
    lookup: Tensor,
    k: int,
    prefixes: list[int],
    combine: str,
    excluded: Excluded,
    *,
    cells: int = CELLS,
) -> tuple[Tensor, Tensor]:
    """As `mach.decode.gpu.api.top_k_prefixes_device`, with arguments that were checked there, on the device
    of the tensors.

    Each chunk is ranked together with the best k so far. Memory grows with ``cells`` and with N·k, not with labels.
    """
    n_points, n_labels = len(bucket_scores), lookup.shape[1]
    width = max(1, cells // max(1, n_points * (prefixes[-1] if combine == "median" else 1)))
    table = bucket_scores[:, : prefixes[-1]].permute(1, 2, 0).contiguous()  # points innermost: whole rows are gathered
    pairs = PairsByLabel(excluded, bucket_scores.device)
    best = [empty_entries(k, bucket_scores.device).expand(n_points, k) for _ in prefixes]
    for low in range(0, n_labels, width):
        buckets = bucket_ids(lookup[: prefixes[-1], low : low + width])
        labels = torch.arange(low, low + buckets.shape[1], device=bucket_scores.device)
        for p, scores in enumerate(_combined(table, buckets, prefixes, combine)):
            keys = pack(scores.T, labels)
            keys[pairs.within(low, low + buckets.shape[1])] = EMPTY
            best[p] = torch.cat([best[p], keys], dim=1).topk(k, dim=1).values
    return unpack(torch.stack(best))


def bucket_ids(lookup: Tensor) -> Tensor:
    """Bucket ids as int64; int16 is how torch holds the uint16 of a table of at most 65,536 buckets."""
    if lookup.dtype == torch.int16:
        return lookup.to(torch.int64) & 0xFFFF
    return lookup.to(torch.int64)


def _combined(table: Tensor, buckets: Tensor, prefixes: list[int], combine: str) -> Iterator[Tensor]:
    """Scores [chunk, N] after each prefix; table [R, B, N], buckets [R, chunk]."""
    lines = (table[r].index_select(0, buckets[r]) for r in range(prefixes[-1]))
    if combine == "median":
        every = torch.stack(list(lines))
        yield from (_median(every[:R]) for R in prefixes)
        return
    total = next(lines)
    for R in range(1, prefixes[-1] + 1):
        if R > 1:
            total = total + next(lines) if combine == "sum" else torch.minimum(total, next(lines))
        if R in prefixes:
            yield total


def _median(scores: Tensor) -> Tensor:
    """Median over the first axis as numpy has it: the mean of the two in the middle when their number is even."""
    ranked = scores.sort(dim=0).values
    middle = len(scores) // 2
    return ranked[middle] if len(scores) % 2 else (ranked[middle - 1] + ranked[middle]) / 2
