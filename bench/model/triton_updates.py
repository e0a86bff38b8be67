"""Updates of weights on a GPU in one pass each, as Triton kernels. Importing this needs triton.

The plain torch forms stand in `bench.model.inplace_adam` and `bench.model.optim`: they read and write every array
several times, are what runs without triton, and what tests compare with."""

from __future__ import annotations

import contextlib

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024  # cells of a program


def on(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """The tensor's GPU as the current one; nothing in Triton's interpreter."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def adam(
    weight: Tensor, mean: Tensor, square: Tensor, gradient: Tensor, bits: tuple[int, int], numbers: tuple[float, ...]
) -> None:
    """`bench.model.inplace_adam.adam_torch` with the same arguments; weight and gradient float32 or bfloat16."""
    n_cells, rounded = weight.numel(), weight.dtype == torch.bfloat16
    arrays = (weight, mean, square, gradient.contiguous())
    with on(weight):
        _adam[(triton.cdiv(n_cells, BLOCK),)](
            *arrays, n_cells, *map(_signed, bits), *numbers, ROUNDED=rounded, BLOCK=BLOCK
        )


def adam_rows(
    weight: Tensor, mean: Tensor, square: Tensor, rows: Tensor, gradient: Tensor, numbers: tuple[float, ...]
) -> None:
    """`bench.model.optim._adam_torch` with the same arguments: rows int64 [U], their gradient [U, width]."""
    width = weight.shape[1]
    block = min(BLOCK, triton.next_power_of_2(width))
    if len(rows):
        arrays = (weight, mean, square, rows.contiguous(), gradient.contiguous())
        with on(weight):
            _adam_rows[(len(rows), triton.cdiv(width, block))](*arrays, width, *numbers, BLOCK=block)


def adagrad_rows(weight: Tensor, square: Tensor, rows: Tensor, gradient: Tensor, rate: float, eps: float) -> None:
    """`bench.model.optim._adagrad_torch`: square [n, G] has a cell for the width / G columns of an encoder in a row."""
    groups = square.shape[1]
    width = weight.shape[1] // groups
    if len(rows):
        with on(weight):
            _adagrad_rows[(len(rows), groups)](
                *(weight, square, rows.contiguous(), gradient.contiguous()),
                *(width, groups, rate, eps),
                BLOCK=triton.next_power_of_2(width),
            )


def _signed(number: int) -> int:
    """The int32 with the lowest 32 bits of a number."""
    low = number % 2**32
    return low - 2**32 if low >= 2**31 else low


@triton.jit(do_not_specialize=["first", "key"])
def _adam(  # type: ignore[no-untyped-def]
    weight,
    mean,
    square,
    gradient,
    n_cells,
    first,
    key,
    rate,
    correction,
    b1,
    b2,
    c1,
    c2,
    eps,
    ROUNDED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    cell = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = cell < n_cells
    g = tl.load(gradient + cell, mask=inside, other=0.0).to(tl.float32)
    m = b1 * tl.load(mean + cell, mask=inside, other=0.0) + c1 * g
    v = b2 * tl.load(square + cell, mask=inside, other=0.0) + c2 * g * g
    tl.store(mean + cell, m, mask=inside)
    tl.store(square + cell, v, mask=inside)
    change = rate * m / (tl.sqrt(v) / correction + eps)
    value = tl.load(weight + cell, mask=inside, other=0.0).to(tl.float32) - change
    if (
        ROUNDED
    ):  # up with the probability of how far up it is: `bench.model.inplace_adam.round_stochastic` and `random_bits`
        x = (cell.to(tl.uint32) + tl.cast(first, tl.uint32)) ^ tl.cast(key, tl.uint32)
        x = (x ^ (x >> 16)) * tl.full([], 0x7FEB352D, tl.uint32)
        x = (x ^ (x >> 15)) * tl.full([], 0x846CA68B, tl.uint32)
        raised = value.to(tl.uint32, bitcast=True) + (x >> 16)
        tl.store(weight + cell, (raised >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True), mask=inside)
    else:
        tl.store(weight + cell, value, mask=inside)


@triton.jit
def _adam_rows(weight, mean, square, rows, gradient, width, rate, b1, b2, c1, c2, eps, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    u = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    cell = tl.load(rows + u) * width + column
    g = tl.load(gradient + u * width + column, mask=inside, other=0.0)
    m = b1 * tl.load(mean + cell, mask=inside, other=0.0) + c1 * g
    v = b2 * tl.load(square + cell, mask=inside, other=0.0) + c2 * g * g
    tl.store(mean + cell, m, mask=inside)
    tl.store(square + cell, v, mask=inside)
    value = tl.load(weight + cell, mask=inside, other=0.0)
    tl.store(weight + cell, value - rate * m / (tl.sqrt(v) + eps), mask=inside)


@triton.jit
def _adagrad_rows(weight, square, rows, gradient, width, groups, rate, eps, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    u, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row = tl.load(rows + u)
    column = tl.arange(0, BLOCK)
    inside = column < width
    g = tl.load(gradient + (u * groups + group) * width + column, mask=inside, other=0.0)
    total = tl.load(square + row * groups + group) + tl.sum(g * g, axis=0) / width
    tl.store(square + row * groups + group, total)
    cell = (row * groups + group) * width + column
    value = tl.load(weight + cell, mask=inside, other=0.0)
    tl.store(weight + cell, value - rate * g / (tl.sqrt(total) + eps), mask=inside)
