from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_records import write_record

from bench.common.code_hash import code_hash
from bench.common.errors import InputError
from bench.config.spec import RunSpec, TrainSettings
from bench.data import load_dataset
from bench.results.left_out.damage import damaged
from bench.results.predictions import RankedLabels
from bench.results.record import described
from bench.results.run_folder import RunFolder
from bench.results.status import run_states
from bench.results.store import Store
from bench.results.table import load_results, write_results

SPEC = RunSpec("mach", "mach.layer.output.MachOutput", {"B": 8, "R": 2}, TrainSettings(), "tiny", {}, 0)
RUN_ID = "mach-tiny-B8-R2-s0-abc123"


def complete(store: Store, run_id: str = RUN_ID, **record: object) -> Path:
    folder = RunFolder.create(store.runs, run_id, SPEC)
    row = {"P@1": 0.5, "params_output": 10}
    content = {"status": "ok", "shared": described(SPEC), "rows": [{"R": 1} | row, {"R": 2, "fit_s": 1.5} | row]}
    write_record(folder, **(content | record))
    return folder.complete()


def test_a_run_is_complete_or_absent(tmp_path: Path) -> None:
    store = Store(tmp_path / "e")
    folder = RunFolder.create(store.runs, RUN_ID, SPEC)
    assert folder.run_id == RUN_ID
    assert folder.spec() == SPEC
    assert list(store.records()) == []
    write_record(folder, status="ok")
    assert store.record(RUN_ID) is None
    final = folder.complete()
    assert final.name == RUN_ID
    assert [r.run_id for r in store.records()] == [RUN_ID]
    assert [p.name for p in store.runs.iterdir()] == [RUN_ID]


def test_a_repeated_run_replaces_the_old_one(tmp_path: Path) -> None:
    store = Store(tmp_path / "e")
    complete(store, reason="first")
    complete(store, reason="second")
    assert store.record(RUN_ID).reason == "second"  # type: ignore[union-attr]
    assert [p.name for p in store.runs.iterdir()] == [RUN_ID]


def test_a_failure_does_not_take_the_place_of_a_success(tmp_path: Path) -> None:
    store = Store(tmp_path / "e")
    complete(store, reason="measured")
    complete(store, status="crashed")
    assert store.record(RUN_ID).reason == "measured"  # type: ignore[union-attr]
    assert [p.name for p in store.runs.iterdir()] == [RUN_ID]
    complete(store, "other-run", status="crashed")
    complete(store, "other-run", status="ok")
    assert store.record("other-run").status == "ok"  # type: ignore[union-attr]


def test_a_replacement_that_was_killed_half_way_is_undone(tmp_path: Path) -> None:
    store = Store(tmp_path / "e")
    complete(store).rename(store.runs / f".{RUN_ID}.77.old")
    RunFolder.create(store.runs, "other-run", SPEC)
    store.sweep_up()
    assert [p.name for p in store.runs.iterdir()] == [RUN_ID]
    assert store.record(RUN_ID) is not None


def test_rows_of_smaller_R_are_marked_derived(tmp_path: Path) -> None:
    store = Store(tmp_path / "e")
    complete(store)
    write_results(store)
    frame = load_results(tmp_path / "e")
    assert frame["run_id"].tolist() == [f"{RUN_ID}@R1", RUN_ID]
    assert frame["derived_from"].isna().tolist() == [False, True]
    assert frame["derived_from"][0] == RUN_ID
    assert frame["R"].tolist() == [1, 2]
    assert frame["fit_s"].isna().tolist() == [True, False]
    assert frame["experiment"].unique().tolist() == ["e"]


def test_a_start_without_an_end_is_an_interrupted_run(tmp_path: Path) -> None:
    store = Store(tmp_path / "e")
    complete(store, "done-run")
    store.ledger.append("planned", RUN_ID)
    store.ledger.append("started", RUN_ID, pid=2**22 + 1, attempt="a", shared=described(SPEC))
    assert run_states(store)[RUN_ID]["state"] == "interrupted"
    assert store.sweep_up() == [RUN_ID]
    assert [e["event"] for e in store.ledger.events()] == ["planned", "started", "interrupted"]
    write_results(store)
    frame = load_results(tmp_path / "e").set_index("run_id")
    assert frame.loc[RUN_ID, "status"] == "interrupted"
    assert frame.loc[RUN_ID, "B"] == 8
    assert store.sweep_up() == []


def test_killed_between_rename_and_ledger_is_finished(tmp_path: Path) -> None:
    store = Store(tmp_path / "e")
    store.ledger.append("started", RUN_ID, pid=1, attempt="a")
    complete(store, attempt="a")
    assert store.sweep_up() == []
    assert [e["event"] for e in store.ledger.events()] == ["started", "finished"]


