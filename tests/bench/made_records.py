"""Records that no run has made, for tests of what reads them."""

from __future__ import annotations

from typing import Any

from bench.results.record import RunRecord
from bench.results.run_folder import RunFolder


def write_record(folder: RunFolder, **content: Any) -> None:
    """Write a record of these keys of record.json; without any it is one row that says nothing."""
    shared = {"method": "made", "dataset": "tiny"} | content.pop("shared", {})
    known = {"run_id": folder.run_id, "shared": shared, "rows": [{}]}
    folder.write_record(RunRecord.from_json(known | content))
