"""Whether a run is started at all: predicted memory against what is allowed and free."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from bench.config.spec import RunSpec
from bench.data.sizes import dataset_sizes
from bench.model.group_size import available_bytes
from bench.model.methods import Method
from bench.plan.forecast import EMPTY, Forecast, predict_run, process_bytes
from bench.results.record import described


def predict_here(method: Method, spec: RunSpec, device: torch.device) -> Forecast:
    """What `machbench plan` predicts, of this process as it is before it has loaded data.

    No bytes where the method declares none; no peak on a GPU, where it is not this process's memory that counts.
    """
    if not method.predicts_cost:
        return EMPTY
    sizes = dataset_sizes(spec.dataset, **spec.dataset_overrides)
    known = (process_bytes(), available_bytes(device), torch.get_num_threads())  # threads are this process's own
    predicted = predict_run(method, spec, sizes, *known)
    return predicted if device.type == "cpu" else replace(predicted, peak_bytes=None)


def predicted_columns(predicted: Forecast) -> dict[str, int | None]:
    """Predicted peak and its parts as columns."""
    parts = {f"predicted_{part}_bytes": count for part, count in (predicted.bytes or {}).items()}
    return parts | {"predicted_peak_bytes": predicted.peak_bytes}


def skipped_record(spec: RunSpec, predicted: Forecast, why: str) -> dict[str, Any]:
    """The record of a run that was not started: what is predicted of it, and nothing measured."""
    rows = [(predicted.parameters or {}) | predicted_columns(predicted)]
    outcome = {"status": "skipped_by_plan", "reason": f"plan: {why}", "phase": "plan"}
    return {**outcome, "shared": described(spec), "rows": rows}
