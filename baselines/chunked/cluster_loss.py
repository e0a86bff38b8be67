"""Softmax cross-entropy of several weighted targets a point, a chunk of classes at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from baselines.parts.scatter import add_at

KEEP_BYTES = 256 * 2**20  # logits up to this size are kept for the gradient instead of computed twice


def cluster_loss(
    inputs: Tensor, weight: Tensor, bias: Tensor, rows: Tensor, columns: Tensor, share: Tensor, chunk: int
) -> Tensor:
    """Σ share · (log Σ exp of the row's logits − logit at (row, column)), a scalar; targets may repeat.

    inputs [n, d], weight [m, d], bias [m]; rows, columns and share [targets]; chunk: classes worked on at a time.
    """
    loss: Tensor = _ClusterLoss.apply(inputs, weight, bias, rows, columns, share, chunk)
    return loss


def cluster_loss_reference(
    inputs: Tensor, weight: Tensor, bias: Tensor, rows: Tensor, columns: Tensor, share: Tensor
) -> Tensor:
    """The same with all logits at once, through autograd. For tests."""
    log_probability = (inputs @ weight.T + bias).log_softmax(1)
    return -(share * log_probability[rows, columns]).sum()


def logits_of(inputs: Tensor, weight: Tensor, bias: Tensor, chunk: int) -> Iterator[tuple[int, Tensor]]:
    """(first class, logits [n, up to chunk]) of each chunk of classes, all in one place: good until the next.

    What an allocator keeps of many large blocks that come and go between small ones, nobody can predict.
    """
    room = inputs.new_empty(len(inputs) * min(chunk, len(weight)))
    for low in range(0, len(weight), chunk):
        part = slice(low, min(low + chunk, len(weight)))
        place = room[: len(inputs) * (part.stop - low)].view(len(inputs), -1)
        yield low, torch.addmm(bias[part], inputs, weight[part].T, out=place)


@torch.no_grad()
def normaliser(inputs: Tensor, weight: Tensor, bias: Tensor, chunk: int) -> Tensor:
    """log Σ exp of the logits over all classes, [n, 1]."""
    parts = []
    for _, logits in logits_of(inputs, weight, bias, chunk):
        highest = logits.amax(1, keepdim=True)
        parts.append(logits.sub_(highest).exp_().sum(1, keepdim=True).log_() + highest)
    return torch.cat(parts, 1).logsumexp(1, keepdim=True)


class _ClusterLoss(torch.autograd.Function):
    """Loss and gradients in the forward pass, chunk by chunk; backward only scales what was kept."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor,
        rows: Tensor,
        columns: Tensor,
        share: Tensor,
        chunk: int,
    ) -> Tensor:
        order = torch.argsort(columns, stable=True)
        rows, columns, share = rows[order], columns[order], share[order]
        mass = add_at(inputs.new_zeros(len(inputs)), rows, share)  # all targets of a row together
        parts = [slice(low, min(low + chunk, len(weight))) for low in range(0, len(weight), chunk)]
        # One place for all chunks: what an allocator makes of many large blocks, freed and kept, nobody can predict.
        keep = len(inputs) * len(weight) * inputs.element_size() <= KEEP_BYTES
        room = inputs.new_empty((len(inputs), len(weight) if keep else min(chunk, len(weight))))

        def place_of(part: slice) -> Tensor:
            return room[:, part] if keep else room[:, : part.stop - part.start]

        totals, highest_of = [], []
        for part in parts:
            logits = torch.addmm(bias[part], inputs, weight[part].T, out=place_of(part))
            highest = logits.amax(1, keepdim=True)
            totals.append(logits.sub_(highest).exp_().sum(1, keepdim=True).log_() + highest)
            highest_of.append(highest)
        log_total = torch.cat(totals, 1).logsumexp(1, keepdim=True)

        loss = (mass * log_total[:, 0]).sum()
        grad_inputs, grad_weight = torch.zeros_like(inputs), torch.empty_like(weight)
        grad_bias = torch.empty_like(bias)
        for part, highest in zip(parts, highest_of, strict=True):
            gradient = place_of(part)
            if not keep:
                torch.addmm(bias[part], inputs, weight[part].T, out=gradient)
                gradient.sub_(highest).exp_()
            gradient.mul_((highest - log_total).exp_().mul_(mass[:, None]))
            here = slice(*torch.searchsorted(columns, columns.new_tensor([part.start, part.stop])).tolist())
            gradient.index_put_((rows[here], columns[here] - part.start), -share[here], accumulate=True)
            grad_inputs.addmm_(gradient, weight[part])
            torch.mm(gradient.T, inputs, out=grad_weight[part])
            torch.sum(gradient, 0, out=grad_bias[part])
        loss = loss - (share * ((inputs[rows] * weight[columns]).sum(1) + bias[columns])).sum()
        ctx.save_for_backward(grad_inputs, grad_weight, grad_bias)
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        scale = grad_outputs[0]
        grad_inputs, grad_weight, grad_bias = ctx.saved_tensors
        if scale != 1.0:
            grad_inputs, grad_weight, grad_bias = grad_inputs * scale, grad_weight * scale, grad_bias * scale
        return grad_inputs, grad_weight, grad_bias, None, None, None, None
