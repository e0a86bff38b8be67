"""The compiled byte parser for lines ``l1,l2 f:v f:v``. Imported only where something large is parsed.

It accepts a strict subset of what the reference parser accepts and gives the same numbers for it; on
anything else it stops, and the caller asks the reference parser what is the matter. Decimal values of up
to 18 digits whose digits fit in 2^53 and whose power of ten is at most 22 are exact in double precision
(Clinger 1990); the others are left to the caller.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

_POWERS = 10.0 ** np.arange(23)
_LIMIT = 2.0**128 * (1 - 2.0**-25)  # what single precision rounds to infinity
_SIGNATURE = (
    "UniTuple(int64, 6)(Array(uint8, 1, 'C', readonly=True), int64, int64, "
    "int32[::1], int32[::1], float32[::1], int32[::1], int32[::1], int64[:, ::1])"
)


@njit(_SIGNATURE, nogil=True, cache=True, boundscheck=False)
def parse_lines(
    text: Any,
    n_features: int,
    n_labels: int,
    x_lengths: Any,
    x_indices: Any,
    x_values: Any,
    y_lengths: Any,
    y_indices: Any,
    slow: Any,
) -> tuple[int, int, int, int, int, int]:
    """Parse ``text`` [bytes], which must end with a line feed, into the arrays given.

    Returns (points, features, labels, values left to the caller, 1 if ids rise in every row, 1 if all was
    well). ``slow`` [?, 3] receives (first byte, byte after the last, index into x_values) of values left
    to the caller.
    """
    i = points = features = labels = left = 0
    rising = 1
    n = text.size
    while i < n:
        x_start, y_start = features, labels
        # labels: digits and commas up to a space; a colon after the first number means there are none
        begin = i
        while 48 <= text[i] <= 57:
            number, first = 0, i
            while 48 <= text[i] <= 57:
                number = number * 10 + (text[i] - 48)
                i += 1
            if text[i] == 58 and labels == y_start:
                i = begin
                break
            if i - first > 10 or number >= n_labels:
                return points, features, labels, left, rising, 0
            if labels > y_start and number <= y_indices[labels - 1]:
                rising = 0
            y_indices[labels] = number
            labels += 1
            if text[i] == 44:
                i += 1
                if not 48 <= text[i] <= 57:
                    return points, features, labels, left, rising, 0
            else:
                break
        if i > begin and text[i] != 32 and text[i] != 10 and text[i] != 13:
            return points, features, labels, left, rising, 0
        # features
        while True:
            while text[i] == 32:
                i += 1
            if text[i] == 10:
                i += 1
                break
            if text[i] == 13 and text[i + 1] == 10:
                i += 2
                break
            number, first = 0, i
            while 48 <= text[i] <= 57:
                number = number * 10 + (text[i] - 48)
                i += 1
            if i == first or i - first > 10 or text[i] != 58 or number >= n_features:
                return points, features, labels, left, rising, 0
            if features > x_start and number <= x_indices[features - 1]:
                rising = 0
            x_indices[features] = number
            i += 1
            # value
            first = i
            negative = text[i] == 45
            if negative:
                i += 1
            digits, significant, power = 0, 0, 0
            mantissa = np.int64(0)
            while 48 <= text[i] <= 57:
                mantissa = mantissa * 10 + (text[i] - 48)
                significant += mantissa != 0
                digits += 1
                i += 1
            if text[i] == 46:
                i += 1
                while 48 <= text[i] <= 57:
                    mantissa = mantissa * 10 + (text[i] - 48)
                    significant += mantissa != 0
                    digits += 1
                    power -= 1
                    i += 1
            if digits == 0:
                return points, features, labels, left, rising, 0
            if text[i] == 101 or text[i] == 69:
                i += 1
                sign = 1
                if text[i] == 45:
                    sign = -1
                    i += 1
                elif text[i] == 43:
                    i += 1
                exponent, start = 0, i
                while 48 <= text[i] <= 57:
                    exponent = min(exponent * 10 + (text[i] - 48), 100000)
                    i += 1
                if i == start:
                    return points, features, labels, left, rising, 0
                power += sign * exponent
            if text[i] != 32 and text[i] != 10 and text[i] != 13:
                return points, features, labels, left, rising, 0
            if significant > 18 or mantissa > 9007199254740992 or power < -22 or power > 22:
                slow[left, 0], slow[left, 1], slow[left, 2] = first, i, features
                left += 1
            else:
                value = float(mantissa)
                value = value * _POWERS[power] if power >= 0 else value / _POWERS[-power]
                if value >= _LIMIT:
                    return points, features, labels, left, rising, 0
                x_values[features] = -value if negative else value
            features += 1
        x_lengths[points] = features - x_start
        y_lengths[points] = labels - y_start
        points += 1
    return points, features, labels, left, rising, 1
