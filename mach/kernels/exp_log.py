"""exp, log1p and softplus for compiled loops, in single precision.

They are polynomials, so that the compiler turns the loops that call them into vector instructions. A call to the C
library for each logit would cost more than the matrix products. All of them are inlined where they are called.
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
ZERO, HALF, ONE = np.float32(0.0), np.float32(0.5), np.float32(1.0)


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
    """exp(x) for x ≤ 0, float32, relative error below 3e-7; 2^-126 for all results that are smaller than that."""
    power = x * _LOG2_E
    power = _SMALLEST if power < _SMALLEST else power  # in this order a NaN stays a NaN
    whole = np.int32(power - HALF)
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


@numba.njit(fastmath=FAST, inline="always")
def softplus(z, e):  # type: ignore[no-untyped-def]
    """log(1 + exp(z)), float32, from z and e = exp(−|z|)."""
    return (z if z > ZERO else ZERO) + log1p_of_fraction(e)
