"""Runs that are withdrawn: out of the table, still on disk, and back again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from test_store import RUN_ID, complete

from bench.__main__ import main
from bench.common.errors import InputError
from bench.results.left_out.quarantine import lift, quarantine
from bench.results.status import run_states
from bench.results.store import Store
from bench.results.table import load_results, write_results


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two complete runs of two rows each."""
    store = Store(tmp_path / "results" / "e")
    for run_id in (RUN_ID, "other-run"):
        store.ledger.append("started", run_id, pid=1)
        complete(store, run_id)
        store.ledger.append("finished", run_id)
    write_results(store)
    return store


def machbench(monkeypatch: pytest.MonkeyPatch, store: Store, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["machbench", *arguments, "--results", str(store.root.parent)])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def runs_of(store: Store) -> set[str]:
    return {str(run_id).partition("@")[0] for run_id in load_results(store.root)["run_id"]}


def test_a_withdrawn_run_leaves_the_table_with_its_derived_rows_and_comes_back(store: Store) -> None:
    before = (store.root / "table.csv").read_bytes()
    quarantine(store, RUN_ID, "the machine was measured while it was busy")
    write_results(store)
    assert runs_of(store) == {"other-run"}
    assert store.record(RUN_ID) is not None
    assert run_states(store)[RUN_ID] == {"state": "quarantined", "reason": "the machine was measured while it was busy"}
    lift(store, RUN_ID, "it was not")
    write_results(store)
    assert (store.root / "table.csv").read_bytes() == before
    assert run_states(store)[RUN_ID]["state"] == "ok"
    marks = [(e["event"], e["reason"]) for e in store.ledger.events() if "quarantine" in e["event"]]
    assert marks == [
        ("quarantined", "the machine was measured while it was busy"),
        ("quarantine_lifted", "it was not"),
    ]


def test_a_repeated_run_is_a_new_result(store: Store) -> None:
    quarantine(store, RUN_ID, "wrong")
    complete(store, RUN_ID, status="crashed")  # a failure does not take the place of the success, withdrawn or not
    assert store.quarantined(RUN_ID) == "wrong"
    complete(store, RUN_ID)
    assert store.quarantined(RUN_ID) is None


def test_what_cannot_be_withdrawn_is_said(store: Store) -> None:
    with pytest.raises(InputError, match="did you mean 'other-run'"):
        quarantine(store, "other-rum", "wrong")
    with pytest.raises(InputError, match="expected its run, " + RUN_ID):
        quarantine(store, f"{RUN_ID}@R1", "wrong")
    with pytest.raises(InputError, match="--reason"):
        quarantine(store, RUN_ID, "  ")
    with pytest.raises(InputError, match="no quarantine to lift"):
        lift(store, RUN_ID, "")
    quarantine(store, RUN_ID, "wrong")
    with pytest.raises(InputError, match=r"already in quarantine \(wrong\)"):
        quarantine(store, RUN_ID, "again")
    (store.runs / RUN_ID / "quarantine.json").write_text("{")
    write_results(store)
    assert runs_of(store) == {"other-run"}  # with a mark that cannot be read it stays withdrawn
    assert run_states(store)[RUN_ID]["state"] == "unreadable"
    lift(store, RUN_ID, "the mark was broken")
    write_results(store)
    assert runs_of(store) == {RUN_ID, "other-run"}


@pytest.mark.filterwarnings("ignore:No artists")  # a run without sizes has a figure without curves
def test_the_command_writes_table_figures_and_report_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machbench(monkeypatch, store, "quarantine", "e", RUN_ID, "--reason", "wrong") == 0
    assert machbench(monkeypatch, store, "quarantine", "e", "other-run", "--reason", "wrong") == 0
    assert len(load_results(store.root)) == 0  # and an empty table can be read and drawn
    assert machbench(monkeypatch, store, "quarantine", "e", RUN_ID, "--lift") == 0
    assert runs_of(store) == {RUN_ID}
    assert RUN_ID in (store.root / "table.csv").read_text()
    assert machbench(monkeypatch, store, "quarantine", "e", RUN_ID) == 2  # no reason
    with store.lock():
        assert machbench(monkeypatch, store, "quarantine", "e", RUN_ID, "--reason", "wrong") == 2
