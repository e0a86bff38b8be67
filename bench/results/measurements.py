"""What is measured of a run as a whole: seconds, bytes, and how its network was trained, each with its columns.

`from_json` and `to_json` of each class are the only places that know these columns. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from bench.columns import MEMORIES, PARTS, PHASES

FIT = "fit"  # the phase that trains


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds by the clocks of a run; None was not measured. ``examples_per_s``: training points in all epochs."""

    load_s: float | None = None
    build_s: float | None = None
    warmup_s: float | None = None
    predict_s: float | None = None
    elapsed_s: float | None = None
    examples_per_s: float | None = None

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Times:
        """From the columns of a row."""
        return cls(**{f.name: row.get(f.name) for f in fields(cls)})

    def to_json(self) -> dict[str, float]:
        """The columns that were measured."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in found.items() if value is not None}

    def with_known(self, other: Times) -> Times:
        """What the other has measured, and what this one has beside it."""
        return replace(self, **other.to_json())


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes by kind of memory (`bench.columns.MEMORIES`). A kind that is absent was not measured; None: not known.

    Args:
        baseline: what the process took before the run had done anything.
        peaks: the most that it took during the run.
        by_phase: the same by phase (`bench.columns.PHASES`), then by kind.
        predicted: what was predicted, by part of a peak (`bench.columns.PARTS`), and the ``peak`` itself.
    """

    baseline: Mapping[str, int] = field(default_factory=dict)
    peaks: Mapping[str, int | None] = field(default_factory=dict)
    by_phase: Mapping[str, Mapping[str, int | None]] = field(default_factory=dict)
    predicted: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Memory:
        """From the columns of a row; peaks above the baseline follow from the others."""
        by_phase = {phase: _present(row, f"peak_{{}}_{phase}_bytes", MEMORIES) for phase in PHASES}
        return cls(
            _known(_present(row, "baseline_{}_bytes", MEMORIES)),
            _present(row, "peak_{}_bytes", MEMORIES),
            {phase: peaks for phase, peaks in by_phase.items() if peaks},
            _known(_present(row, "predicted_{}_bytes", (*PARTS, "peak"))),
        )

    def to_json(self) -> dict[str, int | None]:
        """The columns."""
        found: dict[str, int | None] = {f"baseline_{kind}_bytes": count for kind, count in self.baseline.items()}
        found |= {f"predicted_{part}_bytes": count for part, count in self.predicted.items()}
        found |= {f"peak_{kind}_bytes": peak for kind, peak in self.peaks.items()}
        for phase, peaks in self.by_phase.items():
            found |= {f"peak_{kind}_{phase}_bytes": peak for kind, peak in peaks.items()}
        return found | {f"peak_{kind}_above_baseline_bytes": peak for kind, peak in self.above_baseline.items()}

    @property
    def above_baseline(self) -> dict[str, int | None]:
        """Peaks less the baseline, of the kinds that have both; None where the peak is not known."""
        both = {kind: self.peaks[kind] for kind in self.baseline if kind in self.peaks}
        return {kind: None if peak is None else max(0, peak - self.baseline[kind]) for kind, peak in both.items()}

    def highest(self, others: Iterable[Memory]) -> Memory:
        """With the highest peaks of this process and of others: what there must be wherever one of them works.

        Kinds, phases, baseline and prediction are those of this process. A peak that is None in one of them is None in
        the result. Any order of the others gives the same.
        """
        others = list(others)
        peaks = {kind: _max(peak, [o.peaks for o in others], kind) for kind, peak in self.peaks.items()}
        by_phase = {
            phase: {kind: _max(peak, [o.by_phase.get(phase, {}) for o in others], kind) for kind, peak in own.items()}
            for phase, own in self.by_phase.items()
        }
        return replace(self, peaks=peaks, by_phase=by_phase)

    def with_measured_elsewhere(self, own: Memory) -> Memory:
        """With what a method measured itself; its host memory, of another process, replaces that of this one."""
        kept = self.without("host") if own.peaks.get("host") is not None else self
        by_phase = {
            phase: {**kept.by_phase.get(phase, {}), **own.by_phase.get(phase, {})}
            for phase in (*kept.by_phase, *own.by_phase)
        }
        return Memory(
            {**kept.baseline, **own.baseline},
            {**kept.peaks, **own.peaks},
            by_phase,
            {**kept.predicted, **own.predicted},
        )

    def without(self, kind: str) -> Memory:
        """Without what was measured of one kind."""
        by_phase = {phase: _but(peaks, kind) for phase, peaks in self.by_phase.items()}
        return replace(self, baseline=_but(self.baseline, kind), peaks=_but(self.peaks, kind), by_phase=by_phase)


@dataclass(frozen=True, slots=True)
class PhaseUsage:
    """Seconds of one phase of a run by the wall clock, and its peaks in bytes by kind of memory."""

    seconds: float
    peaks: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> PhaseUsage:
        return cls(content["seconds"], _known(_present(content, "peak_{}_bytes", MEMORIES)))

    def to_json(self) -> dict[str, float]:
        return {"seconds": self.seconds, **{f"peak_{kind}_bytes": peak for kind, peak in self.peaks.items()}}


