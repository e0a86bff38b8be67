"""The bytes of a model, from what is known of a run: its weights and the table from labels to buckets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bench.columns import HALF_BYTES, WEIGHT_BYTES
from bench.report.groups import Configuration, Stat


def model_bytes(row: Mapping[str, Any]) -> int | None:
    """Bytes of a run's model, or None where they are not known.

    The size on disk for methods that measure that (``model_bytes``); else the weights, 4 bytes a parameter (2 for the
    output layer where it is kept in bfloat16), and ``index_bytes``. Gradients and the optimiser's state come on top
    while training. None where nothing is trained: what such a method keeps is not counted.
    """
    if row.get("model_bytes") is not None:
        return int(row["model_bytes"])
    total, output = row.get("params_total"), row.get("params_output")
    if not total or output is None:
        return None
    each = HALF_BYTES if row.get("weights") == "bf16" else WEIGHT_BYTES
    return int(WEIGHT_BYTES * (total - output) + each * output + (row.get("index_bytes") or 0))


def is_counted(group: Configuration) -> bool:
    """Whether the bytes of a configuration's model are counted from its parameters, not read off the disk."""
    return all(row.get("model_bytes") is None for row in group.rows)


def model_stat(group: Configuration, of_failed: bool = False) -> Stat | None:
    """Mean and spread of ``model_bytes`` over the seeds of a configuration."""
    sized = tuple(row | {"model_bytes": model_bytes(row)} for row in group.rows)
    return replace(group, rows=sized).stat("model_bytes", of_failed)


def model_mean(group: Configuration) -> float | None:
    """Mean of ``model_bytes`` over all seeds: sizes are known of failed runs too."""
    stat = model_stat(group, of_failed=True)
    return stat.mean if stat is not None else None
