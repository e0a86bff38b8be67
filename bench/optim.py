"""Adam for all parameters, in which a row-sparse gradient touches only the rows it names."""

from __future__ import annotations

from collections.abc import Iterable

import numba
import numpy as np
import torch
from torch import Tensor, nn


def row_sparse_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Parameters that modules list by name in their attribute ``row_sparse``: their gradients are sparse."""
    return [getattr(part, name) for part in module.modules() for name in getattr(part, "row_sparse", ())]


class RowSparseAdam(torch.optim.Optimizer):
    """Adam (Kingma and Ba 2015) whose moments and weights move only in the rows of the gradient ("lazy" Adam).

    The same update as ``torch.optim.SparseAdam`` (a test compares them), in one compiled pass over the rows.
    Gradients are sparse COO [n, m]; rows named twice are added up first.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of the rows that have a gradient."""
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = 0
                    state["mean"] = torch.zeros_like(parameter)
                    state["square"] = torch.zeros_like(parameter)
                state["step"] += 1
                gradient = parameter.grad
                # Autograd forgets that a gradient is coalesced, and sorting it again costs more than the update.
                if not gradient.is_coalesced() and not _distinct(gradient._indices()[0], len(parameter)):
                    gradient = gradient.coalesce()
                rows, values = gradient._indices()[0], gradient._values()
                first, second = group["betas"]
                correction = (1 - second ** state["step"]) ** 0.5
                rate = group["lr"] * correction / (1 - first ** state["step"])
                arguments = (rows, values, rate, first, second, group["eps"])
                update = _update_torch if parameter.is_cuda else _update_numba
                update(parameter, state["mean"], state["square"], *arguments)


def _distinct(rows: Tensor, n_rows: int) -> bool:
    """Whether no row is named twice (False for tensors on a GPU, where coalescing is cheap)."""
    return not rows.is_cuda and _all_different(rows.numpy(), n_rows)


@numba.njit(cache=True)
def _all_different(rows, n_rows):  # type: ignore[no-untyped-def]
    seen = np.zeros(n_rows, dtype=np.bool_)
    for row in rows:
        if seen[row]:
            return False
        seen[row] = True
    return True


def _update_torch(
    weight: Tensor,
    mean: Tensor,
    square: Tensor,
    rows: Tensor,
    g: Tensor,
    rate: float,
    b1: float,
    b2: float,
    eps: float,
) -> None:
    m = mean[rows].mul_(b1).add_(g, alpha=1 - b1)
    v = square[rows].mul_(b2).addcmul_(g, g, value=1 - b2)
    mean[rows], square[rows] = m, v
    weight[rows] -= rate * m / (v.sqrt() + eps)


def _update_numba(
    weight: Tensor,
    mean: Tensor,
    square: Tensor,
    rows: Tensor,
    g: Tensor,
    rate: float,
    b1: float,
    b2: float,
    eps: float,
) -> None:
    arrays = (weight.detach().numpy(), mean.numpy(), square.numpy(), rows.numpy(), g.numpy())
    _adam_rows(*arrays, *(np.float32(x) for x in (rate, b1, b2, 1 - b1, 1 - b2, eps)))


@numba.njit(parallel=True, cache=True)
def _adam_rows(weight, mean, square, rows, g, rate, b1, b2, c1, c2, eps):  # type: ignore[no-untyped-def]
    for u in numba.prange(len(rows)):
        row = rows[u]
        for c in range(weight.shape[1]):
            m = b1 * mean[row, c] + c1 * g[u, c]
            v = b2 * square[row, c] + c2 * g[u, c] * g[u, c]
            mean[row, c] = m
            square[row, c] = v
            weight[row, c] -= rate * m / (np.sqrt(v) + eps)


class Optimiser:
    """Adam with dense moments for ordinary parameters and row-sparse ones for those marked so; one learning rate."""

    def __init__(self, module: nn.Module, lr: float) -> None:
        sparse = row_sparse_parameters(module)
        marked = {id(p) for p in sparse}
        dense = [p for p in module.parameters() if id(p) not in marked]
        self.lr = lr
        self.parts: list[torch.optim.Optimizer] = []
        if dense:
            self.parts.append(torch.optim.Adam(dense, lr=lr, fused=True))
        if sparse:
            self.parts.append(RowSparseAdam(sparse, lr=lr))

    def scale_lr(self, factor: float) -> None:
        """Set the learning rate to ``factor`` times the one given at the start."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = self.lr * factor

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=True)
