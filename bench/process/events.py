"""Events of a run: what its process writes to the launcher, one JSON line each."""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Mapping
from typing import Any, TextIO


def take_output() -> TextIO:
    """The pipe to the launching process, for JSON lines only: what libraries print goes to the log from now on."""
    pipe = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    faulthandler.enable()  # a crash in compiled code leaves its place in the log
    return pipe


class RunTrace:
    """What the events of a run (`bench.run.phases`) have told so far."""

    def __init__(self) -> None:
        self.phase = "start"
        self.row: dict[str, Any] = {}
        self.phases: dict[str, Any] = {}

    def note(self, event: Mapping[str, Any]) -> None:
        """Take in one event."""
        self.phase = event.get("phase", self.phase)
        measured = event.get("measured", {})
        self.row, self.phases = measured.get("row", self.row), measured.get("phases", self.phases)