def test_a_torn_ledger_line_costs_only_itself(tmp_path: Path) -> None:
    store = Store(tmp_path / "e")
    store.ledger.append("planned", "a")
    with store.ledger.path.open("a") as handle:
        handle.write('{"event": "star')
    store.ledger.append("planned", "b")
    assert [e["run_id"] for e in store.ledger.events()] == ["a", "b"]


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 99, "status": "ok"}', '{"version": 1}'])
def test_a_record_that_cannot_be_read_is_named_and_the_others_go_on(tmp_path: Path, text: str) -> None:
    store = Store(tmp_path / "e")
    (complete(store) / "record.json").write_text(text)
    complete(store, "other-run")
    assert store.record(RUN_ID) is None
    assert [record.run_id for record in store.records()] == ["other-run"]
    (found,) = damaged(store.runs)
    assert (found.run_id, found.lost) == (RUN_ID, True)
    assert "record.json" in found.reason


def test_only_one_process_works_on_an_experiment(tmp_path: Path) -> None:
    store = Store(tmp_path / "e")
    with store.lock(), pytest.raises(InputError, match="another machbench"), Store(tmp_path / "e").lock():
        pass


def test_predictions_and_curve_are_kept(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, RUN_ID, SPEC)
    ranks = [np.arange(6, dtype=np.int32).reshape(3, 2) + at for at in range(2)]
    folder.write_predictions([RankedLabels(R, ranks[R - 1].astype(np.float32), ranks[R - 1]) for R in (1, 2)])
    with np.load(folder.path / "topk.npz", allow_pickle=False) as kept:
        assert kept["R"].tolist() == [1, 2]
        np.testing.assert_array_equal(kept["labels"], np.stack(ranks))
        assert kept["scores"].dtype == np.float32
    folder.write_curve([{"epoch": 1, "fit_s": 0.5}, {"epoch": 2, "fit_s": 1.0}])
    assert (folder.path / "curve.csv").read_text() == "epoch,fit_s\n1,0.5\n2,1.0\n"
    assert json.loads((folder.path / "spec.json").read_text())["method"] == "mach"


def test_a_curve_has_the_columns_of_all_its_epochs(tmp_path: Path) -> None:
    """Validation may come every few epochs only, and the first epoch may have none."""
    folder = RunFolder.create(tmp_path, RUN_ID, SPEC)
    folder.write_curve([{"epoch": 1, "train_loss": 3.0}, {"epoch": 2, "train_loss": 2.0, "P@1": 0.5}])
    assert (folder.path / "curve.csv").read_text() == "epoch,train_loss,P@1\n1,3.0,\n2,2.0,0.5\n"


def ask(store: Store, run_id: str, code: str, seed: int = 0, data: str = "f00d", **record: Any) -> None:
    """A run as it is planned and ends: its spec, the data, and the hash of the code that answered."""
    store.ledger.append("planned", run_id)
    spec = replace(SPEC, seed=seed)
    folder = RunFolder.create(store.runs, run_id, spec, code, spec.question(data))
    shared = described(spec) | {"data_fingerprint": data}
    write_record(folder, **({"status": "ok", "shared": shared, "rows": [{"R": 2}]} | record))
    folder.complete()
    store.ledger.append("finished", run_id)


def table_of(store: Store) -> dict[str, object]:
    write_results(store)
    frame = load_results(store.root)
    return dict(zip(frame["run_id"], frame["code"], strict=True))


def test_an_answer_of_newer_code_takes_the_row_of_the_older(tmp_path: Path) -> None:
    store = Store(tmp_path / "e")
    ask(store, "old", "c0de00001111", reason="measured")
    ask(store, "else", "c0de00001111", seed=1)
    assert table_of(store) == {"old": "c0de0000", "else": "c0de0000"}
    ask(store, "new", "feed00001111", status="interrupted")
    assert set(table_of(store)) == {"old", "else", "new"}  # no answer yet
    ask(store, "new", "feed00001111", status="crashed")
    assert table_of(store) == {"else": "c0de0000", "new": "feed0000"}  # a failure is an answer
    store.ledger.append("skipped", "old", reason="already ok")  # the code was changed back, and asked once more
    assert table_of(store) == {"old": "c0de0000", "else": "c0de0000"}


def test_results_that_do_not_say_their_code_are_recognised_by_spec_and_data(tmp_path: Path) -> None:
    store = Store(tmp_path / "e")
    store.ledger.append("planned", "old")
    complete(store, "old", shared=described(SPEC) | {"data_fingerprint": "f00d"})
    ask(store, "new", "feed00001111")
    assert set(table_of(store)) == {"new"}


