"""Sums of values by index, with the same bits every time."""

from __future__ import annotations

from torch import Tensor


def add_at(total: Tensor, at: Tensor, values: Tensor) -> Tensor:
    """total[at[i]] += values[i] in place; values with the same index are added in the same order every time.

    On a GPU ``index_add_`` adds in the order of its threads, so that the last bits differ from run to run;
    ``index_put_`` sorts first.
    """
    if total.is_cuda:
        return total.index_put_((at,), values, accumulate=True)
    return total.index_add_(0, at, values)
