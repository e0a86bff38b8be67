"""A process beside the first of a run: the same work on another part of the output layer, and no results.

    python -m bench.run RUN_DIR     (with its `RankAddress` in the environment, see `bench.run.ranks.peer_process`)

Standard output gets one JSON line at the end, its `Outcome`.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.common import environment
from bench.config.spec import RunSpec
from bench.data import load_dataset
from bench.model.device import take_share
from bench.model.methods import Method
from bench.process.events import take_output
from bench.results.predictions import RankedLabels
from bench.results.run_folder import RunFolder
from bench.run.checkpoint.checkpoint import with_earlier
from bench.run.fit_network import fit_network
from bench.run.outcome import classify
from bench.run.phases import Phases
from bench.run.ranks.group import ProcessGroup
from bench.run.ranks.peer_process import Failure, Outcome, RankAddress


class PeerFolder(RunFolder):
    """The run's folder for a process that writes no results. It has a checkpoint of its own."""

    def __init__(self, path: Path, rank: int) -> None:
        super().__init__(path)
        self._rank = rank

    @property
    def checkpoint(self) -> Path:
        return super().checkpoint / f"rank-{self._rank}"

    def write_curve(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The first process does."""

    def write_predictions(self, predictions: Sequence[RankedLabels]) -> None:
        """The first process does."""

    def write_record(self, record: Mapping[str, Any]) -> None:
        """The first process does."""


def follow(spec: RunSpec, folder: RunFolder, place: RankAddress) -> dict[str, Any]:
    """Do this process's part of a run; what was measured of it, as columns."""
    started = time.perf_counter()
    device = take_share(spec.train, place.rank, place.world_size, place.threads)
    ranks = ProcessGroup.at(place)
    phases = Phases(device, _print)
    phases.report({"phase": "load"})
    data = load_dataset(spec.dataset, **spec.dataset_overrides)
    ranks.join(device)
    _, _, measured = fit_network(
        Method.load(spec.target, spec.settings), spec, data, device, phases.report, folder, ranks=ranks
    )
    phases.report({"phase": "write"})
    phases.stop()
    ranks.leave()
    elapsed = {"elapsed_s": time.perf_counter() - started}
    return with_earlier(phases.row() | elapsed, measured["earlier"]) | {"placed": environment.placed()}


def main(path: str, place: RankAddress) -> int:
    """Exit status 1 for a failure, which is told."""
    pipe = take_output()
    folder = PeerFolder(Path(path), place.rank)
    try:
        outcome = Outcome(row=follow(folder.spec(), folder, place))
    except BaseException as error:  # a failure is a result, whatever it is
        traceback.print_exc()
        status, reason = classify(error)
        outcome = Outcome(failure=Failure(status, reason, isinstance(error, ConnectionError)))
    sys.stderr.flush()
    print(json.dumps(asdict(outcome)), file=pipe, flush=True)
    ProcessGroup.end_process(1)
    return 0 if outcome.failure is None else 1


def _print(event: dict[str, Any]) -> None:
    """Into the log, but for epochs, of which the first process tells the same."""
    if "train_loss" not in event:
        shown = {name: value for name, value in event.items() if name != "measured"}
        print(json.dumps(shown), file=sys.stderr, flush=True)
