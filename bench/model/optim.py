"""Optimisers in which a row-sparse gradient touches only the rows it names: Adam and row-wise Adagrad.

`Optimiser` puts them together with torch's own and with the one of `bench.model.inplace_adam`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from torch import Tensor, nn

from bench.model.built_method import chunked_parts, row_sparse_parameters
from bench.model.feature_bag import FeatureBag, RowGradient
from bench.model.gpu_updates import updates_for
from bench.model.inplace_adam import InPlaceAdam
from bench.model.row_kernels import STRIP, adagrad_bag, adagrad_rows, adam_bag, adam_rows, chunks_of

CHUNKS_A_THREAD = 4  # pieces of work for each thread, so that an uneven piece does not keep the others waiting


class _RowSparse(torch.optim.Optimizer):
    """Finds the gradients of row-sparse parameters: sparse COO [n, m] in ``grad``, or left by the bag of a table.

    ``bags``: the bag of each table, by the table's id. A row that a sparse gradient names twice is added up first.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], defaults: dict[str, Any], bags: Mapping[int, FeatureBag] | None
    ) -> None:
        super().__init__(parameters, defaults)
        self.bags = bags or {}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of the rows that have a gradient."""
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                bag = self.bags.get(id(parameter))
                if parameter.grad is None and not (bag and bag.gradients):
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = 0
                    self.start(parameter, state, bag.groups if bag and bag.lookup is None else 1)
                state["step"] += 1
                if parameter.grad is None and bag:
                    for gradient in bag.gradients:
                        self.update_bag(parameter, state, group, gradient)
                    bag.gradients = []
                    continue
                # Autograd forgets that a gradient is coalesced, and sorting it again costs more than the update.
                grad = parameter.grad
                if not grad.is_coalesced() and not _distinct(grad._indices()[0], len(parameter)):
                    grad = grad.coalesce()
                self.update_rows(parameter, state, group, grad._indices()[0], grad._values())

    def start(self, parameter: Tensor, state: dict[str, Any], groups: int) -> None:
        """Make the state of a parameter whose columns belong to ``groups`` encoders."""
        raise NotImplementedError

    def update_bag(self, weight: Tensor, state: dict[str, Any], group: dict[str, Any], gradient: RowGradient) -> None:
        """Update from a gradient that is not yet added up."""
        raise NotImplementedError

    def update_rows(
        self, weight: Tensor, state: dict[str, Any], group: dict[str, Any], rows: Tensor, gradient: Tensor
    ) -> None:
        """Update from the gradient [U, m] of distinct rows."""
        raise NotImplementedError


class RowSparseAdam(_RowSparse):
    """Adam (Kingma and Ba 2015) whose moments and weights move only in the rows of the gradient ("lazy" Adam).

    The same update as ``torch.optim.SparseAdam`` (a test compares them), in one compiled pass over the rows.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        bags: Mapping[int, FeatureBag] | None = None,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps}, bags)

    def start(self, parameter: Tensor, state: dict[str, Any], groups: int) -> None:
        del groups
        state["mean"], state["square"] = zeros(parameter, parameter.shape), zeros(parameter, parameter.shape)

    def update_bag(self, weight: Tensor, state: dict[str, Any], group: dict[str, Any], gradient: RowGradient) -> None:
        arrays = (weight.detach().numpy(), state["mean"].numpy(), state["square"].numpy())
        numbers: tuple[Any, ...] = _adam_numbers(state["step"], group)
        adam_bag(*arrays, *_bag_arguments(gradient), *numbers)

    def update_rows(
        self, weight: Tensor, state: dict[str, Any], group: dict[str, Any], rows: Tensor, gradient: Tensor
    ) -> None:
        numbers = _adam_numbers(state["step"], group)
        if weight.is_cuda:
            kernels = updates_for(weight)
            (kernels.adam_rows if kernels else _adam_torch)(
                weight, state["mean"], state["square"], rows, gradient, AdamStep(*map(float, numbers))
            )
        else:
            table, mean, square = weight.detach().numpy(), state["mean"].numpy(), state["square"].numpy()
            adam_rows(table, mean, square, rows.numpy(), gradient.numpy(), *numbers)


