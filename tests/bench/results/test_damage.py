"""One damaged run folder: it is reported with the way out and left out, and all others go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from test_store import RUN_ID, complete

from bench.common.errors import InputError
from bench.results.ledger import Ledger
from bench.results.left_out.damage import damage_lines, damaged
from bench.results.left_out.trash import TRASH, set_aside
from bench.results.status import run_states
from bench.results.store import Store
from bench.results.table import load_results, write_results

OTHER = "other-run"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two complete runs with a curve."""
    store = Store(tmp_path / "results" / "e")
    for run_id in (RUN_ID, OTHER):
        store.ledger.append("planned", run_id)
        final = complete(store, run_id)
        (final / "curve.csv").write_text("epoch,fit_s,train_loss,P@1,repetitions\n1,0.5,1.0,0.5,\n")
        store.ledger.append("finished", run_id)
    write_results(store)
    return store


def edit_record(folder: Path, edit: Callable[[dict[str, object]], object]) -> None:
    path = folder / "record.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


LOST: dict[str, Callable[[Path], object]] = {
    "record cut": lambda f: (f / "record.json").write_text((f / "record.json").read_text()[:100]),
    "record of NULs": lambda f: (f / "record.json").write_bytes(bytes(50)),
    "record of latin1": lambda f: (f / "record.json").write_bytes(b'{"status": "\xe4"}'),
    "record of another version": lambda f: edit_record(f, lambda c: c.update(version=99)),
    "record of another run": lambda f: edit_record(f, lambda c: c.update(run_id="x")),
    "record without rows": lambda f: edit_record(f, lambda c: c.update(rows=[])),
    "record without method": lambda f: edit_record(f, lambda c: c["shared"].pop("method")),  # type: ignore[attr-defined]
    "record with a status of its own": lambda f: edit_record(f, lambda c: c.update(status="fine")),
    "record with P@1 of 7": lambda f: edit_record(f, lambda c: c["rows"][0].update({"P@1": 7})),  # type: ignore[index]
    "record with B of text": lambda f: edit_record(f, lambda c: c["shared"].update(B="many")),  # type: ignore[attr-defined]
    "record gone": lambda f: (f / "record.json").unlink(),
    "spec cut": lambda f: (f / "spec.json").write_text((f / "spec.json").read_text()[:40]),
    "spec of nothing": lambda f: (f / "spec.json").write_text("{}"),
}
KEPT: dict[str, Callable[[Path], object]] = {
    "predictions cut": lambda f: (f / "topk.npz").write_bytes(b"PK\x03\x04 and no more"),
    "curve of junk": lambda f: (f / "curve.csv").write_text("junk\n"),
    "curve of bytes": lambda f: (f / "curve.csv").write_bytes(b"epoch,fit_s,train_loss,P@1,repetitions\n\xff,1,1,1,\n"),
}


@pytest.mark.parametrize("break_it", LOST.values(), ids=LOST)
def test_a_lost_result_is_left_out_and_the_others_go_on(store: Store, break_it: Callable[[Path], object]) -> None:
    break_it(store.runs / RUN_ID)
    assert store.record(RUN_ID) is None  # so the next `run` repeats it
    assert [record.run_id for record in store.records()] == [OTHER]
    assert {run_id: state["state"] for run_id, state in run_states(store).items()} == {
        RUN_ID: "unreadable",
        OTHER: "ok",
    }
    (line, count) = damage_lines(store.root)
    assert str(store.runs / RUN_ID) in line
    assert f"machbench forget e --where run_id={RUN_ID}" in line
    assert count.startswith("1 run is unreadable")
    write_results(store)
    assert {str(run_id).partition("@")[0] for run_id in load_results(store.root)["run_id"]} == {OTHER}


