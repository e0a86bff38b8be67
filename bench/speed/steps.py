"""Training steps to be timed: of the harness, and of separate torch modules that do the same work."""

from __future__ import annotations

import copy
import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from bench.config.yaml_files import config_path, read_yaml
from bench.model.ensemble import set_precision
from bench.model.methods import method_class
from bench.model.network import Network
from bench.model.optim import Optimiser
from bench.speed import Array

LR = 1e-3
Batch = tuple[sp.csr_matrix, sp.csr_matrix]


class TimedStep(ABC):
    """One training step per call, batch after batch; the first call returns loss and gradients to compare."""

    def __init__(self, n_batches: int) -> None:
        self.batches = itertools.cycle(range(n_batches))
        self._checked = False

    def __call__(self) -> Sequence[Array]:
        if self._checked:
            self.step()
            return []
        self._checked = True
        return self.check()

    @abstractmethod
    def step(self) -> None:
        """Train on the next batch."""

    @abstractmethod
    def check(self) -> Sequence[Array]:
        """Loss and gradients of a batch; afterwards everything that a first step allocates is there."""


def make_layer(method: str, n_labels: int, hidden: int, **settings: Any) -> Any:
    """The output layer of configs/method/<method>.yaml with bias zero: layers of one kind start with equal weights."""
    content = read_yaml(config_path("method", method))
    return method_class(content["target"])(
        n_labels=n_labels,
        hidden=hidden,
        train_labels=sp.csr_matrix(np.zeros((1, n_labels), dtype=np.float32)),
        seeds=dict.fromkeys(("hashing", "initialisation", "sampling"), 0),
        **{**content["settings"], "bias": "zero", **settings},
    )


class Step(TimedStep):
    """A training step of all repetitions."""

    def __init__(self, data: Sequence[Batch], model: Fused | Modules, optimisers: list[Any]) -> None:
        super().__init__(len(data))
        self.data, self.model, self.optimisers = data, model, optimisers

    def step(self) -> None:
        at = next(self.batches)
        self._step(at, *self.data[at])

    def check(self) -> Sequence[Array]:
        at = next(self.batches)
        X, Y = self.data[at]
        for optimiser in self.optimisers:
            _set_lr(optimiser, 0.0)
        loss = self._step(at, X, Y, last=False)
        found = [np.array([loss]), *self.model.gradients(X)]
        self._step(at, X, Y)  # again, with the optimiser: it allocates in its first step
        for optimiser in self.optimisers:
            _set_lr(optimiser, LR)
        return found

    def _step(self, at: int, X: sp.csr_matrix, Y: sp.csr_matrix, last: bool = True) -> float:
        for optimiser in self.optimisers:
            optimiser.zero_grad()
        loss = self.model.loss_and_backward(at, X, Y)
        if last:
            for optimiser in self.optimisers:
                optimiser.step()
        return loss


def _set_lr(optimiser: Any, lr: float) -> None:
    for part in optimiser.parts if isinstance(optimiser, Optimiser) else [optimiser]:
        for group in part.param_groups:
            group["lr"] = lr


class Fused:
    """All repetitions as one network, as the harness trains them."""

    def __init__(self, network: Network, precision: str = "fp32") -> None:
        self.network, self.precision = network, precision

    def loss_and_backward(self, at: int, X: sp.csr_matrix, Y: sp.csr_matrix) -> float:
        del at
        set_precision(self.network.output, self.precision, torch.device("cpu"))
        loss = self.network.loss(X, Y)
        loss.backward()
        return float(loss.detach())

    def gradients(self, X: sp.csr_matrix) -> list[Array]:
        """Of kernel [R, H, B], biases [R, B], input bias [R, H], and the table's rows in use [U, R·H]."""
        bag, output = self.network.encoder.bag, self.network.output
        (rows,) = bag.gradients
        table = rows.added_up()[torch.from_numpy(np.argsort(rows.rows))]
        tensors = (output.kernel.grad, output.biases.grad, _grad(bag.bias)[:, 0], table)
        assert np.array_equal(np.sort(rows.rows), np.unique(X.indices))
        return [t.numpy().copy() for t in tensors]