class RowwiseAdagrad(_RowSparse):
    """Adagrad (Duchi et al. 2011) with one accumulator for a row's H columns of an encoder: mean of squares, summed up.

    A quarter of the memory traffic of Adam. Encoders that share a table have accumulators of their own, so training
    them together is training them apart. With rows of one column it is ``torch.optim.Adagrad`` (a test compares them).
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        eps: float = 1e-10,
        bags: Mapping[int, FeatureBag] | None = None,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "eps": eps}, bags)

    def start(self, parameter: Tensor, state: dict[str, Any], groups: int) -> None:
        state["square"] = zeros(parameter, (len(parameter), groups))

    def update_bag(self, weight: Tensor, state: dict[str, Any], group: dict[str, Any], gradient: RowGradient) -> None:
        numbers: tuple[Any, ...] = (np.float32(group["lr"]), np.float32(group["eps"]))
        adagrad_bag(weight.detach().numpy(), state["square"].numpy(), *_bag_arguments(gradient), *numbers)

    def update_rows(
        self, weight: Tensor, state: dict[str, Any], group: dict[str, Any], rows: Tensor, gradient: Tensor
    ) -> None:
        if weight.is_cuda:
            kernels = updates_for(weight)
            (kernels.adagrad_rows if kernels else _adagrad_torch)(
                weight, state["square"], rows, gradient, group["lr"], group["eps"]
            )
        else:
            table, numbers = weight.detach().numpy(), (np.float32(group["lr"]), np.float32(group["eps"]))
            adagrad_rows(table, state["square"].numpy(), rows.numpy(), gradient.numpy(), *numbers)


def zeros(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Float32 zeros beside ``like``; on the host, rows that are never written take no memory."""
    if like.is_cuda:
        return torch.zeros(shape, device=like.device)
    return torch.from_numpy(np.zeros(shape, dtype=np.float32))


def _bag_arguments(gradient: RowGradient) -> tuple[Any, ...]:
    g, width = gradient, gradient.pull.shape[1]
    # Strips first, chunks of rows within them; a table narrower than a strip for each thread is cut by rows alone.
    bounds = chunks_of(g.indptr, CHUNKS_A_THREAD * numba.get_num_threads())
    return g.rows, g.indptr, g.points, g.values, g.pull, bounds, min(STRIP, width)


class AdamStep(NamedTuple):
    """Numbers of an update: corrected step length, β1, β2, 1 − β1, 1 − β2, ε."""

    rate: Any
    b1: Any
    b2: Any
    c1: Any
    c2: Any
    eps: Any


def _adam_numbers(step: int, group: dict[str, Any]) -> AdamStep:
    first, second = group["betas"]
    rate = group["lr"] * (1 - second**step) ** 0.5 / (1 - first**step)
    return AdamStep(*map(np.float32, (rate, first, second, 1 - first, 1 - second, group["eps"])))


def _adam_torch(weight: Tensor, mean: Tensor, square: Tensor, rows: Tensor, g: Tensor, numbers: AdamStep) -> None:
    rate, b1, b2, c1, c2, eps = numbers
    m = mean[rows].mul_(b1).add_(g, alpha=c1)
    v = square[rows].mul_(b2).addcmul_(g, g, value=c2)
    mean[rows], square[rows] = m, v
    weight[rows] -= rate * m / (v.sqrt() + eps)


def _adagrad_torch(weight: Tensor, square: Tensor, rows: Tensor, g: Tensor, rate: float, eps: float) -> None:
    by_encoder = g.view(len(rows), square.shape[1], -1)
    total = square[rows] + by_encoder.square().mean(2)
    square[rows] = total
    weight[rows] -= (rate * by_encoder / (total.sqrt() + eps)[..., None]).view_as(g)


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


class Optimiser:
    """Adam with dense moments for ordinary parameters, and ``kind`` for those marked row-sparse; one learning rate.

    kind: ``adam`` or ``rowwise_adagrad``. Layers that list parameters in ``chunked`` have them updated within their
    loss (`bench.model.inplace_adam`) while this object is open: use it as a context, with one loss before
    each step. seed: of the stochastic rounding of bfloat16 weights."""

    def __init__(self, module: nn.Module, lr: float, kind: str = "adam", seed: int = 0) -> None:
        sparse = row_sparse_parameters(module)
        chunked = chunked_parts(module)
        marked = {id(p) for p in sparse} | {id(part.get_parameter(name)) for part in chunked for name in part.chunked}
        dense = [p for p in module.parameters() if id(p) not in marked]
        bags = {id(part.table): part for part in module.modules() if isinstance(part, FeatureBag)}
        self.bags = list(bags.values())
        self.lr = lr
        self.parts: list[torch.optim.Optimizer] = []
        if dense:
            self.parts.append(torch.optim.Adam(dense, lr=lr, fused=True))
        if sparse:
            make = {"adam": RowSparseAdam, "rowwise_adagrad": RowwiseAdagrad}[kind]
            self.parts.append(make(sparse, lr=lr, bags=bags))
        self._in_place = [InPlaceAdam(part, lr, seed=seed) for part in chunked]
        self.parts += self._in_place

    def __enter__(self) -> Optimiser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for part in self._in_place:
            part.release()

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
        for bag in self.bags:
            bag.gradients = []
