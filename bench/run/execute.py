"""One run, one process: load, fit, rank, score, write. Started by `bench.launch.run_one`.

    python -m bench.run RUN_DIR     (RUN_DIR holds spec.json; results are written beside it)

Progress goes to standard output as JSON lines; everything else that is printed ends up in log.txt.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.common import environment
from bench.common.files import is_full, write_atomic
from bench.config.spec import RunSpec
from bench.data import Dataset, load_dataset
from bench.data.evaluation import evaluation_inputs
from bench.model.device import take_share
from bench.model.group_size import available_bytes
from bench.model.methods import Method
from bench.process.events import Emit, Event, PhaseStarted, RunTrace, shown, take_output
from bench.process.failure import failure_record
from bench.process.options import FailedRepetitions, RunOptions
from bench.results.measurements import ProcessUsage, Times
from bench.results.record import Evaluation, RunRecord, Scalar, described
from bench.results.run_folder import RunFolder
from bench.run import memory
from bench.run.admission import predict_here, predicted_bytes, skipped_record
from bench.run.checkpoint.keeping import kept_repetitions
from bench.run.clock import Clock
from bench.run.context import Fitted, RunContext
from bench.run.fit_classifier import fit_classifier
from bench.run.fit_network import fit_network
from bench.run.outcome import classify
from bench.run.phases import Phases
from bench.run.ranks.group import ProcessGroup
from bench.run.ranks.leader import Fail, processes


def execute(
    spec: RunSpec, folder: RunFolder, emit: Emit, options: RunOptions | None = None, on_failure: Fail | None = None
) -> RunRecord:
    """Run a spec, write its curve and predictions, and return its record. Exceptions are the caller's to classify.

    Where the options say so and more host memory is predicted than is allowed or free, nothing is loaded, and the
    record says so. ``on_failure``: see `bench.run.ranks.leader.processes`.
    """
    options = options or RunOptions()
    if options.failed_repetitions:
        return shortened(spec, folder, emit, options, options.failed_repetitions)
    started = time.perf_counter() - (0.0 if options.started_at is None else max(0.0, time.time() - options.started_at))
    method, rendezvous = Method.load(spec.target, spec.settings), options.rendezvous
    device = take_share(spec.train, 0, method.processes, rendezvous.threads if rendezvous else 0)
    phases = Phases(device, emit)
    predicted = predict_here(method, spec, device)
    phases.predicted(predicted_bytes(predicted))
    here = replace(predicted, processes=1) if rendezvous else predicted  # the others have room of their own
    if options.skip_above is not None and (why := here.unfit(available_bytes(device), options.skip_above)):
        return skipped_record(folder, spec, predicted, why)

    phases.emit(PhaseStarted("load"))
    with processes(folder.path, method.processes, on_failure, rendezvous) as (ranks, usage_of_others):
        with Clock(device).running() as load_clock:
            data = load_dataset(spec.dataset, **spec.dataset_overrides)
        phases.took(Times(load_s=load_clock.seconds))
        run = RunContext(spec, method, data, device, folder, phases.emit, ranks)
        if options.retrain:
            forget_repetitions(run)
        ranks.join(device)
        fitted = fit_classifier(run) if method.is_classifier else fit_network(run, options.shards)
        ranks.leave()
        others = [ProcessUsage.from_json(usage) for usage in usage_of_others()]

    run.begin("metrics")
    evaluations = scored(run, fitted)
    if fitted.rankings:
        folder.write_predictions(fitted.rankings)
    write_passport(folder.results, data)
    elapsed_s = time.perf_counter() - started
    run.begin("write")
    phases.stop()
    return record_of(run, phases, replace(fitted, evaluations=evaluations), others, elapsed_s)


def forget_repetitions(run: RunContext) -> None:
    """Drop the kept repetitions of the run, so that they are trained again."""
    if kept := kept_repetitions(replace(run, emit=lambda _: None)):
        kept.drop()


def scored(run: RunContext, fitted: Fitted) -> list[Evaluation]:
    """The evaluations with their quality; without, where only a shard of the points or labels was ranked."""
    if not fitted.rankings or run.spec.shard is not None:
        return list(fitted.evaluations)
    pairs = zip(fitted.evaluations, fitted.rankings, strict=True)
    return [evaluation.scored(run.scorer.score(ranking.labels)) for evaluation, ranking in pairs]


def record_of(
    run: RunContext, phases: Phases, fitted: Fitted, others: Sequence[ProcessUsage], elapsed_s: float
) -> RunRecord:
    """The record of a run that is done. ``others``: its processes beside this one."""
    measured = phases.measured
    times = measured.times.with_known(fitted.times)
    own = measured.memory.with_measured_elsewhere(fitted.own_memory)
    placed = [environment.placed(), *(other.placed for other in others)] if others else []
    *derived, last = fitted.evaluations
    is_scored = fitted.rankings and run.spec.shard is None
    inputs = evaluation_inputs(run.data, run.settings.evaluate_on) if is_scored else None
    return RunRecord(
        run_id=run.folder.run_id,
        status="ok",
        shared={**described(run.spec, run.device.type), **described_data(run)},
        own=last,
        derived=tuple(derived),
        times=replace(times, elapsed_s=elapsed_s + fitted.earlier_s),
        memory=own.highest([*fitted.others, *(other.memory for other in others)]),
        training=fitted.training,
        phases=measured.phases,
        processes=tuple(placed),
        repetitions=fitted.repetitions,
        evaluated=inputs,
        ranked_without=inputs.filter if inputs else None,
    )


def described_data(run: RunContext) -> dict[str, Scalar]:
    """Identity and sizes of the data as columns."""
    data = run.data
    return {
        "data_fingerprint": data.fingerprint,
        "n_train": len(data.train),
        "n_fit": len(run.split),
        "n_test": len(data.test),
        "n_features": data.train.X.shape[1],
        "n_labels": data.train.Y.shape[1],
    }


def shortened(spec: RunSpec, folder: RunFolder, emit: Emit, options: RunOptions, gap: FailedRepetitions) -> RunRecord:
    """The record of a run of which repetitions failed elsewhere: its own row fails, the smaller R are evaluated."""
    failed = (gap.status, gap.reason, "fit")
    if gap.first == 0:
        return RunRecord(folder.run_id, status=failed[0], shared=described(spec), reason=failed[1], phase=failed[2])
    fewer = Method.load(spec.target, spec.settings).part(range(gap.first))
    assert fewer is not None
    smaller = replace(spec, settings={**spec.settings, **fewer})
    record = execute(smaller, folder, emit, replace(options, failed_repetitions=None))
    return record.failed(*failed, described(spec, str(record.shared["device"])))


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
    trace = RunTrace()

    def emit(event: Event) -> None:
        trace.add(event)
        print(json.dumps(event.to_json()), file=pipe, flush=True)
        print(shown(event), file=sys.stderr, flush=True)

    def failed(status: str, reason: str) -> RunRecord:
        return failure_record(folder, status, reason, trace, memory.peak_host_bytes(), options.attempt)

    try:
        record = execute(spec, folder, emit, options, lambda *failure: folder.write_record(failed(*failure)))
    except BaseException as error:  # a failure is a result, whatever it is
        traceback.print_exc()
        if is_full(error):  # no result of this run: it is to go on once there is room
            raise
        sys.stderr.flush()
        status, reason = classify(error)
        if isinstance(error, KeyboardInterrupt):
            status, reason = "interrupted", "stopped by the user"
        record = failed(status, reason)
    folder.write_record(replace(record, attempt=options.attempt))
    ProcessGroup.end_process(0)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
