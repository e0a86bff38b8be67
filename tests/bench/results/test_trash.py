"""Runs that are forgotten: out of the results, in the trash, and back again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from test_store import RUN_ID, SPEC, complete

from bench.__main__ import main
from bench.common.errors import InputError
from bench.config.conditions import read_conditions
from bench.results.kept_inputs import check_source, keep_source, kept_source
from bench.results.left_out.trash import TRASH, choose, forget, restore
from bench.results.record import described
from bench.results.run_folder import CHECKPOINTS
from bench.results.status import run_states
from bench.results.store import Store
from bench.results.table import load_results, write_results


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two complete runs, one of 2 epochs, and one that was planned and never ran."""
    store = Store(tmp_path / "results" / "e")
    for run_id, more in ((RUN_ID, {}), ("other-run", {"shared": described(SPEC) | {"epochs": 2}})):
        store.ledger.append("started", run_id, pid=1)
        complete(store, run_id, **more)  # type: ignore[arg-type]
        store.ledger.append("finished", run_id, status="ok")
    store.ledger.append("planned", "typo")
    write_results(store)
    return store


def runs_of(store: Store) -> set[str]:
    write_results(store)
    return {str(run_id).partition("@")[0] for run_id in load_results(store.root)["run_id"]}


def test_a_run_is_forgotten_and_comes_back(store: Store) -> None:
    before = (store.root / "table.csv").read_bytes()
    (store.root / CHECKPOINTS / "other-run").mkdir(parents=True)
    chosen = choose(store, read_conditions(["epochs=2,7"]))
    assert chosen == ["other-run"]
    folder = forget(store, chosen, "two epochs")
    assert runs_of(store) == {RUN_ID}
    assert set(run_states(store)) == {RUN_ID, "typo"}
    assert (folder / "other-run" / "record.json").is_file()
    assert folder.parent == store.root / TRASH
    assert not (store.root / CHECKPOINTS / "other-run").exists()
    assert restore(store, []) == ["other-run"]
    write_results(store)
    assert (store.root / "table.csv").read_bytes() == before
    assert run_states(store)["other-run"]["state"] == "ok"
    assert (store.root / CHECKPOINTS / "other-run").is_dir()
    with pytest.raises(InputError, match="none of 0 forgotten runs"):
        restore(store, [])


def test_a_run_that_never_ran_leaves_the_status(store: Store) -> None:
    assert run_states(store)["typo"]["state"] == "planned"
    forget(store, choose(store, read_conditions(["status=planned"])), "a typo")
    assert "typo" not in run_states(store)
    store.ledger.append("planned", "typo")
    assert run_states(store)["typo"]["state"] == "planned"


def test_a_damaged_run_can_be_forgotten(store: Store) -> None:
    (store.runs / RUN_ID / "record.json").write_text("{")
    forget(store, choose(store, read_conditions([f"run_id={RUN_ID}", "status=unreadable"])), "broken")
    assert set(run_states(store)) == {"other-run", "typo"}


def test_restore_takes_the_last_or_what_is_chosen(store: Store) -> None:
    forget(store, [RUN_ID], "first")
    forget(store, ["other-run"], "second")
    assert restore(store, read_conditions(["epochs=5"])) == [RUN_ID]
    assert restore(store, []) == ["other-run"]
    forget(store, [RUN_ID], "third")
    complete(store)  # it was run again
    with pytest.raises(InputError, match="newer result"):
        restore(store, [])


def test_what_cannot_be_forgotten_is_said(store: Store) -> None:
    with pytest.raises(InputError, match="did you mean 'epochs'"):
        choose(store, read_conditions(["epoch=2"]))
    with pytest.raises(InputError, match="none of its 3 runs"):
        choose(store, read_conditions(["epochs=9"]))
    with store.run_lock(RUN_ID), pytest.raises(InputError, match="found a process that executes it"):
        choose(store, [])


def machbench(monkeypatch: pytest.MonkeyPatch, store: Store, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["machbench", *arguments, "--results", str(store.root.parent)])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


@pytest.mark.filterwarnings("ignore:No artists")  # a run without sizes has a figure without curves
def test_the_command_forgets_and_restores(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert machbench(monkeypatch, store, "forget", "e") == 2  # nothing chosen
    assert "expected --where key=value, --not-in-yaml or --all" in capsys.readouterr().err
    assert machbench(monkeypatch, store, "forget", "e", "--restore", "--all") == 2
    assert machbench(monkeypatch, store, "forget", "e", "--where", "epochs=2", "--where", "status=ok") == 0
    assert "other-run" in capsys.readouterr().out
    assert "other-run" not in (store.root / "report.html").read_text()
    assert machbench(monkeypatch, store, "forget", "e", "--restore") == 0
    assert runs_of(store) == {RUN_ID, "other-run"}
    assert machbench(monkeypatch, store, "table", "e", "--where", "run_id=nope") == 2


def test_an_experiment_of_another_file_does_not_share_its_results(tmp_path: Path) -> None:
    folder, first, second = tmp_path / "results" / "two", tmp_path / "two.yaml", tmp_path / "other" / "two.yaml"
    second.parent.mkdir()
    first.write_text("dataset: tiny\n")
    second.write_text("dataset: moby\n")
    assert kept_source(folder) is None
    assert keep_source(first, folder) == ""
    assert kept_source(folder) == first
    with pytest.raises(InputError, match="two experiments have one name") as caught:
        check_source(second, folder)
    assert str(first) in str(caught.value)
    assert str(second) in str(caught.value)
    first.write_text("dataset: tiny\nseeds: 1\n")  # changed in place
    assert keep_source(first, folder) == ""
    second.write_text(first.read_text())  # a copy
    assert keep_source(second, folder) == ""
    second.write_text("dataset: wordnet\n")
    second.rename(tmp_path / "moved.yaml")  # changed and moved: there is nothing to confuse it with
    assert "is gone" in keep_source(tmp_path / "moved.yaml", folder)
    (folder / "source.json").write_text("{")
    assert keep_source(first, folder) == ""
