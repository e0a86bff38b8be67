"""A training step over all labels, a chunk of labels at a time: no array of batch × labels, none of labels × hidden.

The logits of a chunk are stored label by label, [C, N], so that the gradient of its weights has the layout of rows of
the weight matrix. While they are in the cache, their gradient overwrites them and goes into two products, and the
chunk's rows are updated at once (Jain et al. 2023, "Renée"; Zhang et al. 2025, "ELMO": the same for one-vs-all with
SGD).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor

from baselines.chunked.dispatch import passes_for
from baselines.chunked.kernels import ChunkLabels
from baselines.parts.shards import Shards
from mach.kernels.product import product
from mach.kernels.workers import workers

Update = Callable[[str, slice, Tensor], None]  # (parameter's name, rows, their gradient)
T = TypeVar("T")


@dataclass(frozen=True)
class Positives:
    """Pairs of a point and one of its labels, each once, by label and then by point."""

    points: Tensor  # int64 [P]
    labels: Tensor  # int64 [P]
    counts: Tensor  # labels of each point, int64 [N]
    by_label: npt.NDArray[np.int64]  # the labels again, on the host

    @classmethod
    def of(cls, labels: sp.csr_matrix, device: torch.device) -> Positives:
        """labels CSR [N, n_labels]; a label that a point names twice counts once."""
        n_points = labels.shape[0]
        rows = np.repeat(np.arange(n_points), np.diff(labels.indptr))
        pairs = np.unique(labels.indices.astype(np.int64) * n_points + rows)
        by_label, points = np.divmod(pairs, max(n_points, 1))
        counts = np.bincount(points, minlength=n_points)
        tensors = [torch.from_numpy(array).to(device) for array in (points, by_label, counts)]
        return cls(tensors[0], tensors[1], tensors[2], by_label)

    def within(self, chunk: slice) -> slice:
        """The pairs whose label is in the chunk."""
        low, high = np.searchsorted(self.by_label, [chunk.start, chunk.stop])
        return slice(int(low), int(high))

    def of_rows(self, rows: slice) -> Positives:
        """The pairs of these labels alone, with labels counted from the first; ``counts`` stay those of all labels."""
        here = self.within(rows)
        by_label = self.by_label[here] - rows.start
        return Positives(self.points[here], self.labels[here] - rows.start, self.counts, by_label)


@dataclass(frozen=True)
class StepSettings:
    """How a step is computed.

    With ``update``, each chunk's gradient goes to that function, after the gradient of hidden has been computed from
    the old weights; without it, into the step's grad_weight and grad_bias.
    """

    label_chunk: int  # labels computed at a time
    dtype: torch.dtype  # of the matrix products
    update: Update | None
    learn: bool  # whether gradients are computed too
    shards: Shards  # processes over which the labels are divided


class LabelStep:
    """The matrix products of one step and the use of their results; the layer's loss computes on the logits in between.

    hidden [N, H], weight [K, H], bias [K]. Where labels are divided over processes, K and the positives are those of
    this process; points, and the number of labels of each, are the same in all.
    """

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor, positives: Positives, settings: StepSettings
    ) -> None:
        self.shards, label_chunk, dtype = settings.shards, settings.label_chunk, settings.dtype
        self.weight, self.bias, self.positives = weight, bias, positives
        self.learn, self.update = settings.learn, settings.update if settings.learn else None
        self.passes = passes_for(hidden)
        self.type = hidden.dtype
        self.dtype = dtype if dtype != torch.float32 else hidden.dtype
        self.points = hidden.to(self.dtype).contiguous()
        self._features = self.points.T.contiguous()
        self.chunks = [slice(low, min(low + label_chunk, len(bias))) for low in range(0, len(bias), label_chunk)]
        self._grad_hidden = torch.zeros(self._features.shape, dtype=torch.float64, device=hidden.device)
        keep = settings.learn and settings.update is None
        self.grad_weight = torch.empty_like(weight, dtype=hidden.dtype) if keep else None
        self.grad_bias = torch.empty_like(bias) if keep else None

    def each(self, work: Callable[[slice], T]) -> Iterator[T]:
        """Results of the work on every chunk, in order; each thread works on whole chunks."""
        threads = torch.get_num_threads()
        spread = self.passes.by_threads and min(threads, len(self.chunks)) > 1
        return iter((workers(threads).map if spread else map)(work, self.chunks))

    def logits(self, chunk: slice) -> Tensor:
        """[C, N], without the bias; in the type of the products where the passes accept any type."""
        found = product(self.weight[chunk].to(self.dtype), self.points)
        return found if self.passes.any_type else found.to(self.type)

    def labels(self, chunk: slice) -> ChunkLabels:
        """The chunk's bias and positives, as the passes need them."""
        here = self.positives.within(chunk)
        return ChunkLabels(self.bias[chunk], self.positives.labels[here] - chunk.start, self.positives.points[here])

    def backward(self, chunk: slice, gradient: Tensor, grad_bias: Tensor) -> Tensor:
        """From the gradient of a chunk's logits [C, N], already divided by N, its part of hidden's gradient, [H, N].

        The gradients of weight and bias go to ``update``, or are kept.
        """
        gradient = gradient.to(self.dtype)
        pull = product(self.weight[chunk].to(self.dtype).T, gradient.T)
        grad_weight = product(gradient, self._features)
        if self.update:
            self.update("weight", chunk, grad_weight if self.passes.any_type else grad_weight.to(self.type))
            self.update("bias", chunk, grad_bias)
        elif self.grad_weight is not None and self.grad_bias is not None:
            self.grad_weight[chunk], self.grad_bias[chunk] = grad_weight, grad_bias
        return pull

    def add(self, pull: Tensor) -> None:
        """Add a chunk's part to hidden's gradient, in the order of chunks and in double precision."""
        if pull.device.type == "cpu" and pull.dtype != torch.bfloat16:
            total = self._grad_hidden.numpy()  # numpy uses this thread alone, and leaves the other cores to the workers
            np.add(total, pull.numpy(), out=total)
        else:
            self._grad_hidden += pull

    def gradients(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Gradients of hidden [N, H], over all shards, and of weight and bias; None where ``update`` has used them."""
        grad_hidden = self.shards.sum_large(self._grad_hidden)
        return grad_hidden.T.to(self.type).contiguous(), self.grad_weight, self.grad_bias


Loss = Callable[[LabelStep], Tensor]  # → scalar


class ChunkedLoss(torch.autograd.Function):
    """Loss and gradients in the forward pass; backward only scales what was kept."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        loss: Loss,
        positives: Positives,
        settings: StepSettings,
    ) -> Tensor:
        step = LabelStep(hidden.detach(), weight.detach(), bias.detach(), positives, settings)
        value = loss(step)
        ctx.in_place = step.update is not None
        ctx.gradients = step.gradients() if settings.learn else None
        return value.to(hidden.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        # Not kept here as well, because autograd then uses them without a copy.
        gradients, ctx.gradients = ctx.gradients, None
        if grad_outputs[0] != 1.0:
            if ctx.in_place:
                raise RuntimeError(
                    f"the loss was scaled by {float(grad_outputs[0])}; expected 1, because its labels have been updated"
                )
            gradients = [gradient if gradient is None else gradient.mul_(grad_outputs[0]) for gradient in gradients]
        return (*gradients, *[None] * 3)