@dataclass(frozen=True, slots=True)
class Measured:
    """What is known of a run before it ends: its row so far, and its phases that have ended, by name."""

    times: Times = field(default_factory=Times)
    memory: Memory = field(default_factory=Memory)
    phases: Mapping[str, PhaseUsage] = field(default_factory=dict)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Measured:
        row = content["row"]
        return cls(Times.from_json(row), Memory.from_json(row), phases_from_json(content["phases"]))

    def to_json(self) -> dict[str, Any]:
        row = {**self.memory.to_json(), **self.times.to_json()}
        return {"row": row, "phases": {name: usage.to_json() for name, usage in self.phases.items()}}


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """What a process beside the first of a run took, and where it was (`bench.common.environment.placed`)."""

    memory: Memory
    elapsed_s: float
    placed: Mapping[str, Any]

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> ProcessUsage:
        return cls(Memory.from_json(row), row["elapsed_s"], row["placed"])

    def to_json(self) -> dict[str, Any]:
        return {**self.memory.to_json(), "elapsed_s": self.elapsed_s, "placed": dict(self.placed)}


def phases_from_json(content: Mapping[str, Any]) -> dict[str, PhaseUsage]:
    """Phases by name."""
    return {name: PhaseUsage.from_json(usage) for name, usage in content.items()}


@dataclass(frozen=True, slots=True)
class TrainedRepetition:
    """How a repetition was trained: seconds, where, and in what memory.

    Args:
        repetition: its number in the whole layer.
        seconds: its share of the fit clock of the group it was trained in.
        together: repetitions of that group.
        held: repetitions in the process that trained it.
        host, process, env_id: where that was.
        peaks: bytes of that process by kind of memory, from the beginning of training to when it was kept.
        sha256: of the file of its weights.
        trained_before: whether the run that reports it did not train it.
    """

    repetition: int
    seconds: float
    together: int
    held: int
    host: str
    process: str
    env_id: str
    peaks: Mapping[str, int] = field(default_factory=dict)
    sha256: str = ""
    trained_before: bool = False

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> TrainedRepetition:
        """TypeError where keys are missing, or are not known."""
        rest = {name: value for name, value in content.items() if name not in ("peaks", "at_hand")}
        peaks = _known(_present(content["peaks"], "peak_{}_bytes", MEMORIES))
        return cls(peaks=peaks, trained_before=content["at_hand"], **rest)

    def to_json(self) -> dict[str, Any]:
        content = {f.name: getattr(self, f.name) for f in fields(self)}
        del content["trained_before"]
        peaks = {f"peak_{kind}_bytes": peak for kind, peak in self.peaks.items()}
        return content | {"peaks": peaks, "at_hand": self.trained_before}


def memory_of_trainers(trained: Sequence[TrainedRepetition]) -> list[Memory]:
    """What other processes took that trained repetitions of a run, each as a peak of the run and of its phase fit.

    Not known at all where one of them held more repetitions than the run has: its memory is not that of this run.
    """
    others = [repetition for repetition in trained if repetition.trained_before]
    if any(repetition.held > len(trained) for repetition in others):
        unknown: dict[str, int | None] = dict.fromkeys(MEMORIES)
        return [Memory(peaks=unknown, by_phase={FIT: unknown})]
    return [Memory(peaks=repetition.peaks, by_phase={FIT: repetition.peaks}) for repetition in others]


@dataclass(frozen=True, slots=True)
class Training:
    """How the network of a run was trained and ranked.

    Args:
        resumed: how often the run went on from a checkpoint.
        step_p50_s, step_p95_s: median and 95th percentile of the seconds of a step; None without steps.
        processes: that trained it, None for one; ``predicting_processes``: that ranked, None for the run's own.
        repetitions_trained_before, slowest_repetition_s: of a run whose repetitions are kept.
    """

    resumed: int = 0
    step_p50_s: float | None = None
    step_p95_s: float | None = None
    processes: int | None = None
    predicting_processes: int | None = None
    repetitions_trained_before: int | None = None
    slowest_repetition_s: float | None = None

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Training | None:
        """From the columns of a row; None where a row says nothing of it."""
        if "resumed" not in row:
            return None
        found: dict[str, Any] = {name: row.get(column) for name, column in TRAINING.items()}
        return cls(**found)

    def to_json(self) -> dict[str, float | None]:
        """The columns; those of kept repetitions only where there are any."""
        found = {column: getattr(self, name) for name, column in TRAINING.items()}
        optional = ("repetitions_at_hand", "slowest_repetition_s")
        return {name: value for name, value in found.items() if value is not None or name not in optional}

    def with_repetitions(self, trained: Sequence[TrainedRepetition]) -> Training:
        """With what is known of the repetitions of the run, whichever processes trained them."""
        if not trained:
            return self
        return replace(
            self,
            processes=len({repetition.process for repetition in trained}),
            repetitions_trained_before=sum(repetition.trained_before for repetition in trained),
            slowest_repetition_s=max(repetition.seconds for repetition in trained),
        )


TRAINING = {f.name: f.name for f in fields(Training)} | {
    "processes": "training_processes",
    "repetitions_trained_before": "repetitions_at_hand",
}  # columns by field


def _present(row: Mapping[str, Any], column: str, names: Iterable[str]) -> dict[str, Any]:
    """Values of a row by name, of the columns that it has."""
    return {name: row[column.format(name)] for name in names if column.format(name) in row}


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _but(values: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != kind}


def _max(own: int | None, others: Sequence[Mapping[str, int | None]], kind: str) -> int | None:
    peaks = [own, *(other[kind] for other in others if kind in other)]
    return None if None in peaks else max(peak for peak in peaks if peak is not None)
