"""Which result answers a request: the newest. What it replaced stays on disk, and is named beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.config.spec import RunSpec, short_hash
from bench.results.ledger import ENDS
from bench.results.record import RunRecord, Scalar


@dataclass(frozen=True, slots=True)
class Answer:
    """A result, and what it is a result of.

    Args:
        request: hash of the spec, with the dataset by its name (`RunSpec.request`); of predictions made elsewhere, of
            method and dataset. None where it cannot be read.
        question: hash of spec and data (`RunSpec.question`); None for predictions made elsewhere.
        code: hash of the code; empty where the result does not record it.
        file: name of the file of predictions made elsewhere.
        target: dotted path of the method's class; empty for predictions made elsewhere.
    """

    record: RunRecord
    request: str | None = None
    question: str | None = None
    code: str = ""
    file: str = ""
    target: str = ""


def read_answer(record: RunRecord, folder: Path) -> Answer:
    """A record with what its ``spec.json`` says; without where that cannot be read."""
    try:
        text = (folder / "spec.json").read_text(encoding="utf-8")
        content = json.loads(text)
        if foreign := content.get("foreign"):
            request = short_hash(f"foreign\n{foreign['method']}\n{foreign['dataset']}")
            return Answer(record, request, file=foreign["file"])
        spec = RunSpec.from_json(text)
        question = content.get("asked") or spec.question(str(record.shared["data_fingerprint"]))
        code = str(content["code"]) if content.get("asked") else ""
        return Answer(record, spec.request(), question, code, target=spec.target)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Answer(record)


def replaced(answers: Sequence[Answer], events: Sequence[Mapping[str, Any]]) -> dict[str, Answer]:
    """By run id of each result that is not the newest of its request: the newest.

    The newest is that of the run that was last planned, started or ended, so also an earlier result whose code and data
    are back. A run that was interrupted has no result.
    """
    last = {entry["run_id"]: at for at, entry in enumerate(events) if entry["event"] in ("planned", "started", *ENDS)}
    newest: dict[str, Answer] = {}
    for answer in sorted(answers, key=lambda answer: last.get(answer.record.run_id, -1)):
        if answer.request is not None and answer.record.status != "interrupted":
            newest[answer.request] = answer
    return {
        answer.record.run_id: newest[answer.request]
        for answer in answers
        if answer.request in newest
        and last.get(answer.record.run_id, -1) < last.get(newest[answer.request].record.run_id, -1)
    }


def changes(old: Answer, new: Answer) -> str:
    """In words, what differs between two answers to one request."""
    x, y = (answer.record.shared.get("data_fingerprint") for answer in (old, new))
    found = []
    if x and y and x != y:
        found.append(f"data {x} → {y}")
    elif old.record.evaluated and new.record.evaluated:
        found.append(old.record.evaluated.changes(new.record.evaluated))
    if old.file != new.file:
        found.append(f"file {old.file} → {new.file}")
    elif old.file:
        found.append(f"content of file {new.file}")
    if old.code != new.code:
        found.append("other code")
    return ", ".join(filter(None, found))


def replacements(answers: Sequence[Answer], gone: Mapping[str, Answer]) -> dict[str, dict[str, Scalar]]:
    """Columns ``replaces`` and ``replaced_because`` by run id, for the results that replaced others."""
    columns: dict[str, dict[str, Scalar]] = {}
    for old in answers:  # of several the last stays
        if new := gone.get(old.record.run_id):
            because = changes(old, new)
            columns[new.record.run_id] = {"replaces": old.record.run_id, "replaced_because": because or "run again"}
    for answer in answers:
        record = answer.record
        if record.evaluated_before and record.run_id not in columns:
            columns[record.run_id] = {"replaces": record.run_id, "replaced_because": record.evaluated_before[-1]}
    return columns
