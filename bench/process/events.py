"""Events of a run: what its process writes to the launcher, one JSON line each. Imports no torch.

`Event.to_json` and `parse` are the only places that know the keys of a line.
"""

from __future__ import annotations

import faulthandler
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

from bench.results.measurements import Measured


@dataclass(frozen=True, slots=True)
class PhaseStarted:
    """Another phase begins, or goes on.

    Args:
        phase: its name.
        done: share of the training that is done when it begins, in [0, 1]; None where that means nothing.
        measured: what is known of the run so far, so that it is kept even if the run is killed.
    """

    phase: str
    done: float | None = None
    measured: Measured | None = None

    def to_json(self) -> dict[str, Any]:
        done = {} if self.done is None else {"done": self.done}
        measured = {} if self.measured is None else {"measured": self.measured.to_json()}
        return {"event": "phase", "phase": self.phase, **done, **measured}


@dataclass(frozen=True, slots=True)
class EpochDone:
    """An epoch of training is over.

    Args:
        epoch: its number, from 1.
        done: share of the training of the run that is done, in [0, 1].
        fit_s: seconds of training so far.
        train_loss: mean loss of the epoch.
        repetitions: those that are being trained, such as ``0-3``; empty for a method without.
        quality: metrics on validation points (fractions), where they were measured.
    """

    epoch: int
    done: float
    fit_s: float
    train_loss: float
    repetitions: str = ""
    quality: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"event": "epoch", "phase": "fit", "done": self.done, **self.curve_row()}

    def curve_row(self) -> dict[str, Any]:
        """The row of the learning curve."""
        point = {"epoch": self.epoch, "fit_s": self.fit_s, "train_loss": self.train_loss}
        return {"repetitions": self.repetitions, **point, **self.quality}


@dataclass(frozen=True, slots=True)
class Note:
    """A line for the person who watches."""

    text: str

    def to_json(self) -> dict[str, Any]:
        return {"event": "note", "note": self.text}


Event = PhaseStarted | EpochDone | Note
Emit = Callable[[Event], None]


def parse(line: str) -> Event:
    """The event of a line that `Event.to_json` gave. ValueError for a line that is none, or an unknown event."""
    try:
        content = json.loads(line)
        match content["event"]:
            case "phase":
                measured = Measured.from_json(content["measured"]) if "measured" in content else None
                return PhaseStarted(content["phase"], content.get("done"), measured)
            case "epoch":
                known = {name: content.pop(name) for name in ("epoch", "done", "fit_s", "train_loss", "repetitions")}
                return EpochDone(**known, quality={k: v for k, v in content.items() if k not in ("event", "phase")})
            case "note":
                return Note(content["note"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"event {line.strip()!r}: {type(error).__name__}: {error}") from error
    raise ValueError(f"event: found {content['event']!r}; expected phase, epoch or note")


def shown(event: Event) -> str:
    """An event as a line of a log: without its kind, and without what was measured, which the record has."""
    return json.dumps({name: value for name, value in event.to_json().items() if name not in ("event", "measured")})


def take_output() -> TextIO:
    """The pipe to the launching process, for JSON lines only: what libraries print goes to the log from now on."""
    pipe = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    faulthandler.enable()  # a crash in compiled code leaves its traceback in the log
    return pipe


class RunTrace:
    """What is known of a run from its events so far: its phase, and what was measured in those before."""

    def __init__(self) -> None:
        self.phase = "start"
        self.measured = Measured()

    def add(self, event: Event) -> None:
        """Take in one event."""
        match event:
            case PhaseStarted(phase, _, measured):
                self.phase = phase
                self.measured = measured or self.measured
            case EpochDone():
                self.phase = "fit"
            case Note():
                pass
