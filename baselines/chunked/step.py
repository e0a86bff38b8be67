"""A step over all labels, a chunk of labels at a time: no array of batch × labels, and none of labels × hidden.

The logits of a chunk lie label by label, [C, N], so that the gradient of its weights comes out as rows of the weight
matrix. While they are in the cache they become their own gradient, that goes into two products, and the chunk's rows
are updated at once (Jain et al. 2023, "Renée"; Zhang et al. 2025, "ELMO": the same for one-vs-all with SGD).
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
        """Places of the pairs whose label is in the chunk."""
        low, high = np.searchsorted(self.by_label, [chunk.start, chunk.stop])
        return slice(int(low), int(high))

    def of_rows(self, rows: slice) -> Positives:
        """The pairs of these labels alone, labels counted from the first; ``counts`` stay those of all labels."""
        here = self.within(rows)
        by_label = self.by_label[here] - rows.start
        return Positives(self.points[here], self.labels[here] - rows.start, self.counts, by_label)


class LabelStep:
    """Products and hand-overs of one step; what the loss makes of the logits is the layer's.

    hidden [N, H], weight [K, H], bias [K]. dtype: of the matrix products. learn: gradients are wanted too. With
    ``update`` each chunk's gradient goes there, once the gradient of hidden has been taken from the old weights;
    without it into grad_weight and grad_bias. Where labels are divided over processes (``shards``), K and the positives
    are those of this process; points, and the number of labels of each, are the same in all.
    """

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        positives: Positives,
        label_chunk: int,
        dtype: torch.dtype,
        update: Update | None,
        learn: bool,
        shards: Shards,
    ) -> None:
        self.shards = shards
        self.weight, self.bias, self.positives = weight, bias, positives
        self.learn, self.update = learn, update if learn else None
        self.passes = passes_for(hidden)
        self.type = hidden.dtype
        self.dtype = dtype if dtype != torch.float32 else hidden.dtype
        self.points = hidden.to(self.dtype).contiguous()
        self._features = self.points.T.contiguous()
        self.chunks = [slice(low, min(low + label_chunk, len(bias))) for low in range(0, len(bias), label_chunk)]
        self._grad_hidden = torch.zeros(self._features.shape, dtype=torch.float64, device=hidden.device)
        keep = learn and update is None
        self.grad_weight = torch.empty_like(weight, dtype=hidden.dtype) if keep else None
        self.grad_bias = torch.empty_like(bias) if keep else None

    def each(self, work: Callable[[slice], T]) -> Iterator[T]:
        """Results of the work on every chunk, in order; threads take whole chunks."""
        threads = torch.get_num_threads()
        spread = self.passes.by_threads and min(threads, len(self.chunks)) > 1
        return iter((workers(threads).map if spread else map)(work, self.chunks))

    def logits(self, chunk: slice) -> Tensor:
        """[C, N], without the bias; in the type of the products where the passes take any."""
        found = product(self.weight[chunk].to(self.dtype), self.points)
        return found if self.passes.any_type else found.to(self.type)

    def labels(self, chunk: slice) -> ChunkLabels:
        """The chunk's bias and positives, as the passes need them."""
        here = self.positives.within(chunk)
        return ChunkLabels(self.bias[chunk], self.positives.labels[here] - chunk.start, self.positives.points[here])

    def hand_over(self, chunk: slice, gradient: Tensor, grad_bias: Tensor) -> Tensor:
        """From the gradient of a chunk's logits [C, N], already divided by N: what its labels pull hidden by, [H, N].

        Weight and bias get theirs on the way.
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
        """Add up what chunks pull hidden by, in the order of chunks; in double precision, as there may be thousands."""
        if pull.device.type == "cpu" and pull.dtype != torch.bfloat16:
            total = self._grad_hidden.numpy()  # numpy stays in this thread, and leaves the cores to the workers
            np.add(total, pull.numpy(), out=total)
        else:
            self._grad_hidden += pull

    def gradients(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Of hidden [N, H], from the labels of all shards; and of weight and bias where nobody else has taken them."""
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
        label_chunk: int,
        dtype: torch.dtype,
        update: Update | None,
        learn: bool,
        shards: Shards,
    ) -> Tensor:
        tensors = (hidden.detach(), weight.detach(), bias.detach())
        step = LabelStep(*tensors, positives, label_chunk, dtype, update, learn, shards)
        value = loss(step)
        ctx.in_place = step.update is not None
        ctx.gradients = step.gradients() if learn else None
        return value.to(hidden.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        # Handed over, not kept: then autograd takes them as they are instead of copying.
        gradients, ctx.gradients = ctx.gradients, None
        if grad_outputs[0] != 1.0:
            if ctx.in_place:
                raise RuntimeError(
                    f"the loss was scaled by {float(grad_outputs[0])}; expected 1, because its labels are updated"
                )
            gradients = [gradient if gradient is None else gradient.mul_(grad_outputs[0]) for gradient in gradients]
        return (*gradients, *[None] * 7)