@pytest.mark.parametrize("break_it", KEPT.values(), ids=KEPT)
def test_what_only_some_readers_need_leaves_the_rows(store: Store, break_it: Callable[[Path], object]) -> None:
    before = (store.root / "table.csv").read_bytes()
    break_it(store.runs / RUN_ID)
    (found,) = damaged(store.runs)
    assert (found.run_id, found.lost) == (RUN_ID, False)
    assert run_states(store)[RUN_ID]["state"] == "unreadable"
    assert "its rows stay in the table" in damage_lines(store.root)[0]
    write_results(store)
    assert (store.root / "table.csv").read_bytes() == before
    assert set_aside(store, RUN_ID) is None


def test_the_folder_of_a_run_that_is_repeated_goes_to_the_trash(store: Store) -> None:
    (store.runs / RUN_ID / "record.json").write_text("{")
    found = set_aside(store, RUN_ID)
    assert found is not None
    assert "record.json" in found.reason
    assert set_aside(store, RUN_ID) is None
    assert set_aside(store, OTHER) is None
    (folder,) = (store.root / TRASH).iterdir()
    assert (folder / RUN_ID / "record.json").read_text() == "{"
    assert json.loads((folder / "note.json").read_text())["runs"] == [RUN_ID]
    complete(store)
    assert not list(damaged(store.runs))


def test_many_damaged_runs_are_a_few_lines(store: Store) -> None:
    for number in range(20):
        complete(store, f"more-{number}")
        (store.runs / f"more-{number}" / "record.json").write_text("{")
    assert len(damage_lines(store.root)) == 6
    assert damage_lines(store.root)[-1].startswith("20 runs are unreadable")


def test_lines_of_the_ledger_that_cannot_be_read_are_passed_over_and_named(store: Store) -> None:
    path = store.ledger.path
    lines = path.read_text().splitlines()
    path.write_text("\n".join(["junk", *lines[2:], '{"event": "started", "run_id": ["x"]}', "\0\0", "[]"]) + "\n")
    assert Ledger(path).broken_lines() == [1, 4, 5, 6]
    (line,) = damage_lines(store.root)
    assert str(path) in line
    assert {run_id: state["state"] for run_id, state in run_states(store).items()} == {RUN_ID: "ok", OTHER: "ok"}


def test_odd_values_of_a_failed_run_never_block_the_table(store: Store) -> None:
    """Earlier versions executed runs with settings such as B = 16.5, which failed."""
    odd = {"B": 16.5, "R": -1, "epochs": "many"}
    shared = {"method": "mach", "dataset": "tiny", "seed": 0, "methods.mach.B": 16.5, **odd}
    complete(store, "bad-run", status="crashed", reason="no such B", shared=shared, rows=[{"R": -1}])
    assert store.record("bad-run") is not None
    write_results(store)
    row = load_results(store.root).set_index("run_id").loc["bad-run"]
    assert row["status"] == "crashed"
    assert row[["B", "R", "epochs"]].isna().all()
    assert row["methods.mach.B"] == 16.5
    for words in ("no such B", "column B: found 16.5", "column R: found -1", "column epochs: found 'many'"):
        assert words in row["reason"]


def test_a_table_of_an_earlier_version_with_odd_values_is_read(store: Store) -> None:
    shared = {"method": "m", "dataset": "tiny", "R": 4}
    complete(store, "bad-run", status="crashed", reason="no luck", shared=shared, rows=[{}])
    write_results(store)
    table = store.root / "table.csv"
    header, *lines = table.read_text().splitlines()
    at = header.split(",").index("R")
    edited = [",".join([*cells[:at], "-1", *cells[at + 1 :]]) for line in lines if (cells := line.split(","))]
    with_odd = [e if line.startswith("e,bad-run") else line for line, e in zip(lines, edited, strict=True)]
    table.write_text("\n".join([header, *with_odd]) + "\n")
    row = load_results(table).set_index("run_id").loc["bad-run"]
    assert str(row["R"]) == "<NA>"
    assert "column R: found -1" in row["reason"]
    table.write_text("\n".join([header, *edited]) + "\n")
    with pytest.raises(InputError, match="'-1' in column 'R'"):
        load_results(table)
