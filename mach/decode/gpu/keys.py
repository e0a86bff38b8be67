"""A score and its label as one int64 that sorts as the rankings do: best score first, ties by lowest label id.

The upper half holds the bits of the float32 score, rearranged so that as integers they have the order of the floats;
the lower half holds 2³¹ − 1 − label. Keys of different labels differ, so that a top-k of keys has no ties, and any
algorithm for it, stable or not, gives the same answer.
"""

from __future__ import annotations

import torch
from torch import Tensor

LABEL_LIMIT = 2**31 - 1  # labels are below it, so that the lower half of a key is never negative
EMPTY = -(2**63)  # EMPTY + j for j < 2³¹ is an entry without a label; every real key is greater, even that of −inf


def pack(scores: Tensor, labels: Tensor) -> Tensor:
    """Keys int64 of scores float32 and labels (integers, broadcast); −0 counts as +0, which it equals."""
    bits = torch.where(scores == 0, 0.0, scores).view(torch.int32)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.to(torch.int64) << 32) | (LABEL_LIMIT - labels.to(torch.int64))


def unpack(keys: Tensor) -> tuple[Tensor, Tensor]:
    """(scores float32, labels int32) of keys int64; an empty entry is label −1 at score −inf."""
    ordered = keys >> 32
    empty = ordered == EMPTY >> 32
    bits = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).to(torch.int32)
    scores = torch.where(empty, -torch.inf, bits.view(torch.float32))
    labels = torch.where(empty, -1, LABEL_LIMIT - (keys & 0xFFFFFFFF))
    return scores, labels.to(torch.int32)


def empty_entries(k: int, device: torch.device) -> Tensor:
    """k different keys int64 [k] of entries without a label."""
    return EMPTY + torch.arange(k, device=device)
