"""Records: kept ones of an earlier version load and keep their content, and what merges them is free of order."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from bench.columns import BY_NAME
from bench.common.errors import InputError
from bench.results.measurements import Memory, Times
from bench.results.record import Evaluation, RunRecord, read_record

GOLDEN = Path(__file__).resolve().parents[2] / "data_golden" / "records"
NAMES = [path.stem for path in sorted(GOLDEN.glob("*.json")) if path.stem != "rows" and not path.stem.endswith(".spec")]


def known(content: Any) -> Any:
    """The same without keys that say nothing."""
    if isinstance(content, dict):
        return {key: known(value) for key, value in content.items() if value is not None and value not in ([], {})}
    return [known(value) for value in content] if isinstance(content, list) else content


def test_there_are_records_of_all_kinds() -> None:
    kinds = {"classifier", "diverged", "failed_repetitions", "kept_repetitions", "two_decoders", "two_processes"}
    assert kinds == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_record_of_an_earlier_version_keeps_its_content(name: str) -> None:
    path = GOLDEN / f"{name}.json"
    record = read_record(path)
    assert known(record.to_json()) == known(json.loads(path.read_text()))
    assert RunRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


@pytest.mark.parametrize("name", NAMES)
def test_its_rows_are_what_the_earlier_version_made_of_it(name: str) -> None:
    """The same rows, values and order of columns beyond the contract's, and no column less in the table."""
    found = read_record(GOLDEN / f"{name}.json").rows("golden")
    expected = json.loads((GOLDEN / "rows.json").read_text())[name]
    assert [known(row) for row in found] == [known(row) for row in expected]
    columns = {column for row in expected for column in row}
    optional = {column for column in columns if column not in BY_NAME or not BY_NAME[column].required}
    assert {column for row in found for column in row} >= optional
    for mine, theirs in zip(found, expected, strict=True):
        assert [key for key in mine if key not in BY_NAME] == [key for key in theirs if key not in BY_NAME]


def test_the_own_row_is_the_largest_R_by_the_first_decoder() -> None:
    record = read_record(GOLDEN / "two_decoders.json")
    assert (record.own.R, record.own.decoder) == (4, "logit_sum")
    assert len(record.derived) == 7
    assert record.ranked == record.evaluations == (*record.derived, record.own)
    assert record.row_ids[-1] == record.run_id
    assert f"{record.run_id}@R4-min" in record.row_ids


def test_a_failed_run_keeps_its_smaller_R() -> None:
    record = read_record(GOLDEN / "failed_repetitions.json")
    assert record.status == "crashed"
    assert record.ranked == record.derived
    assert [row["status"] for row in record.rows("e")] == ["ok", "ok", "crashed"]
    assert record.memory == Memory()
    assert record.times == Times()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"version": 2}, "key version: found 2; expected 1"),
        ({"rows": []}, "not a readable record: ValueError"),
        ({"rows": None}, "not a readable record: TypeError"),
        ({"phases": {"fit": {}}}, "not a readable record: KeyError: 'seconds'"),
        ({"repetitions": [{"peaks": {}, "at_hand": True}]}, "not a readable record: TypeError"),
    ],
)
def test_what_is_no_record_is_refused_with_its_file(tmp_path: Path, change: dict[str, Any], found: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(json.loads((GOLDEN / "classifier.json").read_text()) | change))
    with pytest.raises(InputError, match=r"record\.json") as error:
        read_record(path)
    assert found in str(error.value)


def test_the_order_of_processes_does_not_matter() -> None:
    own = Memory({"host": 10}, {"host": 30, "gpu_allocated": 5}, {"fit": {"host": 25}}, {"peak": 99})
    others = [
        Memory(peaks={"host": 50}, by_phase={"fit": {"host": 5}}),
        Memory(peaks={"host": 20, "gpu_reserved": 7}, by_phase={"load": {"host": 70}, "fit": {"host": 60}}),
        Memory({"host": 1}, {"gpu_allocated": None}),
    ]
    expected = Memory({"host": 10}, {"host": 50, "gpu_allocated": None}, {"fit": {"host": 60}}, {"peak": 99})
    for order in itertools.permutations(others):
        assert own.highest(order) == expected
        one_by_one = own
        for other in order:
            one_by_one = one_by_one.highest([other])
        assert one_by_one == expected
    assert expected.above_baseline == {"host": 40}


def test_memory_that_a_method_measured_elsewhere_replaces_that_of_the_host() -> None:
    own = Memory({"host": 10, "gpu_process": 1}, {"host": 30, "gpu_process": 4}, {"fit": {"host": 25}}, {"peak": 99})
    found = own.with_measured_elsewhere(Memory({"host": 7}, {"host": 80}))
    assert found == Memory({"gpu_process": 1, "host": 7}, {"gpu_process": 4, "host": 80}, {"fit": {}}, {"peak": 99})
    assert own.with_measured_elsewhere(Memory()) == own


def test_a_row_has_each_column_once() -> None:
    row = {"R": 2, "decoder": "min", "P@1": 0.5, "params_total": 7, "own_count": 3, "fit_s": 1.0, "device_seconds": 2.0}
    evaluation = Evaluation.from_json(row | {"peak_host_bytes": 1, "elapsed_s": 2.0, "status": "ok"})
    assert evaluation.to_json() == row
    assert evaluation.facts == {"own_count": 3}
    assert evaluation.metric("P@1") == 0.5
    with pytest.raises(KeyError):
        evaluation.metric("P@3")
