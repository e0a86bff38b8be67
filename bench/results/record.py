"""The record of a run: what `record.json` holds, and the rows of table.csv that come from it.

`from_json` and `to_json` are the only places that know the keys of the file. Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.columns import BY_NAME, DECILES, DECODER_SETTING
from bench.common import environment
from bench.common.errors import InputError
from bench.config.evaluation_inputs import EvaluationInputs
from bench.config.spec import RunSpec
from bench.results.measurements import (
    TRAINING,
    Memory,
    PhaseUsage,
    Times,
    TrainedRepetition,
    Training,
    phases_from_json,
)

if TYPE_CHECKING:  # the launching process reads records, and scores nothing
    from bench.metrics.scorer import Score

RECORD_VERSION = 1
ROW = ("fit_s", "device_seconds")  # times of a single row; all others are of the run as a whole

Scalar = str | int | float | bool | None
Deciles = Mapping[str, list[float | None]]  # a metric's values by frequency decile


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one row of table.csv says of the first R repetitions by one decoder; nothing of the run as a whole.

    Args:
        R: repetitions; None for a method without.
        decoder: by which of the method's decoders; None where it has one.
        quality: metrics by column, fractions; None where the points have no label of a group.
        size: counts and bytes by column.
        fit_s: seconds of training; ``device_seconds``: the same times the processes that trained.
        facts: the method's own columns, and what it says of those that all rows share.
        deciles: metrics by frequency decile; None where they were not measured.
    """

    R: int | None = None
    decoder: str | None = None
    quality: Mapping[str, float | None] = field(default_factory=dict)
    size: Mapping[str, int | None] = field(default_factory=dict)
    fit_s: float | None = None
    device_seconds: float | None = None
    facts: Mapping[str, Scalar] = field(default_factory=dict)
    deciles: Deciles | None = None

    @classmethod
    def from_json(cls, row: Mapping[str, Any], deciles: Deciles | None = None) -> Evaluation:
        """From the columns of a row; those of the run as a whole are not its own and are left out."""
        rest = {name: value for name, value in row.items() if name not in ("R", "decoder", "status", "reason", *ROW)}
        groups = {name: _group(name) for name in rest}
        quality, size, facts = (
            {name: rest[name] for name, group in groups.items() if group == wanted}
            for wanted in ("quality", "size", "facts")
        )
        fit_s, device_seconds = (row.get(name) for name in ROW)
        return cls(row.get("R"), row.get("decoder"), quality, size, fit_s, device_seconds, facts, deciles)

    def to_json(self) -> dict[str, Any]:
        """The columns."""
        first = {"R": self.R, "decoder": self.decoder, "fit_s": self.fit_s, "device_seconds": self.device_seconds}
        known = {name: value for name, value in first.items() if value is not None}
        return {**known, **self.facts, **self.size, **self.quality}

    def metric(self, name: str) -> float:
        """A metric that was measured. KeyError where it was not."""
        value = self.quality.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def scored(self, score: Score) -> Evaluation:
        """The same with quality measured anew."""
        return replace(self, quality={**self.quality, **score.quality}, deciles=score.deciles)


def _deciles_from_json(content: Any) -> Deciles:
    """ValueError or AttributeError for anything but a list of numbers for each bin, by metric."""
    for metric, values in content.items():
        if len(values) != DECILES + 1 or not all(value is None or type(value) in (int, float) for value in values):
            raise ValueError(f"deciles of {metric}: found {values!r}; expected {DECILES + 1} numbers")
    return dict(content)


