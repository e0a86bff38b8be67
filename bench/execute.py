"""One run, one process: data → network → train → top-k → metrics → record. Started by `bench.process`.

    python -m bench.child RUN_DIR     (RUN_DIR holds spec.json; results are written beside it)

Progress goes to standard output as JSON lines; everything else that is printed ends up in log.txt.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import sys
import time
import traceback
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import torch

from bench import environment, measure
from bench.checkpoint import with_earlier
from bench.code import find_users_own
from bench.columns import COLUMNS, above_baseline, with_highest
from bench.data import Dataset, load_dataset
from bench.data.sizes import dataset_sizes
from bench.errors import InputError
from bench.failure import Told, failure_record
from bench.files import is_full, write_atomic
from bench.fit import Report, fit_classifier, fit_network, kept_repetitions
from bench.followers import Fail, FailedElsewhere, processes
from bench.memory import available_bytes
from bench.orders import Orders, Shortfall
from bench.phases import Phases
from bench.prediction import EMPTY, Prediction, predict_run, process_bytes
from bench.ranks import Ranks, processes_of
from bench.repetitions import with_peaks_of
from bench.resources import take_share
from bench.score import deciles_of, evaluated_points, quality_of
from bench.spec import RunSpec
from bench.store import RunFolder, described
from bench.train import Diverged


def execute(
    spec: RunSpec, folder: RunFolder, report: Report, orders: Orders | None = None, fail: Fail | None = None
) -> dict[str, Any]:
    """Run a spec, write its curve and predictions, and return its record. Exceptions are the caller's to classify.

    Where the orders say so and more host memory is predicted than is allowed or free, nothing is loaded, and the record
    says so. ``fail``: see `bench.followers.processes`.
    """
    orders = orders or Orders()
    if orders.shortfall:
        return shortened(spec, folder, report, orders, orders.shortfall)
    started = time.perf_counter() - (0.0 if orders.begun is None else max(0.0, time.time() - orders.begun))
    settings = spec.train
    method = method_class(spec.target)
    world_size = processes_of(method, spec.settings)
    device = take_share(settings, 0, world_size, orders.meeting.threads if orders.meeting else 0)
    phases = Phases(device, report)
    report = phases.report  # from here on: peaks of each phase
    predicted = predict_here(method, spec, device)
    phases.note(**predicted_columns(predicted))
    here = replace(predicted, processes=1) if orders.meeting else predicted  # the others have room of their own
    if orders.skip_above is not None and (why := here.unfit(available_bytes(device), orders.skip_above)):
        return skipped_record(spec, predicted, why)

    report({"phase": "load"})
    with processes(folder.path, world_size, fail, orders.meeting) as (ranks, rows_of_others):
        with measure.Clock(device).running() as load_clock:
            data = load_dataset(spec.dataset, **spec.dataset_overrides)
        phases.note(load_s=load_clock.seconds)
        if orders.afresh and (kept := kept_repetitions(method, spec, data, device, lambda _: None, folder)):
            kept.drop()
        ranks.join(device)
        fit = fit_classifier if hasattr(method, "fit") else partial(fit_network, shares=orders.shares, ranks=ranks)
        predictions, rows, whole = fit(method, spec, data, device, report, folder)
        ranks.leave()
        others = rows_of_others()
    processes_placed = [environment.placed(), *(other.pop("placed") for other in others)]

    report({"phase": "metrics"})
    by_decile: list[Any] = []
    if predictions and spec.share is None:
        points = evaluated_points(data, settings.evaluate_on)
        for prediction, row in zip(predictions, rows, strict=True):
            row.update(quality_of(prediction.labels, data, points))
        by_decile = [deciles_of(prediction.labels, data, points) for prediction in predictions]
    if predictions:
        folder.write_predictions(predictions)
    write_passport(folder.path.parents[2], data)
    elapsed = time.perf_counter() - started
    report({"phase": "write"})
    phases.stop()
    # What was measured on the whole run belongs to the row of the largest R alone; a method's own numbers go first.
    earlier, trained = whole.pop("earlier", {}), whole.pop("repetitions", [])
    of_shares = whole.pop("peaks_of_shares", {})
    rows[-1] = with_earlier(rows[-1] | with_own(phases.row(), whole) | {"elapsed_s": elapsed}, earlier)
    rows[-1] = with_highest(rows[-1], [*others, of_shares])
    rows[-1] = with_peaks_of(trained, rows[-1])
    fitted_on = data.fit if settings.holdout else data.train
    sizes = {
        "data_fingerprint": data.fingerprint,
        "n_train": data.train.X.shape[0],
        "n_fit": fitted_on.X.shape[0],
        "n_test": data.test.X.shape[0],
        "n_features": data.train.X.shape[1],
        "n_labels": data.train.Y.shape[1],
    }
    shared = described(spec, device.type) | sizes
    found = {"status": "ok", "shared": shared, "rows": rows, "deciles": by_decile, "phases": phases.ended}
    found |= {"processes": processes_placed} if others else {}
    return found | ({"repetitions": [asdict(repetition) for repetition in trained]} if trained else {})


def shortened(spec: RunSpec, folder: RunFolder, report: Report, orders: Orders, shortfall: Shortfall) -> dict[str, Any]:
    """The record of a run of which repetitions failed elsewhere: its own row fails, the smaller R are evaluated."""
    failed = {"status": shortfall.status, "reason": shortfall.reason}
    if shortfall.first == 0:
        return {**failed, "phase": "fit", "shared": described(spec), "rows": [{}]}
    fewer = method_class(spec.target).part(range(shortfall.first), **spec.settings)  # type: ignore[attr-defined]
    smaller = replace(spec, settings={**spec.settings, **fewer})
    record = execute(smaller, folder, report, replace(orders, shortfall=None))
    rows = [{**derived(row), "status": "ok", "reason": None} for row in record["rows"]]
    own = described(spec, record["shared"]["device"])
    last = {"decoder": rows[-1]["decoder"]} if "decoder" in rows[-1] else {}
    return {**record, **failed, "phase": "fit", "shared": record["shared"] | own, "rows": [*rows, last]}


def derived(row: dict[str, Any]) -> dict[str, Any]:
    """A run's own row as one derived from a larger R: without what was measured on the run as a whole."""
    whole = {c.name for c in COLUMNS if c.group in ("memory", "time")} - {"fit_s", "device_seconds"}
    return {name: value for name, value in row.items() if name not in whole}


