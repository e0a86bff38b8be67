"""Loss and gradient of the buckets in one compiled pass over the logits of a repetition, in place.

exp and log1p are polynomials, so that the compiler turns the loops into vector instructions (a call to the C library
for each logit would cost more than the matrix products).
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

# Sums may be reordered and multiplications fused; NaN and infinity keep their meaning.
FAST = {"reassoc", "contract", "nsz", "arcp"}


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
_LOWEST = np.float32(-126.0)  # 2^-126 is the smallest normal number
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
    power = _LOWEST if power < _LOWEST else power  # this way round a NaN stays one
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


@numba.njit(fastmath=FAST, error_model="numpy")
def _bce_row(row, columns, grad_bias, scale):  # type: ignore[no-untyped-def]
    total = 0.0
    for c in columns:
        total -= row[c]
    softplus = _ZERO
    for b in range(len(row)):
        z = row[b]
        e = exp_of_negative(-abs(z))
        softplus += (z if z > _ZERO else _ZERO) + log1p_of_fraction(e)
        gradient = scale * (e if z < _ZERO else _ONE) / (_ONE + e)
        row[b] = gradient
        grad_bias[b] += gradient
    for c in columns:
        row[c] -= scale
        grad_bias[c] -= scale
    return total + softplus


@numba.njit(fastmath=FAST, error_model="numpy")
def _softmax_row(row, columns, grad_bias, scale):  # type: ignore[no-untyped-def]
    if len(columns) == 0:
        row[:] = _ZERO
        return 0.0
    share = _ONE / np.float32(len(columns))
    positive = _ZERO
    for c in columns:
        positive += row[c]
    highest = row[0]
    for b in range(len(row)):
        highest = row[b] if row[b] > highest else highest
    total = _ZERO
    for b in range(len(row)):
        e = exp_of_negative(row[b] - highest)
        row[b] = e
        total += e
    factor = scale / total
    for b in range(len(row)):
        gradient = factor * row[b]
        row[b] = gradient
        grad_bias[b] += gradient
    for c in columns:
        row[c] -= scale * share
        grad_bias[c] -= scale * share
    return np.log(total) + highest - share * positive


@numba.njit(cache=True, nogil=True)
def loss_and_gradient(logits, indptr, columns, softmax, grad_bias):  # type: ignore[no-untyped-def]
    """Turn logits [N, B] into their gradient of the mean loss over points; fills grad_bias [B], returns the loss.

    Point n has the buckets columns[indptr[n] : indptr[n + 1]], each once.
    """
    grad_bias[:] = _ZERO
    return _some_points(logits, indptr, columns, softmax, grad_bias, 0, len(logits)) / len(logits)


@numba.njit(parallel=True, cache=True)
def loss_and_gradient_shared(logits, indptr, columns, softmax, grad_bias, parts):  # type: ignore[no-untyped-def]
    """The same by all threads, the points cut into ``parts`` for them."""
    n_points = len(logits)
    losses = np.zeros(parts, dtype=np.float64)
    sums = np.zeros((parts, logits.shape[1]), dtype=np.float32)
    for part in numba.prange(parts):
        low, high = part * n_points // parts, (part + 1) * n_points // parts
        losses[part] = _some_points(logits, indptr, columns, softmax, sums[part], low, high)
    for b in range(logits.shape[1]):
        total = _ZERO
        for part in range(parts):
            total += sums[part, b]
        grad_bias[b] = total
    return losses.sum() / n_points


@numba.njit(cache=True)
def _some_points(logits, indptr, columns, softmax, grad_bias, low, high):  # type: ignore[no-untyped-def]
    scale = np.float32(1.0 / len(logits))
    total = 0.0
    for n in range(low, high):
        mine = columns[indptr[n] : indptr[n + 1]]
        if softmax:
            total += _softmax_row(logits[n], mine, grad_bias, scale)
        else:
            total += _bce_row(logits[n], mine, grad_bias, scale)
    return total


@numba.njit(parallel=True, cache=True)
def distinct_buckets(indptr, indices, lookup, n_buckets):  # type: ignore[no-untyped-def]
    """For each repetition (row of lookup [G, n_labels]) the buckets of every point, each once, in order of labels.

    Returns (starts [G, N+1], columns [G, labels of all points]); what lies behind starts[g, N] means nothing.
    """
    repetitions, n_points = len(lookup), len(indptr) - 1
    starts = np.zeros((repetitions, n_points + 1), dtype=np.int64)
    columns = np.empty((repetitions, indptr[-1] - indptr[0]), dtype=np.int64)
    for g in numba.prange(repetitions):
        last_seen = np.full(n_buckets, -1, dtype=np.int32)
        kept = 0
        for n in range(n_points):
            for at in range(indptr[n], indptr[n + 1]):
                bucket = np.int64(lookup[g, indices[at]])
                if last_seen[bucket] != n:
                    last_seen[bucket] = n
                    columns[g, kept] = bucket
                    kept += 1
            starts[g, n + 1] = kept
    return starts, columns
