"""The bytes of a model, from the columns of a run: its weights and the table from labels to buckets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bench.columns import WEIGHT_BYTES, output_weight_bytes
from bench.report.groups import Configuration, Stat


def model_bytes(row: Mapping[str, Any]) -> int | None:
    """Bytes of a run's model, or None where they are not known.

    The size on disk for methods that measure it (``model_bytes``); else the weights, 4 bytes per parameter (2 in an
    output layer in bfloat16), and ``index_bytes``. Training needs more, for gradients and the state of the optimiser.
    None where nothing is trained: what such a method stores is not counted.
    """
    if row.get("model_bytes") is not None:
        return int(row["model_bytes"])
    total, output = row.get("params_total"), row.get("params_output")
    if not total or output is None:
        return None
    weights = WEIGHT_BYTES * (total - output) + output_weight_bytes(row) * output
    return int(weights + (row.get("index_bytes") or 0))


def is_counted(group: Configuration) -> bool:
    """Whether the bytes of a configuration's model are counted from its parameters, not measured on disk."""
    return all(row.get("model_bytes") is None for row in group.rows)


def model_stat(group: Configuration, of_failed: bool = False) -> Stat | None:
    """Mean and spread of ``model_bytes`` over the seeds of a configuration."""
    sized = tuple(row | {"model_bytes": model_bytes(row)} for row in group.rows)
    return replace(group, rows=sized).stat("model_bytes", of_failed)


def model_mean(group: Configuration) -> float | None:
    """Mean of ``model_bytes`` over all seeds: sizes are known for failed runs too."""
    stat = model_stat(group, of_failed=True)
    return stat.mean if stat is not None else None
