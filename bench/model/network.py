"""The trunk that every neural method shares: a bag of weighted features, hidden layers, and an output layer on top."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import scipy.sparse as sp
import torch
from torch import Tensor, nn

from bench.model.built_method import repetitions_of
from bench.model.feature_bag import FeatureBag, Lookup


class Encoder(nn.Module):
    """G independent trunks of the same shape: feature bag, then ReLU and dense hidden layers; [N, F] → [G, N, H]."""

    def __init__(
        self,
        n_features: int,
        hidden: Sequence[int],
        seeds: Sequence[int],
        lookup: Lookup | None = None,
        n_hashed: int = 0,
    ) -> None:
        """One trunk for each seed; a trunk depends on its own seed, and its own row of the lookup, alone."""
        super().__init__()
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.bag = FeatureBag(n_features, hidden[0], generators, lookup, n_hashed)
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for fan_in, fan_out in itertools.pairwise(hidden):
            bound = (6.0 / fan_in) ** 0.5  # He et al. 2015
            stack = [torch.empty(fan_in, fan_out).uniform_(-bound, bound, generator=g) for g in generators]
            self.weights.append(nn.Parameter(torch.stack(stack)))
            self.biases.append(nn.Parameter(torch.zeros(len(seeds), 1, fan_out)))

    def parameters_of(self, g: int) -> dict[str, Tensor]:
        """The parameters of trunk g by name, as views."""
        stacks = {"weights": self.weights, "biases": self.biases}
        deeper = {f"{name}.{at}": stack[g] for name, stacked in stacks.items() for at, stack in enumerate(stacked)}
        return {"table": self.bag.table_of(g), "bias": self.bag.bias[g], **deeper}

    def forward(self, X: sp.csr_matrix) -> Tensor:
        """X CSR [N, n_features] → hidden [G, N, H], non-negative."""
        hidden = self.bag(X).relu()
        for weight, bias in zip(self.weights, self.biases, strict=True):
            hidden = torch.baddbmm(bias, hidden, weight).relu()
        return hidden


class Network(nn.Module):
    """Encoder and output layer, seen by the one training loop."""

    def __init__(self, encoder: Encoder, output: Any) -> None:
        super().__init__()
        self.encoder, self.output = encoder, output
        self.repetitions = repetitions_of(output)

    def hidden(self, X: sp.csr_matrix) -> Tensor:
        """[N, H], or [G, N, H] for a layer with repetitions: G times the same when they share an encoder."""
        hidden: Tensor = self.encoder(X)
        return hidden.squeeze(0) if self.repetitions is None else hidden.expand(self.repetitions, -1, -1)

    def loss(self, X: sp.csr_matrix, Y: sp.csr_matrix) -> Tensor:
        """Training loss of a batch, a scalar."""
        loss: Tensor = self.output.loss(self.hidden(X), Y)
        return loss
