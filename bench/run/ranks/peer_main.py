"""The work of a further process of a run: that of the first, on another part of the output layer; no results.

    python -m bench.run RUN_DIR     (with its `RankAddress` in the environment, see `bench.run.ranks.peer_process`)

It prints one JSON line to standard output at the end, its `Outcome`.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.common import environment
from bench.config.spec import RunSpec
from bench.data import load_dataset
from bench.model.device import take_share
from bench.model.methods import Method
from bench.process.events import EpochDone, Event, PhaseStarted, shown, take_output
from bench.results.measurements import ProcessUsage
from bench.results.predictions import RankedLabels
from bench.results.record import RunRecord
from bench.results.run_folder import RunFolder
from bench.run.context import RunContext
from bench.run.fit_network import fit_network
from bench.run.outcome import classify
from bench.run.phases import Phases
from bench.run.ranks.group import ProcessGroup
from bench.run.ranks.peer_process import Failure, Outcome, RankAddress


class PeerFolder(RunFolder):
    """The run's folder as a further process uses it: with a checkpoint of its own, and without results."""

    def __init__(self, path: Path, rank: int) -> None:
        super().__init__(path)
        self._rank = rank

    @property
    def checkpoint(self) -> Path:
        return super().checkpoint / f"rank-{self._rank}"

    def write_curve(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Nothing: the first process writes it."""

    def write_predictions(self, predictions: Sequence[RankedLabels]) -> None:
        """Nothing: the first process writes it."""

    def write_record(self, record: RunRecord) -> None:
        """Nothing: the first process writes it."""


def run_peer(spec: RunSpec, folder: RunFolder, address: RankAddress) -> ProcessUsage:
    """Do this process's part of a run; returns what it took."""
    started = time.perf_counter()
    device = take_share(spec.train, address.rank, address.world_size, address.threads)
    ranks = ProcessGroup.connect(address)
    phases = Phases(device, _log)
    phases.emit(PhaseStarted("load"))
    data = load_dataset(spec.dataset, **spec.dataset_overrides)
    ranks.join(device)
    method = Method.load(spec.target, spec.settings)
    fitted = fit_network(RunContext(spec, method, data, device, folder, phases.emit, ranks))
    phases.emit(PhaseStarted("write"))
    phases.stop()
    ranks.leave()
    elapsed_s = time.perf_counter() - started + fitted.earlier_s
    return ProcessUsage(phases.measured.memory.highest(fitted.others), elapsed_s, environment.placed())


def main(path: str, address: RankAddress) -> int:
    """Exit status 1 for a failure, which is printed as the outcome."""
    pipe = take_output()
    folder = PeerFolder(Path(path), address.rank)
    try:
        outcome = Outcome(row=run_peer(folder.spec(), folder, address).to_json())
    except BaseException as error:  # a failure is a result, whatever it is
        traceback.print_exc()
        status, reason = classify(error)
        outcome = Outcome(failure=Failure(status, reason, isinstance(error, ConnectionError)))
    sys.stderr.flush()
    print(json.dumps(outcome.to_json()), file=pipe, flush=True)
    ProcessGroup.end_process(1)
    return 0 if outcome.failure is None else 1


def _log(event: Event) -> None:
    """Write an event into the log, unless it is about an epoch: the first process reports the same."""
    if not isinstance(event, EpochDone):
        print(shown(event), file=sys.stderr, flush=True)
