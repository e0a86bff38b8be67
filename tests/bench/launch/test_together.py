"""Several processes on one results folder: they share the runs, wait for each other and end with one table."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from command_line import machbench, wait_for
from made_records import write_record
from rich.console import Console
from sweep import N, executions, kill, start, untimed, write_sweep

from bench.common.code_hash import code_hash
from bench.common.errors import InputError
from bench.common.locks import held, hold
from bench.config.experiment import Experiment
from bench.config.spec import RunSpec, TrainSettings
from bench.launch import experiment_runner
from bench.launch.progress import Progress
from bench.plan.plan import PlannedRun
from bench.results.ledger import Ledger
from bench.results.record import described
from bench.results.run_folder import RunFolder
from bench.results.store import Store

HOLDER = "import sys, time\nfrom pathlib import Path\nfrom bench.common.locks import hold\n"
HOLDER += "with hold(Path(sys.argv[1])) as mine:\n    print(mine is not None, flush=True)\n    time.sleep(600)\n"


def in_another_process(path: Path) -> subprocess.Popen[str]:
    """A process that holds the lock until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    return process


def test_a_lock_is_free_as_soon_as_its_holder_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "lock"
    assert not held(path)
    assert not path.exists()  # looking at it makes no file
    process = in_another_process(path)
    with hold(path) as mine:
        assert mine is None
    assert held(path)
    kill(process.pid)
    process.wait()
    assert not held(path)
    with hold(path) as mine:
        assert mine is not None


def test_a_process_that_inherits_a_lock_holds_it(tmp_path: Path) -> None:
    """No other process executes a run while its process lives, though its launcher is dead."""
    with hold(tmp_path / "lock") as mine:
        assert mine is not None
        child = subprocess.Popen(["sleep", "600"], pass_fds=(mine,))
    assert held(tmp_path / "lock")
    kill(child.pid)
    child.wait()
    assert not held(tmp_path / "lock")


def test_a_shared_lock_excludes_only_an_exclusive_one(tmp_path: Path) -> None:
    store, other = Store(tmp_path / "e"), Store(tmp_path / "e")
    with store.lock(shared=True):
        with other.lock(shared=True):
            pass
        with pytest.raises(InputError, match="is running this experiment"), other.lock():
            pass
    with store.lock(), pytest.raises(InputError, match="is rewriting results"), other.lock(shared=True):
        pass


def test_sweeping_up_leaves_runs_whose_process_lives(tmp_path: Path) -> None:
    store, spec = Store(tmp_path / "e"), RunSpec("mach", "a.B", {}, TrainSettings(), "tiny", {}, 0)
    for run_id in ("alive", "dead"):
        RunFolder.create(store.runs, run_id, spec)
        store.ledger.append("started", run_id, pid=1, attempt=run_id, shared=described(spec))
        (store.root / ".checkpoints" / run_id).mkdir(parents=True)
    process = in_another_process(store.root / ".locks" / "alive")
    try:
        assert store.sweep_up() == ["dead"]
        assert [RunFolder(path).run_id for path in store.runs.iterdir()] == ["alive"]
        assert set(store.ledger.open_starts()) == {"alive"}
        assert {path.name for path in (store.root / ".checkpoints").iterdir()} == {"alive", "dead"}
    finally:
        kill(process.pid)
        process.wait()
    assert store.sweep_up() == ["alive"]
    assert list(store.runs.iterdir()) == []


def test_lines_of_many_writers_are_whole(tmp_path: Path) -> None:
    code = "import sys\nfrom pathlib import Path\nfrom bench.results.ledger import Ledger\n"
    code += "[Ledger(Path(sys.argv[1])).append('planned', sys.argv[2], at=i, long='x' * 9000) for i in range(60)]"
    path = tmp_path / "ledger.jsonl"
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in "abc"]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert len(path.read_text().splitlines()) == 180
    events = list(Ledger(path).events())
    for name in "abc":
        assert [e["at"] for e in events if e["run_id"] == name] == list(range(60))


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Store, PlannedRun]]:
    """A plan of one run, whose execution is made up: it completes, and is counted in ``executed``."""
    target = "baselines.label_frequency.LabelFrequency"
    spec = RunSpec("made_up", target, {}, TrainSettings(), "tiny", {}, 0)
    store = Store(tmp_path / "results" / "e")

    def execute(run: PlannedRun, store: Store, *_: Any, status: str = "ok") -> str:
        (tmp_path / "executed").open("a").write("x")
        folder = RunFolder.create(store.runs, run.run_id, run.spec)
        write_record(folder, status=status, shared=described(run.spec), attempt="other")
        folder.complete()
        store.ledger.append("finished" if status == "ok" else "failed", run.run_id)
        return status

    monkeypatch.setattr(experiment_runner, "run_one", execute)
    return lambda: (store, PlannedRun("run", spec, None, code_hash(target)))


