"""Adding values up by index."""

from __future__ import annotations

from torch import Tensor


def add_at(total: Tensor, at: Tensor, values: Tensor) -> Tensor:
    """total[at[i]] += values[i] in place; what has the same index is added in the same order every time.

    On a GPU ``index_add_`` adds in whatever order its threads come, so that the last bits differ from run to run;
    ``index_put_`` sorts first.
    """
    if total.is_cuda:
        return total.index_put_((at,), values, accumulate=True)
    return total.index_add_(0, at, values)
