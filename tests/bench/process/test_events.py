"""Events of a run: each comes back from its line as it was, and a line that is no event is refused."""

from __future__ import annotations

import json
import re

import pytest

from bench.process.events import EpochDone, Event, Note, PhaseStarted, RunTrace, parse, shown
from bench.results.measurements import Measured, Memory, PhaseUsage, Times

KNOWN = Measured(
    Times(load_s=0.5),
    Memory({"host": 30}, {"host": 50, "gpu_process": 4}, {"load": {"host": 40}}, {"weights": 7, "peak": 9}),
    {"start": PhaseUsage(0.25, {"host": 30}), "load": PhaseUsage(0.5, {"host": 40})},
)
EVENTS: list[Event] = [
    PhaseStarted("load"),
    PhaseStarted("fit", 0.5),
    PhaseStarted("predict", measured=KNOWN),
    EpochDone(3, 0.75, 1.5, 0.125),
    EpochDone(1, 0.25, 0.5, 2.0, "0-3", {"P@1": 0.5, "P@3": 0.25}),
    Note('a "quoted" word, and Ω'),
]


@pytest.mark.parametrize("event", EVENTS)
def test_an_event_survives_its_line(event: Event) -> None:
    line = json.dumps(event.to_json())
    assert "\n" not in line
    assert parse(line + "\n") == event


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('{"event": "pause"}', "event: found 'pause'; expected phase, epoch or note"),
        ('{"phase": "fit"}', "KeyError: 'event'"),
        ('{"event": "epoch", "epoch": 1}', "KeyError: 'done'"),
        ('{"event": "phase"}', "KeyError: 'phase'"),
        ("[1]", "TypeError"),
        ('{"event": "no', "Unterminated"),
    ],
)
def test_a_line_that_is_no_event_is_refused(line: str, found: str) -> None:
    with pytest.raises(ValueError, match=re.escape(found)):
        parse(line)


def test_a_log_shows_neither_the_kind_nor_what_was_measured() -> None:
    assert shown(EVENTS[2]) == '{"phase": "predict"}'
    assert json.loads(shown(EVENTS[3])) == {
        "phase": "fit", "done": 0.75, "repetitions": "", "epoch": 3, "fit_s": 1.5, "train_loss": 0.125,
    }  # fmt: skip


def test_a_trace_keeps_the_phase_and_what_was_measured_last() -> None:
    trace = RunTrace()
    assert (trace.phase, trace.measured) == ("start", Measured())
    for event in (PhaseStarted("predict", measured=KNOWN), Note("x")):
        trace.add(event)
    assert (trace.phase, trace.measured) == ("predict", KNOWN)
    trace.add(PhaseStarted("metrics"))
    assert (trace.phase, trace.measured) == ("metrics", KNOWN)