def with_own(row: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """The row with a method's own numbers; memory that it measured in another process goes in place of this one's."""
    if own.get("peak_host_bytes") is not None:
        of_this = [name for name in row if "_host_" in name]
        row = {name: value for name, value in row.items() if name not in of_this}
    return row | own | above_baseline(row | own)


def predict_here(method: type, spec: RunSpec, device: torch.device) -> Prediction:
    """What `machbench plan` predicts, of this process as it is before it has loaded data.

    No bytes where the method tells none; no peak on a GPU, where it is not this process's memory that counts.
    """
    if not hasattr(method, "cost"):
        return EMPTY
    sizes = dataset_sizes(spec.dataset, **spec.dataset_overrides)
    known = (process_bytes(), available_bytes(device), torch.get_num_threads())  # threads are this process's own
    predicted = predict_run(method, spec, sizes, *known)
    return predicted if device.type == "cpu" else replace(predicted, peak_bytes=None)


def predicted_columns(predicted: Prediction) -> dict[str, int | None]:
    """Predicted peak and its parts as columns."""
    parts = {f"predicted_{part}_bytes": count for part, count in (predicted.bytes or {}).items()}
    return parts | {"predicted_peak_bytes": predicted.peak_bytes}


def skipped_record(spec: RunSpec, predicted: Prediction, why: str) -> dict[str, Any]:
    """The record of a run that was not started: what is predicted of it, and nothing measured."""
    rows = [(predicted.parameters or {}) | predicted_columns(predicted)]
    outcome = {"status": "skipped_by_plan", "reason": f"plan: {why}", "phase": "plan"}
    return {**outcome, "shared": described(spec), "rows": rows}


def write_passport(results: Path, data: Dataset) -> None:
    """results/data/<fingerprint>.json: what is in the data that the results are about, once for each dataset."""
    path = results / "data" / f"{data.fingerprint}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        content: dict[str, Any] = {
            "name": data.name,
            "source": data.source,
            "licence": data.licence,
            "notes": list(data.notes),
        }
        content |= {**data.stats, **data.passport}
        write_atomic(path, json.dumps(content, indent=1) + "\n")


def method_class(target: str) -> type:
    """The class behind a dotted path. InputError when there is none."""
    find_users_own()
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"method target {target!r}: {error}") from error
    if not isinstance(found, type):
        raise InputError(f"method target {target!r}: found {type(found).__name__}; expected a class")
    return found


def classify(error: BaseException) -> tuple[str, str]:
    """Status and reason of a run that ended with an exception."""
    text = str(error).strip() or type(error).__name__
    reason = text.splitlines()[0]
    if isinstance(error, FailedElsewhere):
        return error.status, reason
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "oom_device", reason
    # torch reports a failed host allocation as a plain RuntimeError
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in text:
        return "oom_host", reason
    if isinstance(error, Diverged):
        return "diverged", reason
    if isinstance(error, NotImplementedError):
        return "unsupported", reason
    return "crashed", f"{type(error).__name__}: {reason}"


def take_output() -> TextIO:
    """The pipe to the launching process, for JSON lines only: what libraries print goes to the log from now on."""
    pipe = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    faulthandler.enable()  # a crash in compiled code leaves its place in the log
    return pipe


def main(path: str) -> int:
    """Execute the spec in a run folder; the folder gets a record whatever happens short of a kill."""
    pipe = take_output()
    folder = RunFolder(Path(path))
    spec = folder.spec()
    orders = Orders.from_env(os.environ)
    told = Told()

    def report(event: dict[str, Any]) -> None:
        told.note(event)
        print(json.dumps(event), file=pipe, flush=True)
        shown = {name: value for name, value in event.items() if name != "measured"}  # the record has that
        print(json.dumps(shown), file=sys.stderr, flush=True)

    def failed(status: str, reason: str) -> dict[str, Any]:
        return failure_record(spec, status, reason, told, measure.peak_host_bytes(), folder.path / "log.txt")

    def fail(status: str, reason: str) -> None:
        folder.write_record(failed(status, reason) | {"attempt": orders.attempt})

    try:
        record = execute(spec, folder, report, orders, fail)
    except BaseException as error:  # a failure is a result, whatever it is
        traceback.print_exc()
        if is_full(error):  # no result of this run: it is to go on once there is room
            raise
        sys.stderr.flush()
        status, reason = classify(error)
        if isinstance(error, KeyboardInterrupt):
            status, reason = "interrupted", "stopped by the user"
        record = failed(status, reason)
    folder.write_record(record | {"attempt": orders.attempt})
    Ranks.end_process(0)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
