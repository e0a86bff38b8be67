"""Softmax cross-entropy of several weighted targets per point, a chunk of classes at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from baselines.parts.scatter import add_at

KEEP_BYTES = 256 * 2**20  # logits up to this size are kept for the gradient instead of computed twice


class WeightedTargets(NamedTuple):
    """Pairs of a row of the inputs and a class, with a weight each, all [targets]; pairs may repeat."""

    rows: Tensor
    columns: Tensor
    share: Tensor


def cluster_loss(inputs: Tensor, weight: Tensor, bias: Tensor, targets: WeightedTargets, chunk: int) -> Tensor:
    """Σ share · (log Σ exp of the row's logits − logit at (row, column)) over the targets, a scalar.

    inputs [n, d], weight [m, d], bias [m]; chunk: classes computed at a time.
    """
    loss: Tensor = _ClusterLoss.apply(inputs, weight, bias, targets, chunk)
    return loss


def cluster_loss_reference(inputs: Tensor, weight: Tensor, bias: Tensor, targets: WeightedTargets) -> Tensor:
    """The same with all logits at once, through autograd. For tests."""
    log_probability = (inputs @ weight.T + bias).log_softmax(1)
    return -(targets.share * log_probability[targets.rows, targets.columns]).sum()


def logits_of(inputs: Tensor, weight: Tensor, bias: Tensor, chunk: int) -> Iterator[tuple[int, Tensor]]:
    """(first class, logits [n, up to chunk]) of each chunk of classes, all in one buffer: valid until the next one.

    With one buffer the memory in use does not depend on what an allocator keeps of many large blocks.
    """
    buffer = inputs.new_empty(len(inputs) * min(chunk, len(weight)))
    for low in range(0, len(weight), chunk):
        part = slice(low, min(low + chunk, len(weight)))
        out = buffer[: len(inputs) * (part.stop - low)].view(len(inputs), -1)
        yield low, torch.addmm(bias[part], inputs, weight[part].T, out=out)


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
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, targets: WeightedTargets, chunk: int) -> Tensor:
        order = torch.argsort(targets.columns, stable=True)
        rows, columns, share = (part[order] for part in targets)
        mass = add_at(inputs.new_zeros(len(inputs)), rows, share)  # all targets of a row together
        parts = [slice(low, min(low + chunk, len(weight))) for low in range(0, len(weight), chunk)]
        # One buffer for all chunks, as in `logits_of`.
        keep = len(inputs) * len(weight) * inputs.element_size() <= KEEP_BYTES
        buffer = inputs.new_empty((len(inputs), len(weight) if keep else min(chunk, len(weight))))

        def buffer_of(part: slice) -> Tensor:
            return buffer[:, part] if keep else buffer[:, : part.stop - part.start]

        totals, highest_of = [], []
        for part in parts:
            logits = torch.addmm(bias[part], inputs, weight[part].T, out=buffer_of(part))
            highest = logits.amax(1, keepdim=True)
            totals.append(logits.sub_(highest).exp_().sum(1, keepdim=True).log_() + highest)
            highest_of.append(highest)
        log_total = torch.cat(totals, 1).logsumexp(1, keepdim=True)

        loss = (mass * log_total[:, 0]).sum()
        grad_inputs, grad_weight = torch.zeros_like(inputs), torch.empty_like(weight)
        grad_bias = torch.empty_like(bias)
        for part, highest in zip(parts, highest_of, strict=True):
            gradient = buffer_of(part)
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
        return grad_inputs, grad_weight, grad_bias, None, None
