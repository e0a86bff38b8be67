"""Rows that are chosen for tables, figures and report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.common.errors import InputError
from bench.config.conditions import read_conditions
from bench.config.experiment import load_experiment
from bench.plan.in_file import runs_in_file
from bench.report.html import write_report
from bench.report.selection import Selection, read_rows, readable_rows
from bench.results.run_folder import RunFolder
from bench.results.store import Store

Rows = list[dict[str, Any]]


def test_rows_are_chosen_by_their_values(tmp_path: Path, rows: Rows, write: Callable[[Path, Rows], Path]) -> None:
    folder = write(tmp_path, rows)
    whole = read_rows(folder)
    some = read_rows(folder, selection=Selection(read_conditions(["method=mach", "B=256,1024"])))
    assert set(some["method"]) == {"mach"}
    assert set(some["B"]) == {256, 1024}
    assert 0 < len(some) < len(whole)
    selection = Selection(read_conditions(["method=mach"]), options="--where method=mach")
    left = len(whole) - len(selection.of(whole))
    assert selection.words(whole).endswith(f"--where method=mach; {left} left out")
    with pytest.raises(InputError, match="did you mean 'method'"):
        read_rows(folder, selection=Selection(read_conditions(["metod=mach"])))
    with pytest.raises(InputError, match="found none of"):
        read_rows(folder, selection=Selection(read_conditions(["method=mahc"])))


def test_the_report_of_a_selection_leaves_the_other_alone(
    tmp_path: Path, rows: Rows, write: Callable[[Path, Rows], Path]
) -> None:
    folder = write(tmp_path, rows)
    whole = write_report(folder).read_bytes()
    selection = Selection(read_conditions(["method=mach"]), options="--where method=mach")
    path = write_report(folder, selection=selection)
    assert path == folder / "selected" / "report.html"
    assert (folder / "report.html").read_bytes() == whole
    assert "A selection: " in path.read_text()
    assert "machbench report synthetic --where method=mach" in path.read_text()


def test_rows_of_damaged_runs_are_left_out_of_the_table_on_disk(
    tmp_path: Path, rows: Rows, write: Callable[[Path, Rows], Path]
) -> None:
    folder = write(tmp_path, rows)
    run_id = next(row["run_id"] for row in rows if row["method"] == "full_softmax")
    (folder / "runs" / run_id).mkdir(parents=True, exist_ok=True)
    (folder / "runs" / run_id / "record.json").write_text("{")
    found = readable_rows(folder)
    assert run_id not in set(found["run_id"])
    assert len(found) == len(rows) - 1
    assert "1 run is unreadable" in write_report(folder).read_text()


def test_the_runs_that_a_file_asks_for(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text("dataset: tiny\nmethods: {mach: {B: [16, 1e3], R: 2}, label_frequency: {}}\n")
    experiment, store = load_experiment(str(path)), Store(tmp_path / "results" / "small")
    made = load_experiment(str(path), ["methods.mach.B=16,1000,64"])
    for number, spec in enumerate(made.runs):
        RunFolder.create(store.runs, f"run-{number}", spec, code=f"code{number}").path.rename(
            store.runs / f"run-{number}"
        )
    foreign = RunFolder.create_foreign(store.runs, "foreign", {"method": "x", "dataset": "tiny", "file": "f"})
    foreign.path.rename(store.runs / "foreign")
    found = runs_in_file(experiment, store)
    numbers = {f"run-{n}" for n, spec in enumerate(made.runs) if spec.settings.get("B") != 64}
    assert {run_id for run_id in found if (store.runs / run_id).is_dir()} == numbers
    assert len(numbers) == 3