def _group(column: str) -> str | None:
    """Where a column of a row belongs: quality, size, facts, or (None) to the run as a whole."""
    if column in TRAINING.values():
        return None
    group = BY_NAME[column].group if column in BY_NAME else "facts"
    return {"quality": "quality", "size": "size", "memory": None, "time": None}.get(group, "facts")


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What a run leaves: how it ended, what it was, and what was measured.

    Args:
        run_id, status, reason: identity and end; the statuses are `bench.columns.STATUS_WORDS`.
        shared: settings and data as columns, the same in all rows.
        own: all repetitions, by the method's first decoder: the row that has the run's id.
        derived: smaller R and other decoders, from the same trained model.
        times, memory, training: of the run as a whole; they belong to the own row alone.
        phase: in which it failed.
        phases: seconds and peaks by phase.
        processes: where each process of the run was, if there were several (`bench.common.environment.placed`).
        repetitions: how each kept repetition was trained.
        log_tail: the last lines of the log of a run that failed.
        attempt: which start in the ledger this is the end of.
        evaluated: what decided the metrics; None where they were not measured, and in records of earlier versions.
        ranked_without: hash of the pairs that the kept predictions leave out; None: none.
        evaluated_before: what has changed each time the kept predictions were evaluated again.
    """

    run_id: str
    status: str
    shared: Mapping[str, Scalar] = field(default_factory=dict)
    own: Evaluation = field(default_factory=Evaluation)
    derived: tuple[Evaluation, ...] = ()
    times: Times = field(default_factory=Times)
    memory: Memory = field(default_factory=Memory)
    training: Training | None = None
    reason: str | None = None
    phase: str | None = None
    phases: Mapping[str, PhaseUsage] = field(default_factory=dict)
    processes: tuple[Mapping[str, Scalar], ...] = ()
    repetitions: tuple[TrainedRepetition, ...] = ()
    log_tail: tuple[str, ...] = ()
    attempt: str | None = None
    evaluated: EvaluationInputs | None = None
    ranked_without: str | None = None
    evaluated_before: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RunRecord:
        """From the content of a record.json. KeyError, TypeError, ValueError or AttributeError where it is none."""
        *others, own = content["rows"]
        known = [_deciles_from_json(of_row) for of_row in content.get("deciles", [])]
        deciles = [*known, *[None] * len(content["rows"])]
        return cls(
            run_id=content["run_id"],
            status=content["status"],
            shared=content["shared"],
            own=Evaluation.from_json(own, deciles[len(others)]),
            derived=tuple(Evaluation.from_json(row, by) for row, by in zip(others, deciles, strict=False)),
            times=Times.from_json(own),
            memory=Memory.from_json(own),
            training=Training.from_json(own),
            reason=content.get("reason"),
            phase=content.get("phase"),
            phases=phases_from_json(content.get("phases", {})),
            processes=tuple(content.get("processes", ())),
            repetitions=tuple(TrainedRepetition.from_json(entry) for entry in content.get("repetitions", ())),
            log_tail=tuple(content.get("log_tail", ())),
            attempt=content.get("attempt"),
            evaluated=EvaluationInputs.from_json(content["evaluated"]) if content.get("evaluated") else None,
            ranked_without=content.get("ranked_without"),
            evaluated_before=tuple(content.get("evaluated_before", ())),
        )

    def to_json(self) -> dict[str, Any]:
        """The content of record.json; the own row stands last."""
        deciles = [evaluation.deciles for evaluation in self.evaluations if evaluation.deciles is not None]
        optional = {
            "reason": self.reason,
            "phase": self.phase,
            "shared": dict(self.shared),
            "rows": [*(self._derived_row(row) for row in self.derived), self._own_row()],
            "deciles": deciles,
            "phases": {name: usage.to_json() for name, usage in self.phases.items()},
            "processes": list(self.processes),
            "repetitions": [repetition.to_json() for repetition in self.repetitions],
            "log_tail": list(self.log_tail),
            "attempt": self.attempt,
            "evaluated": self.evaluated.to_json() if self.evaluated else None,
            "ranked_without": self.ranked_without,
            "evaluated_before": list(self.evaluated_before),
        }
        always = ("shared", "rows")
        kept = {name: value for name, value in optional.items() if value or name in always}
        return {"version": RECORD_VERSION, "run_id": self.run_id, "status": self.status, **kept}

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """All of them, the own one last: the order of the kept predictions."""
        return (*self.derived, self.own)

    @property
    def ranked(self) -> tuple[Evaluation, ...]:
        """Those that have kept predictions: all, or those of fewer repetitions where the run itself failed."""
        return self.evaluations if self.status == "ok" else self.derived

    @property
    def row_ids(self) -> tuple[str, ...]:
        """Ids of the rows of `evaluations`, in order: the run's, followed by what a derived row was derived by."""
        return (*(f"{self.run_id}@R{row.R}{self._other_decoder(row)}" for row in self.derived), self.run_id)

    def rows(self, experiment: str) -> list[dict[str, Scalar]]:
        """The rows of table.csv, one for each evaluation, the own one last; derived rows name the run."""
        identity = {"experiment": experiment, "status": self.status, "reason": self.reason, **self.shared}
        if self.evaluated is not None:
            identity["evaluation_fingerprint"] = self.evaluated.fingerprint
        derived = [
            {**identity, **self._derived_row(row), "run_id": run_id, "derived_from": self.run_id}
            for row, run_id in zip(self.derived, self.row_ids, strict=False)
        ]
        return [*derived, {**identity, **self._own_row(), "run_id": self.run_id}]

    def scored(self, scores: Sequence[Score], inputs: EvaluationInputs) -> RunRecord:
        """The same with the quality of `ranked` measured anew, in that order, with these inputs."""
        again = [row.scored(score) for row, score in zip(self.ranked, scores, strict=True)]
        changed = self.evaluated.changes(inputs) if self.evaluated else ""
        before = (*self.evaluated_before, changed) if changed else self.evaluated_before
        same = replace(self, evaluated=inputs, evaluated_before=before)
        if self.status == "ok":
            return replace(same, derived=tuple(again[:-1]), own=again[-1])
        return replace(same, derived=tuple(again))

    def failed(self, status: str, reason: str, phase: str, shared: Mapping[str, Scalar]) -> RunRecord:
        """The record of a larger run that failed, from this one of fewer repetitions: all of its rows are derived."""
        return replace(
            self,
            status=status,
            reason=reason,
            phase=phase,
            shared={**self.shared, **shared},
            own=Evaluation(decoder=self.own.decoder),
            derived=self.evaluations,
            times=Times(),
            memory=Memory(),
            training=None,
        )

    def _other_decoder(self, row: Evaluation) -> str:
        return "" if row.decoder == self.own.decoder else f"-{row.decoder}"

    def _own_row(self) -> dict[str, Any]:
        training = self.training.to_json() if self.training else {}
        return {**self.own.to_json(), **self.memory.to_json(), **self.times.to_json(), **training}

    def _derived_row(self, evaluation: Evaluation) -> dict[str, Any]:
        """A smaller R that was evaluated is a result also where the run itself failed."""
        done = {} if self.status == "ok" else {"status": "ok", "reason": None}
        return {**evaluation.to_json(), **done}


def read_record(path: Path) -> RunRecord:
    """The record in a file. InputError where it cannot be read; FileNotFoundError where there is none."""
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable record: {error}") from error
    if not isinstance(content, dict) or content.get("version") != RECORD_VERSION or "status" not in content:
        found = content.get("version") if isinstance(content, dict) else type(content).__name__
        raise InputError(f"{path}, key version: found {found!r}; expected {RECORD_VERSION}")
    try:
        return RunRecord.from_json(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not a readable record: {type(error).__name__}: {error}") from error


def described(spec: RunSpec, device: str | None = None) -> dict[str, Any]:
    """Identity and settings of a run as columns; known before anything runs, so that failures have them too."""
    return {
        "method": spec.method,
        "dataset": spec.dataset_name,
        "seed": spec.seed,
        "evaluated_on": spec.train.evaluate_on,
        "env_id": environment.env_id(),
        **spec.settings,
        "hidden": spec.train.hidden,
        "epochs": spec.train.epochs,
        "batch_size": spec.train.batch_size,
        "lr": spec.train.lr,
        "decoder": spec.settings.get(DECODER_SETTING),
        "precision": spec.train.precision,
        "device": device,
        **spec.swept,
    }