def launch(run: PlannedRun, store: Store, force: bool = False) -> dict[str, str | None]:
    done = store.ledger.times_done()
    return experiment_runner.run_locally([run], done, context_of(store, force), quiet())


def context_of(store: Store, force: bool) -> experiment_runner.LaunchContext:
    return experiment_runner.LaunchContext(store, Experiment("e", "", (), None, {}), force, skip_unfit=False)


def quiet() -> Progress:
    return Progress(Console(file=io.StringIO()))


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("status", ["ok", "crashed"])
def test_a_run_that_another_process_executed_since_the_plan_is_not_executed_again(
    planned: Callable[..., tuple[Store, PlannedRun]], tmp_path: Path, status: str, force: bool
) -> None:
    store, run = planned()
    before = store.ledger.times_done()
    experiment_runner.run_one(run, store, status=status)  # type: ignore[call-arg]
    assert experiment_runner.run_locally([run], before, context_of(store, force), quiet()) == {"run": status}
    assert (tmp_path / "executed").read_text() == "x"
    assert launch(run, store, force) == {"run": "ok"}  # a later plan executes it again
    assert (tmp_path / "executed").read_text() == "xx"


def test_code_edited_after_the_plan_is_not_executed_under_its_id(
    planned: Callable[..., tuple[Store, PlannedRun]], tmp_path: Path
) -> None:
    store, run = planned()
    edited = PlannedRun(run.run_id, run.spec, None, "hash of the code before")
    assert launch(edited, store) == {"run": None}
    assert not (tmp_path / "executed").exists()


@pytest.mark.slow
@pytest.mark.soak
def test_two_commands_share_the_runs(tmp_path: Path) -> None:
    write_sweep(tmp_path / "alone")
    machbench("run", "small.yaml", cwd=tmp_path / "alone")
    both = tmp_path / "both"
    write_sweep(both)
    commands = [start(both), start(both)]
    assert [command.wait(timeout=300) for command in commands] == [0, 0]
    assert executions(both) == dict.fromkeys(range(N), 1)
    events = [(e["event"], e["run_id"]) for e in Ledger(both / "results" / "small" / "ledger.jsonl").events()]
    assert sorted(run for event, run in events if event == "started") == sorted(
        run for event, run in events if event == "finished"
    )
    output = (both / "output.txt").read_text()
    assert "executed by another machbench" in output
    columns = untimed(tmp_path / "alone").columns
    by_run = [
        untimed(folder)[columns].sort_values("run_id", ignore_index=True) for folder in (tmp_path / "alone", both)
    ]
    pd.testing.assert_frame_equal(*by_run)
    assert "6 ok" in machbench("status", "small", cwd=both).stdout


@pytest.mark.slow
def test_a_waiting_command_executes_the_run_of_a_killed_one(tmp_path: Path) -> None:
    write_sweep(tmp_path / "e", "dataset: tiny\nmethods:\n  quick: {method: quick.yaml, seconds: 600}\n")
    folder = tmp_path / "e"
    first = start(folder)
    wait_for(folder, "started", "quick")
    (folder / "output.txt").write_text("")
    second = start(folder)
    deadline = time.monotonic() + 60
    while "waiting for runs" not in (folder / "output.txt").read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "1 running" in machbench("status", "small", cwd=folder).stdout
    kill(first.pid)
    first.wait()
    started = Ledger(folder / "results" / "small" / "ledger.jsonl")
    while sum(e["event"] == "started" for e in started.events()) < 2 and time.monotonic() < deadline + 60:
        time.sleep(0.05)
    second.send_signal(2)
    assert second.wait(timeout=60) == 130
    events = [e["event"] for e in started.events()]
    assert events.count("started") == 2
    assert events[-2:] == ["started", "interrupted"]