def test_an_answer_on_newer_data_takes_the_row_and_names_what_it_replaced(tmp_path: Path) -> None:
    store = Store(tmp_path / "e")
    ask(store, "old", "c0de00001111", data="f00d")
    ask(store, "new", "c0de00001111", data="beef")
    (row,) = store.rows()
    assert (row["run_id"], row["replaces"], row["replaced_because"]) == ("new", "old", "data f00d → beef")
    ask(store, "both", "feed00001111", data="cafe")
    (row,) = store.rows()
    assert (row["run_id"], row["replaces"]) == ("both", "new")
    assert row["replaced_because"] == "data beef → cafe, other code"
    states = run_states(store)
    assert states["old"] == {"state": "replaced", "reason": "ok, by both: data f00d → cafe, other code"}
    store.ledger.append("planned", "old")  # the data are back
    assert [row["run_id"] for row in store.rows()] == ["old"]


def test_a_killed_run_leaves_the_table_when_newer_code_answers(tmp_path: Path) -> None:
    store = Store(tmp_path / "e")
    started = {"pid": 1, "attempt": "a", "shared": described(SPEC)}
    store.ledger.append("started", "killed", **started, asked=SPEC.question("f00d"))  # as by an earlier version
    store.ledger.append("started", "killed on other data", **started, asked="?", request=SPEC.request())
    assert store.sweep_up() == ["killed", "killed on other data"]
    write_results(store)
    assert load_results(store.root)["status"].tolist() == ["interrupted", "interrupted"]
    ask(store, "new", "feed00001111")
    assert set(table_of(store)) == {"new"}


def test_status_says_which_results_other_code_made(tmp_path: Path) -> None:
    store, now = Store(tmp_path / "e"), code_hash(SPEC.target)
    ask(store, "fresh", now, data=load_dataset("tiny").fingerprint)
    ask(store, "old", "c0de00001111", seed=1)
    ask(store, "old failure", "c0de00001111", seed=2, status="crashed", reason="no luck")
    states = run_states(store)
    assert states["fresh"]["state"] == "ok"
    assert states["old"] == {"state": "stale", "reason": "ok, made by other code"}
    assert states["old failure"] == {"state": "stale", "reason": "crashed, made by other code; no luck"}


def test_a_run_killed_between_its_record_and_the_rename_is_finished(tmp_path: Path) -> None:
    """Its attempt is the last that was started; an earlier one's record is dropped."""
    store = Store(tmp_path / "e")
    for run_id, attempt in (("this", "a"), ("earlier", "z")):
        store.ledger.append("started", run_id, pid=1, attempt="a", shared=described(SPEC))
        folder = RunFolder.create(store.runs, run_id, SPEC)
        write_record(folder, status="ok", shared=described(SPEC), attempt=attempt)
    assert store.sweep_up() == ["earlier"]
    assert [path.name for path in store.runs.iterdir()] == ["this"]
    assert [(e["event"], e["run_id"]) for e in store.ledger.events()][2:] == [
        ("interrupted", "earlier"),
        ("finished", "this"),
    ]


def test_a_failure_that_the_ledger_missed_is_one(tmp_path: Path) -> None:
    store = Store(tmp_path / "e")
    for run_id, status in (("a", "crashed"), ("b", "interrupted")):
        store.ledger.append("started", run_id, pid=1, attempt="x")
        complete(store, run_id, attempt="x", status=status)
    assert store.sweep_up() == ["b"]
    assert [(e["event"], e["run_id"]) for e in store.ledger.events()][2:] == [("failed", "a"), ("interrupted", "b")]


def test_only_checkpoints_of_runs_with_a_result_are_dropped(tmp_path: Path) -> None:
    store = Store(tmp_path / "e")
    complete(store, "done-run")
    complete(store, "killed-run", status="interrupted")
    complete(store, "slow-run", status="timeout")
    for run_id in ("done-run", "killed-run", "slow-run", "no-record"):
        (store.root / ".checkpoints" / run_id).mkdir(parents=True)
        (store.root / ".checkpoints" / run_id / "weights").write_text("x")
    (store.root / ".table.csv.77-ab.tmp").write_text("half")
    store.sweep_up()
    assert sorted(p.name for p in (store.root / ".checkpoints").iterdir()) == ["killed-run", "no-record", "slow-run"]
    assert not list(store.root.glob("*.tmp"))
    assert not list(store.root.glob(".*.tmp"))
