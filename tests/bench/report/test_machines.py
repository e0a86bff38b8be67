"""Times of several machines are left out of tables and figures by default."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.common import environment
from bench.common.text_table import to_markdown
from bench.report.figures import build_figures
from bench.report.groups import records
from bench.report.html import write_report
from bench.report.machines import TIMES, machines_note, on_one_machine
from bench.report.tables import build_tables
from bench.results.table import load_results, rows_to_frame

Rows = list[dict[str, Any]]


@pytest.fixture
def mixed(rows: Rows) -> Rows:
    """The synthetic experiment, sampled softmax measured on another machine."""
    return [row | {"env_id": "ffff00" if row["method"] == "sampled_softmax" else row["env_id"]} for row in rows]


def test_one_machine_keeps_all_times(rows: Rows) -> None:
    df = rows_to_frame(rows)
    assert on_one_machine(df).equals(df)
    assert machines_note(records(df)) == ""


def test_times_of_two_machines_are_left_out_and_nothing_else(mixed: Rows) -> None:
    df = rows_to_frame(mixed)
    apart = on_one_machine(df)
    assert apart[[name for name in TIMES if name in df]].isna().all(axis=None)
    others = [name for name in df.columns if name not in TIMES]
    assert apart[others].equals(df[others])
    assert apart.dtypes.equals(df.dtypes)
    assert on_one_machine(df, across=True).equals(df)


def test_each_dataset_is_judged_by_itself(rows: Rows) -> None:
    other = [row | {"dataset": "another", "env_id": "ffff00", "run_id": f"other-{row['run_id']}"} for row in rows]
    df = rows_to_frame([*rows, *other])
    assert on_one_machine(df).equals(df)


def test_a_failure_on_another_machine_does_not_remove_the_times(rows: Rows) -> None:
    """It was not timed, so nothing is compared with it."""
    df = rows_to_frame([row | {"env_id": "ffff00"} if row["status"] != "ok" else row for row in rows])
    assert on_one_machine(df).equals(df)
    assert machines_note(records(df)) == ""


def test_tables_figures_and_report_say_so(tmp_path: Path, mixed: Rows, write: Callable[[Path, Rows], Path]) -> None:
    folder = write(tmp_path, mixed)
    apart, together = on_one_machine(folder), on_one_machine(folder, across=True)
    cost = to_markdown(build_tables(apart)[1])
    assert "61.0" not in cost
    assert "environments e1a2b3, ffff00: times are left out" in cost
    shown = to_markdown(build_tables(together)[1])
    assert "61.0" in shown
    assert "times are not comparable between them" in shown
    by_name = {picture.name: picture for picture in build_figures(apart, folder / "runs")}
    assert by_name["learning_curves"].figure is None
    assert "times are left out" in by_name["learning_curves"].reason
    assert not any(row["panel"] == "fit_s" for row in by_name["linear_cost_exponential_resolution"].rows)
    drawn = {picture.name: picture for picture in build_figures(together, folder / "runs")}
    assert drawn["learning_curves"].figure is not None
    assert "times are left out" in write_report(folder).read_text()
    assert "times are left out" not in write_report(folder, across_machines=True).read_text()
    assert load_results(folder)["fit_s"].notna().any()  # table.csv keeps what was measured


def test_the_environment_says_what_it_is_of(tmp_path: Path) -> None:
    content = json.loads(environment.write(tmp_path).read_text())
    for key in ("cpu", "cores", "memory_bytes", "gpu", "system", "python", "packages", "threads", "revision"):
        assert key in content
    assert content["packages"]["torch"]
    assert "GOMP_SPINCOUNT" in content["threads"]


def test_code_is_written_once_with_its_local_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"rev-parse": "c0ffee", "diff": "-old\n+new", "ls-files": "mine.py"}
    monkeypatch.setattr(environment, "_git", lambda *arguments: said[arguments[0]])
    path = environment.write_code(tmp_path, "feed0000", "a.B")
    expected = {"code": "feed0000", "target": "a.B", "commit": "c0ffee", "diff": "-old\n+new", "untracked": "mine.py"}
    assert json.loads(path.read_text()) == expected
    said["rev-parse"] = "a later commit with the same code"
    environment.write_code(tmp_path, "feed0000", "a.B")
    assert json.loads(path.read_text()) == expected
