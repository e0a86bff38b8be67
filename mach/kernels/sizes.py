"""Bytes of the numbers that weights, gradients and scores are made of."""

from __future__ import annotations

FLOAT_BYTES = 4  # single precision
