"""One run, one process: data → network → train → top-k → metrics → record. Started by `bench.process`.

    python -m bench.run RUN_DIR     (RUN_DIR holds spec.json; results are written beside it)

Progress goes to standard output as JSON lines; everything else that is printed ends up in log.txt.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from bench.columns import COLUMNS, above_baseline, with_highest
from bench.common import environment
from bench.common.files import is_full, write_atomic
from bench.config.spec import RunSpec
from bench.data import Dataset, load_dataset
from bench.metrics.scorer import deciles_of, evaluated_points, quality_of
from bench.model.device import take_share
from bench.model.group_size import available_bytes
from bench.model.methods import Method
from bench.process.events import RunTrace, take_output
from bench.process.failure import failure_record
from bench.process.options import FailedRepetitions, RunOptions
from bench.results.record import described
from bench.results.run_folder import RunFolder
from bench.run import memory
from bench.run.admission import predict_here, predicted_columns, skipped_record
from bench.run.checkpoint.checkpoint import with_earlier
from bench.run.checkpoint.trained_repetitions import with_peaks_of
from bench.run.clock import Clock
from bench.run.fit_network import Report, fit_classifier, fit_network, kept_repetitions
from bench.run.outcome import classify
from bench.run.phases import Phases
from bench.run.ranks.group import ProcessGroup
from bench.run.ranks.leader import Fail, processes


def execute(
    spec: RunSpec, folder: RunFolder, report: Report, options: RunOptions | None = None, fail: Fail | None = None
) -> dict[str, Any]:
    """Run a spec, write its curve and predictions, and return its record. Exceptions are the caller's to classify.

    Where the orders say so and more host memory is predicted than is allowed or free, nothing is loaded, and the record
    says so. ``fail``: see `bench.run.ranks.leader.processes`.
    """
    options = options or RunOptions()
    if options.failed_repetitions:
        return shortened(spec, folder, report, options, options.failed_repetitions)
    started = time.perf_counter() - (0.0 if options.started_at is None else max(0.0, time.time() - options.started_at))
    settings = spec.train
    method = Method.load(spec.target, spec.settings)
    world_size = method.processes
    device = take_share(settings, 0, world_size, options.rendezvous.threads if options.rendezvous else 0)
    phases = Phases(device, report)
    report = phases.report  # from here on: peaks of each phase
    predicted = predict_here(method, spec, device)
    phases.note(**predicted_columns(predicted))
    here = replace(predicted, processes=1) if options.rendezvous else predicted  # the others have room of their own
    if options.skip_above is not None and (why := here.unfit(available_bytes(device), options.skip_above)):
        return skipped_record(spec, predicted, why)

    report({"phase": "load"})
    with processes(folder.path, world_size, fail, options.rendezvous) as (ranks, rows_of_others):
        with Clock(device).running() as load_clock:
            data = load_dataset(spec.dataset, **spec.dataset_overrides)
        phases.note(load_s=load_clock.seconds)
        if options.retrain and (kept := kept_repetitions(method, spec, data, device, lambda _: None, folder)):
            kept.drop()
        ranks.join(device)
        fit = fit_classifier if method.is_classifier else partial(fit_network, shards=options.shards, ranks=ranks)
        predictions, rows, whole = fit(method, spec, data, device, report, folder)
        ranks.leave()
        others = rows_of_others()
    processes_placed = [environment.placed(), *(other.pop("placed") for other in others)]

    report({"phase": "metrics"})
    by_decile: list[Any] = []
    if predictions and spec.shard is None:
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
    of_shards = whole.pop("peaks_of_shards", {})
    rows[-1] = with_earlier(rows[-1] | with_own(phases.row(), whole) | {"elapsed_s": elapsed}, earlier)
    rows[-1] = with_highest(rows[-1], [*others, of_shards])
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


def shortened(
    spec: RunSpec, folder: RunFolder, report: Report, options: RunOptions, missing: FailedRepetitions
) -> dict[str, Any]:
    """The record of a run of which repetitions failed elsewhere: its own row fails, the smaller R are evaluated."""
    failed = {"status": missing.status, "reason": missing.reason}
    if missing.first == 0:
        return {**failed, "phase": "fit", "shared": described(spec), "rows": [{}]}
    fewer = Method.load(spec.target, spec.settings).part(range(missing.first))
    assert fewer is not None
    smaller = replace(spec, settings={**spec.settings, **fewer})
    record = execute(smaller, folder, report, replace(options, failed_repetitions=None))
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


def main(path: str) -> int:
    """Execute the spec in a run folder; the folder gets a record whatever happens short of a kill."""
    pipe = take_output()
    folder = RunFolder(Path(path))
    spec = folder.spec()
    options = RunOptions.from_env(os.environ)
    told = RunTrace()

    def report(event: dict[str, Any]) -> None:
        told.note(event)
        print(json.dumps(event), file=pipe, flush=True)
        shown = {name: value for name, value in event.items() if name != "measured"}  # the record has that
        print(json.dumps(shown), file=sys.stderr, flush=True)

    def failed(status: str, reason: str) -> dict[str, Any]:
        return failure_record(spec, status, reason, told, memory.peak_host_bytes(), folder.path / "log.txt")

    def fail(status: str, reason: str) -> None:
        folder.write_record(failed(status, reason) | {"attempt": options.attempt})

    try:
        record = execute(spec, folder, report, options, fail)
    except BaseException as error:  # a failure is a result, whatever it is
        traceback.print_exc()
        if is_full(error):  # no result of this run: it is to go on once there is room
            raise
        sys.stderr.flush()
        status, reason = classify(error)
        if isinstance(error, KeyboardInterrupt):
            status, reason = "interrupted", "stopped by the user"
        record = failed(status, reason)
    folder.write_record(record | {"attempt": options.attempt})
    ProcessGroup.end_process(0)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