class Modules:
    """The repetitions as separate torch modules with the same weights: EmbeddingBag, ReLU, linear layer, autograd."""

    def __init__(self, network: Network, data: Sequence[Batch]) -> None:
        bag, output = network.encoder.bag, network.output
        tables = bag.table.detach().view(len(bag.table), bag.groups, bag.width).unbind(1)
        self.bags = [
            nn.EmbeddingBag.from_pretrained(table.clone(), freeze=False, mode="sum", include_last_offset=True)
            for table in tables
        ]
        self.biases = [nn.Parameter(bias[0].clone()) for bias in bag.bias.detach()]
        self.linears = [nn.Linear(bag.width, output.B) for _ in tables]
        with torch.no_grad():
            for r, linear in enumerate(self.linears):
                linear.weight.copy_(output.kernel[r].T)
                linear.bias.copy_(output.biases[r])
        self.sparse = False
        self.targets = [[or_targets(Y, buckets, output.B) for buckets in output.lookup] for _, Y in data]

    def with_sparse_gradients(self) -> Modules:
        """The same modules and weights, whose tables get sparse gradients."""
        twin = copy.copy(self)
        twin.sparse = True
        return twin

    def optimisers(self) -> list[torch.optim.Optimizer]:
        """Fused dense Adam; for sparse gradients Adagrad, which is fused for dense parameters only."""
        made: list[torch.optim.Optimizer] = []
        for bag, bias, linear in zip(self.bags, self.biases, self.linears, strict=True):
            rest = [bias, *linear.parameters()]
            if self.sparse:
                made += [torch.optim.Adagrad([bag.weight], lr=LR), torch.optim.Adagrad(rest, lr=LR, fused=True)]
            else:
                made.append(torch.optim.Adam([bag.weight, *rest], lr=LR, fused=True))
        return made

    def loss_and_backward(self, at: int, X: sp.csr_matrix, Y: sp.csr_matrix) -> float:
        del Y
        indices, offsets = (torch.from_numpy(a.astype(np.int64)) for a in (X.indices, X.indptr))
        values, total = torch.from_numpy(X.data), 0.0
        for bag, bias, linear, target in zip(self.bags, self.biases, self.linears, self.targets[at], strict=True):
            bag.sparse = self.sparse
            hidden = (bag(indices, offsets, per_sample_weights=values) + bias).relu()
            loss = nn.functional.binary_cross_entropy_with_logits(linear(hidden), target, reduction="sum") / X.shape[0]
            loss.backward()
            total += float(loss.detach())
        return total

    def gradients(self, X: sp.csr_matrix) -> list[Array]:
        """The same arrays as `Fused.gradients`."""
        rows = torch.from_numpy(np.unique(X.indices).astype(np.int64))
        tables = []
        for bag in self.bags:
            gradient = _grad(bag.weight)
            tables.append(gradient.coalesce()._values() if gradient.is_sparse else gradient[rows])
        weights = [[linear.weight, linear.bias, bias] for linear, bias in zip(self.linears, self.biases, strict=True)]
        kernel, biases, inputs = (torch.stack([_grad(p) for p in each]) for each in zip(*weights, strict=True))
        return [t.numpy().copy() for t in (kernel.transpose(1, 2), biases, inputs, torch.cat(tables, 1))]


def or_targets(Y: sp.csr_matrix, buckets: Array, B: int) -> Tensor:
    """Dense 0/1 targets [N, B]: a bucket that two labels of a point share counts once."""
    target = torch.zeros(Y.shape[0], B)
    target[np.repeat(np.arange(Y.shape[0]), np.diff(Y.indptr)), buckets[Y.indices].astype(np.int64)] = 1.0
    return target


def _grad(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
