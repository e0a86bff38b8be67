"""Which runs a command repeats, what it says of stale results, and what its process does without."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from sweep import executions, write_sweep
from test_run import environment, machbench, results

from bench.columns import STATUS_WORDS
from bench.launch import RETRY, _choose
from bench.plan import PlannedRun
from bench.progress import Progress
from bench.quarantine import quarantine
from bench.spec import RunSpec, TrainSettings
from bench.store import RunFolder, Store, described

SPEC = RunSpec("quick", "a.B", {}, TrainSettings(), "tiny", {}, 0)
ALWAYS = {"new", "interrupted"}


@pytest.mark.parametrize(
    ("retry", "expected"),
    [
        (None, set()),
        ("oom", {"oom_host", "oom_device"}),
        ("timeout", {"timeout"}),
        ("failed", {"crashed", "diverged"}),
        ("all", {"oom_host", "oom_device", "timeout", "crashed", "diverged", "unsupported"}),
    ],
)
def test_retry_repeats_failures_of_its_kind(tmp_path: Path, retry: str | None, expected: set[str]) -> None:
    assert chosen(tmp_path, RETRY[retry] if retry else set(), force=False) == ALWAYS | expected


def test_force_repeats_everything_also_what_is_withdrawn(tmp_path: Path) -> None:
    statuses = set(STATUS_WORDS) - {"skipped_by_plan"}
    assert chosen(tmp_path, set(), force=True) == statuses | {"new", "withdrawn"}


def chosen(folder: Path, again: set[str], force: bool) -> set[str]:
    """The runs to do of one of every status, one in quarantine and a new one."""
    store = Store(folder / "e")
    runs = [PlannedRun("new", SPEC, None)]
    for name in [*STATUS_WORDS, "withdrawn"]:
        if name == "skipped_by_plan":  # has no folder: nothing was executed
            continue
        status = "crashed" if name == "withdrawn" else name
        made = RunFolder.create(store.runs, name, SPEC)
        made.write_record({"status": status, "shared": described(SPEC), "rows": [{}]})
        made.complete()
        runs.append(PlannedRun(name, SPEC, status))
    quarantine(store, "withdrawn", "wrong")
    todo = {run.run_id for run in _choose(runs, store, Progress(Console(file=io.StringIO())), again, force)}
    told = {e["run_id"]: e["event"] for e in store.ledger.events() if e["event"] in ("planned", "skipped")}
    assert told == {run.run_id: "planned" if run.run_id in todo else "skipped" for run in runs}
    return todo


@pytest.mark.slow
def test_a_failed_run_is_repeated_when_asked_for(tmp_path: Path) -> None:
    write_sweep(tmp_path / "e", "dataset: tiny\nmethods:\n  quick: {method: quick.yaml, which: [0, 1], fail: bad}\n")
    folder = tmp_path / "e"
    (folder / "bad").touch()
    machbench("run", "small.yaml", cwd=folder, check=1)
    (folder / "bad").unlink()
    for more in ([], ["--retry", "oom"], ["--retry", "timeout"]):
        assert ", 0 to do" in machbench("run", "small.yaml", *more, cwd=folder, check=1).stdout
    assert "2 to do" in machbench("run", "small.yaml", "--retry", "failed", cwd=folder).stdout
    assert ", 0 to do" in machbench("run", "small.yaml", "--retry", "all", cwd=folder).stdout
    assert executions(folder) == {0: 1, 1: 1}
    assert "2 to do" in machbench("run", "small.yaml", "--force", cwd=folder).stdout
    assert executions(folder) == {0: 2, 1: 2}
    (folder / "bad").touch()
    machbench("run", "small.yaml", "--force", cwd=folder, check=1)  # the failures are told, but the results stay
    assert results(folder)["status"].tolist() == ["ok", "ok"]


@pytest.mark.slow
def test_edited_code_is_stale_and_runs_again(tmp_path: Path) -> None:
    folder = tmp_path / "e"
    write_sweep(folder, "dataset: tiny\nmethods:\n  quick: {method: quick.yaml, which: [0, 1]}\n")
    machbench("run", "small.yaml", cwd=folder)
    before = results(folder)
    assert [path.stem for path in (folder / "results" / "code").iterdir()] == before["code"].unique().tolist()
    (folder / "mine.py").write_text((folder / "mine.py").read_text() + "\n# edited\n")

    assert "2 stale" in machbench("status", "small", cwd=folder).stdout
    plan = machbench("plan", "small.yaml", cwd=folder).stdout
    assert plan.count("stale") == 2
    assert f"{before['run_id'][1]} was made by other code" in plan
    assert "0 cached" in plan

    done = machbench("run", "small.yaml", "methods.quick.which=0", cwd=folder)
    assert f"{before['run_id'][0]} is stale, made by other code" in done.stdout
    assert executions(folder) == {0: 2, 1: 1}
    table = results(folder)
    assert table["run_id"].tolist()[0] == before["run_id"][1]  # without a replacement, told apart by its code
    assert table["code"].nunique() == 2
    assert "2 stale" in machbench("status", "small", cwd=folder).stdout
    assert len(list((folder / "results" / "small" / "runs").iterdir())) == 3  # nothing is removed


@pytest.mark.slow
def test_the_launching_process_takes_neither_torch_nor_data(tmp_path: Path) -> None:
    """From the first line to the written report."""
    write_sweep(tmp_path / "e", "dataset: tiny\nmethods:\n  quick: {method: quick.yaml}\n")
    code = """
import sys
from bench.__main__ import main
sys.argv = ["machbench", "run", "small.yaml"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
heavy = ("torch", "numba", "scipy", "matplotlib", "bench.data", "bench.execute", "mine")
sys.exit(str([name for name in heavy if name in sys.modules] or ""))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "e", env=environment(), capture_output=True, text=True, timeout=600
    )
    assert done.stderr.strip() == ""
    assert (tmp_path / "e" / "results" / "small" / "report.html").is_file()
