"""Whether a run is started at all: predicted memory against what is allowed and free."""

from __future__ import annotations

from dataclasses import replace

import torch

from bench.config.spec import RunSpec
from bench.data.sizes import dataset_sizes
from bench.model.group_size import available_bytes
from bench.model.methods import Method
from bench.plan.forecast import EMPTY, Forecast, predict_run, process_bytes
from bench.results.measurements import Memory
from bench.results.record import Evaluation, RunRecord, described
from bench.results.run_folder import RunFolder


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


def predicted_bytes(predicted: Forecast) -> dict[str, int]:
    """Predicted bytes by part of the peak, and the peak itself; nothing where none are known."""
    peak = {} if predicted.peak_bytes is None else {"peak": predicted.peak_bytes}
    return {**(predicted.bytes or {}), **peak}


def skipped_record(folder: RunFolder, spec: RunSpec, predicted: Forecast, why: str) -> RunRecord:
    """The record of a run that was not started: what is predicted of it, and nothing measured."""
    return RunRecord(
        run_id=folder.run_id,
        status="skipped_by_plan",
        shared=described(spec),
        own=Evaluation(size=predicted.parameters or {}),
        memory=Memory(predicted=predicted_bytes(predicted)),
        reason=f"plan: {why}",
        phase="plan",
    )
