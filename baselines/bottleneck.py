"""A low-rank output layer: fewer numbers per label, with a row of its own for every label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from baselines.full_softmax import FullSoftmax
from baselines.parts.topk import Ranking
from mach.kernels.sizes import FLOAT_BYTES


class NarrowSoftmax(FullSoftmax):
    """A full softmax on few numbers, so that more labels fit into the cache."""

    on_cpu = 8192


class Bottleneck(nn.Module):
    """hidden → rank → labels, nothing nonlinear between: the output matrix is a product of two (Sainath et al. 2013).

    The simplest method to save output parameters, for comparisons at equal size: for P parameters the rank is
    (P − K) / (K + H). The second step is a ``FullSoftmax`` on ``rank`` numbers, so the loss over all labels is exact;
    loss, bias, label_chunk and weights are its settings. ValueError for a rank below 1.
    """

    takes_excluded = True

    def __init__(
        self,
        *,
        n_labels: int,
        hidden: int,
        train_labels: sp.csr_matrix,
        seeds: dict[str, int],
        rank: Annotated[int, ">= 1"] = 32,
        loss: Literal["softmax", "decoupled"] = "softmax",
        bias: Literal["prior", "zero"] = "prior",
        label_chunk: Annotated[int, ">= 0"] = 0,
        weights: Literal["fp32", "bf16"] = "fp32",
    ) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}")
        # A random stream of its own; with that of the labels' rows both matrices would start with the same numbers.
        seed = np.random.SeedSequence([seeds["initialisation"], 1]).generate_state(1)[0]
        bound = (3.0 / hidden) ** 0.5  # keeps the variance (LeCun et al. 1998)
        generator = torch.Generator().manual_seed(int(seed))
        self.down = nn.Parameter(torch.empty(rank, hidden).uniform_(-bound, bound, generator=generator))
        settings: dict[str, Any] = {"loss": loss, "bias": bias, "label_chunk": label_chunk, "weights": weights}
        self.labels = NarrowSoftmax(n_labels=n_labels, hidden=rank, train_labels=train_labels, seeds=seeds, **settings)

    @staticmethod
    def parameter_count(*, n_labels: int, hidden: int, rank: int = 32, **full_softmax: Any) -> int:
        """H·rank + K·(rank + 1)."""
        return hidden * rank + FullSoftmax.parameter_count(n_labels=n_labels, hidden=rank, **full_softmax)

    @staticmethod
    def cost(
        *, n_labels: int, hidden: int, run: Mapping[str, float], rank: int = 32, **full_softmax: Any
    ) -> dict[str, float]:
        """Bytes and operations of a run, see `baselines.parts.cost`: those of a full softmax on ``rank`` numbers and
        of the first step."""
        found = NarrowSoftmax.cost(n_labels=n_labels, hidden=rank, run=run, **full_softmax)
        down = FLOAT_BYTES * hidden * rank
        own: dict[str, float] = {
            "weights_bytes": down,
            "gradients_bytes": down,
            "optimiser_bytes": 2 * down,
            "step_bytes": 7 * down,
        }
        own["activations_bytes"] = FLOAT_BYTES * run["batch_size"] * rank * 2
        own["step_flops"] = 6 * run["batch_size"] * hidden * rank
        return {name: value + own.get(name, 0) for name, value in found.items()}

    def loss(self, hidden: Tensor, labels: sp.csr_matrix) -> Tensor:
        """hidden [N, H], labels CSR [N, n_labels]; a scalar, that of the full softmax."""
        return self.labels.loss(hidden @ self.down.T, labels)

    def topk(self, hidden: Tensor, k: int, excluded: sp.csr_matrix | None = None) -> Ranking:
        """Exact top-k logits: (scores [N, k], labels [N, k]), ties by lowest label id.

        excluded: CSR [N, n_labels], pairs of a point and a label that may not be ranked; None for none.
        """
        return self.labels.topk(hidden @ self.down.T, k, excluded)
