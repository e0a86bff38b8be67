"""Losses of a chunk of labels in one compiled pass over its logits [C, N], in place; a row is a label.

exp and log1p are polynomials, so that the compiler turns the loops into vector instructions. The plain torch form of
each kernel stands below it: it is what tests compare with, and what runs in double precision, and on a GPU without
triton (`baselines.chunked.triton_kernels`).

All take logits without bias, bias [C], and the positives of the chunk: ``rows`` (label less the chunk's first) and
``points``, int64 [P], each pair once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from torch import Tensor
from torch.nn import functional as F

# Sums may be reordered and multiplications fused; NaN and infinity keep their meaning.
FAST = {"reassoc", "contract", "nsz", "arcp"}
LOWEST = -3e38  # stands for a logit that does not count; finite, so that a difference of two is a number


def _coefficients(
    function: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]], low: float, high: float, degree: int
) -> tuple[np.float32, ...]:
    """Polynomial through the Chebyshev points of [low, high], constant first; near the best of its degree."""
    fitted = np.polynomial.Chebyshev.interpolate(function, degree, domain=[low, high])
    plain = fitted.convert(kind=np.polynomial.Polynomial, domain=[-1, 1], window=[-1, 1])
    return tuple(np.float32(c) for c in plain.coef)


_E0, _E1, _E2, _E3, _E4, _E5, _E6 = _coefficients(np.exp2, -0.5, 0.5, 6)
_L0, _L1, _L2, _L3, _L4, _L5, _L6, _L7, _L8, _L9 = _coefficients(lambda x: np.log1p(x) / x, 1e-9, 1.0, 9)
_LOG2_E = np.float32(np.log2(np.e))
_SMALLEST = np.float32(-126.0)  # 2^-126 is the smallest normal number
_LOWEST = np.float32(LOWEST)
_ZERO, _HALF, _ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)


@intrinsic
def _float_of_bits(typingctx, bits):  # type: ignore[no-untyped-def]
    """The float32 with the bits of an int32."""
    del typingctx, bits

    def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        del context, signature
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), codegen


@numba.njit(fastmath=FAST, inline="always")
def exp_of_negative(x):  # type: ignore[no-untyped-def]
    """exp(x) for x ≤ 0, float32, relative error below 3e-7; 2^-126 for all that is smaller than that."""
    power = x * _LOG2_E
    power = _SMALLEST if power < _SMALLEST else power  # this way round a NaN stays one
    whole = np.int32(power - _HALF)
    rest = power - np.float32(whole)
    value = _E0 + rest * (_E1 + rest * (_E2 + rest * (_E3 + rest * (_E4 + rest * (_E5 + rest * _E6)))))
    return value * _float_of_bits(  # type: ignore[call-arg]
        np.int32((whole + np.int32(127)) << np.int32(23))
    )


@numba.njit(fastmath=FAST, inline="always")
def log1p_of_fraction(x):  # type: ignore[no-untyped-def]
    """log(1 + x) for 0 ≤ x ≤ 1, float32, relative error below 3e-7."""
    upper = _L5 + x * (_L6 + x * (_L7 + x * (_L8 + x * _L9)))
    return x * (_L0 + x * (_L1 + x * (_L2 + x * (_L3 + x * (_L4 + x * upper)))))


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def log_sum(logits, bias, rows, points, negatives_only, positive, result):  # type: ignore[no-untyped-def]
    """result [N]: log Σ exp over the chunk's labels, of negatives alone if so asked. positive [P] gets their logits."""
    for at in range(len(rows)):
        positive[at] = logits[rows[at], points[at]] + bias[rows[at]]
        if negatives_only:
            logits[rows[at], points[at]] = _LOWEST
    n_labels, n_points = logits.shape
    highest = np.full(n_points, _LOWEST, dtype=np.float32)
    for c in range(n_labels):
        b = bias[c]
        for n in range(n_points):
            z = logits[c, n] + b
            highest[n] = z if z > highest[n] else highest[n]
    total = np.zeros(n_points, dtype=np.float32)
    for c in range(n_labels):
        b = bias[c]
        for n in range(n_points):
            total[n] += exp_of_negative(logits[c, n] + b - highest[n])
    for n in range(n_points):
        result[n] = np.log(total[n]) + highest[n]


def log_sum_torch(
    logits: Tensor, bias: Tensor, rows: Tensor, points: Tensor, negatives_only: bool, positive: Tensor, result: Tensor
) -> None:
    """The same in plain torch."""
    positive.copy_(logits[rows, points] + bias[rows])
    if negatives_only:
        logits[rows, points] = LOWEST
    torch.logsumexp(logits + bias[:, None], 0, out=result)


@numba.njit(cache=True, nogil=True, fastmath=FAST)
def softmax_gradient(logits, bias, rows, points, log_total, factor, at_positives, grad_bias):  # type: ignore[no-untyped-def]
    """Logits become factor[n]·exp(logit − log_total[n]), at the positives what at_positives [P] says.

    grad_bias [C] gets the sums over points.
    """
    n_labels, n_points = logits.shape
    done = 0
    for c in range(n_labels):
        b = bias[c]
        for n in range(n_points):
            logits[c, n] = factor[n] * exp_of_negative(logits[c, n] + b - log_total[n])
        while done < len(rows) and rows[done] == c:
            logits[c, points[done]] = at_positives[done]
            done += 1
        total = _ZERO
        for n in range(n_points):
            total += logits[c, n]
        grad_bias[c] = total


def softmax_gradient_torch(
    logits: Tensor,
    bias: Tensor,
    rows: Tensor,
    points: Tensor,
    log_total: Tensor,
    factor: Tensor,
    at_positives: Tensor,
    grad_bias: Tensor,
) -> None:
    """The same in plain torch."""
    logits.add_(bias[:, None]).sub_(log_total).exp_().mul_(factor)
    logits[rows, points] = at_positives
    torch.sum(logits, 1, out=grad_bias)


@numba.njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def bce_gradient(logits, bias, rows, points, scale, grad_bias):  # type: ignore[no-untyped-def]
    """Logits become scale·(σ − Y) and grad_bias [C] their sums; returns Σ of the binary cross-entropies, not scaled."""
    n_labels, n_points = logits.shape
    loss, done = np.float64(0.0), 0
    for c in range(n_labels):
        b = bias[c]
        softplus = _ZERO
        first = done
        while done < len(rows) and rows[done] == c:
            loss -= logits[c, points[done]] + b
            done += 1
        for n in range(n_points):
            z = logits[c, n] + b
            e = exp_of_negative(-abs(z))
            softplus += (z if z > _ZERO else _ZERO) + log1p_of_fraction(e)
            logits[c, n] = scale * (e if z < _ZERO else _ONE) / (_ONE + e)
        loss += softplus
        for at in range(first, done):
            logits[c, points[at]] -= scale
        total = _ZERO
        for n in range(n_points):
            total += logits[c, n]
        grad_bias[c] = total
    return loss


def bce_gradient_torch(
    logits: Tensor, bias: Tensor, rows: Tensor, points: Tensor, scale: float, grad_bias: Tensor
) -> Any:
    """The same in plain torch."""
    logits.add_(bias[:, None])
    loss = -F.logsigmoid(-logits).sum() - logits[rows, points].sum()
    logits.sigmoid_()[rows, points] -= 1.0
    torch.sum(logits.mul_(scale), 1, out=grad_bias)
    return loss
