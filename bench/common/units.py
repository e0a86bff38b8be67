"""Bytes with units: read from settings and options, and shown."""

from __future__ import annotations

import re
from typing import Any

from bench.common.errors import InputError

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def read_bytes(value: Any, where: str) -> float:
    """Bytes from a number, or from text such as 4e9, 4GB (10^9) or 4GiB (2^30); InputError for anything else.

    ``where`` names the option or key in the message.
    """
    text = "" if isinstance(value, bool) else str(value)
    match = re.fullmatch(r"\s*([0-9.]+(?:e\+?[0-9]+)?)\s*([a-z]*)\s*", text, re.IGNORECASE)
    unit = match[2].upper() if match else ""
    try:
        count = float(match[1]) * UNITS[unit] if match else 0.0
    except (ValueError, KeyError):
        count = 0.0
    if not 0 < count < float("inf"):
        raise InputError(f"{where}: found {value!r}; expected bytes such as 4e9, 4GB or 4GiB")
    return count


def in_units(count: float | None) -> str:
    """Bytes as 3.12 GB, three digits, powers of 1000; empty for None."""
    if count is None:
        return ""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 999.5 or unit == "TB":
            break
        count /= 1000
    return f"{count:.3g} {unit}"
