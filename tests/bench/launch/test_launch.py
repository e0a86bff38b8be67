"""Which runs a command repeats, what it reports about stale results, and what its process does not load."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import environment, machbench, results, write_experiment
from made_records import write_record
from rich.console import Console
from sweep import executions, write_sweep

from bench.columns import STATUS_WORDS
from bench.common.units import in_units
from bench.config.experiment import Experiment
from bench.config.spec import RunSpec, TrainSettings
from bench.launch import experiment_runner
from bench.launch.experiment_runner import LaunchContext, LaunchOptions, choose_runs, run_unless_locked
from bench.launch.progress import Progress
from bench.plan.plan import PlannedRun
from bench.results.ledger import Ledger
from bench.results.left_out.quarantine import quarantine
from bench.results.record import described
from bench.results.run_folder import RunFolder
from bench.results.store import Store

SPEC = RunSpec("quick", "a.B", {}, TrainSettings(), "tiny", {}, 0)
ALWAYS = {"new", "interrupted", "skipped_by_plan"}


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
    assert chosen(tmp_path, LaunchOptions(retry=retry)) == ALWAYS | expected


def test_force_repeats_everything_also_what_is_withdrawn(tmp_path: Path) -> None:
    assert chosen(tmp_path, LaunchOptions(force=True)) == {*STATUS_WORDS, "new", "withdrawn"}


def chosen(folder: Path, options: LaunchOptions) -> set[str]:
    """The runs to do of one of every status, one in quarantine and a new one."""
    store = Store(folder / "e")
    runs = [PlannedRun("new", SPEC, None)]
    for name in [*STATUS_WORDS, "withdrawn"]:
        status = "crashed" if name == "withdrawn" else name
        made = RunFolder.create(store.runs, name, SPEC)
        write_record(made, status=status, shared=described(SPEC))
        made.complete()
        runs.append(PlannedRun(name, SPEC, status))
    quarantine(store, "withdrawn", "wrong")
    todo = {run.run_id for run in choose_runs(runs, store, Progress(Console(file=io.StringIO())), options)}
    events = {e["run_id"]: e["event"] for e in store.ledger.events() if e["event"] in ("planned", "skipped")}
    assert events == {run.run_id: "planned" if run.run_id in todo else "skipped" for run in runs}
    return todo


TOO_LARGE = """
dataset: tiny
memory_limit_bytes: 2GB
train: {hidden: '2000000'}
methods: {full_softmax: {}, label_frequency: {}}
"""


@pytest.mark.slow
def test_skip_unfit_starts_no_run_that_does_not_fit(tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path, TOO_LARGE)
    done = machbench("run", experiment, "--skip-unfit", cwd=tmp_path, check=1, pages=True)
    assert "skipped_by_plan, plan: needs" in done.stdout
    table = results(tmp_path).set_index("method")
    skipped = table.loc["full_softmax"]
    assert (skipped["status"], table.loc["label_frequency", "status"]) == ("skipped_by_plan", "ok")
    needs = re.fullmatch(
        r"plan: needs (\S+ GB), (memory limit 2 GB|\S+ \wB free); largest part \w+ \S+ GB", skipped["reason"]
    )
    assert needs is not None
    assert needs[1] == in_units(skipped["predicted_peak_bytes"])
    assert skipped["params_output"] == 500 * 2_000_001
    assert skipped[["peak_host_bytes", "baseline_host_bytes", "fit_s", "elapsed_s"]].isna().all()
    events = [e["event"] for e in Ledger(tmp_path / "results/small/ledger.jsonl").events() if "full" in e["run_id"]]
    assert events == ["planned", "started", "skipped"]
    assert "skipped_by_plan" in machbench("status", "small", cwd=tmp_path).stdout
    assert "skipped by the plan" in (tmp_path / "results/small/tables/quality.md").read_text()
    assert "1 cached" in machbench("plan", experiment, cwd=tmp_path).stdout


@pytest.mark.slow
@pytest.mark.soak
def test_a_skipped_run_is_planned_again_and_a_failed_one_is_not(tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path, TOO_LARGE)
    for already_done in (0, 1):
        done = machbench("run", experiment, "--skip-unfit", cwd=tmp_path, check=1)
        assert f", {2 - already_done} to do" in done.stdout
    assert results(tmp_path).set_index("method").loc["full_softmax", "status"] == "skipped_by_plan"
    machbench("run", experiment, cwd=tmp_path, check=1)
    assert results(tmp_path).set_index("method").loc["full_softmax", "status"] == "oom_host"
    assert ", 0 to do" in machbench("run", experiment, "--skip-unfit", cwd=tmp_path, check=1).stdout
    assert results(tmp_path).set_index("method").loc["full_softmax", "status"] == "oom_host"


@pytest.mark.slow
def test_skip_unfit_starts_runs_that_fit(tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path, "dataset: tiny\nmethods: {mach: {R: 1, B: 8}}\ntrain: {epochs: 1}\n")
    machbench("run", experiment, "--skip-unfit", cwd=tmp_path)
    assert results(tmp_path)["status"].tolist() == ["ok"]


@pytest.mark.slow
@pytest.mark.soak
def test_a_failed_run_is_repeated_with_retry(tmp_path: Path) -> None:
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
    machbench("run", "small.yaml", "--force", cwd=folder, check=1)  # the failures are reported, but the results stay
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
    assert table["run_id"].tolist()[0] == before["run_id"][1]  # not replaced; its code distinguishes it
    assert table["code"].nunique() == 2
    assert "1 ok, 1 replaced, 1 stale" in machbench("status", "small", cwd=folder).stdout
    assert len(list((folder / "results" / "small" / "runs").iterdir())) == 3  # nothing is removed


def test_a_damaged_folder_goes_to_the_trash_before_its_run_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "e")
    made = RunFolder.create(store.runs, "broken", SPEC)
    write_record(made, status="ok", shared=described(SPEC))
    made.complete()
    (store.runs / "broken" / "record.json").write_text('{"version": 1, "sta')
    found: list[bool] = []

    def execute(*_: object) -> str:
        found.append((store.runs / "broken").exists())
        return "ok"

    monkeypatch.setattr(experiment_runner, "run_one", execute)
    monkeypatch.setattr(experiment_runner, "_edited", lambda _: False)
    text = io.StringIO()
    with Progress(Console(file=text, width=500)) as progress:
        experiment = Experiment("e", "", (SPEC,), None, {})
        context = LaunchContext(store, experiment)
        result = run_unless_locked(PlannedRun("broken", SPEC, None), 0, context, progress)
    assert result is not None
    assert (result.status, found) == ("ok", [False])
    assert "record.json: not a readable record" in text.getvalue()
    (kept,) = (store.root / ".trash").glob("*/broken/record.json")
    assert kept.read_text() == '{"version": 1, "sta'


@pytest.mark.slow
def test_the_launching_process_loads_neither_torch_nor_data(tmp_path: Path) -> None:
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
heavy = ("torch", "numba", "scipy", "matplotlib", "bench.data", "bench.run.execute", "mine")
sys.exit(str([name for name in heavy if name in sys.modules] or ""))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "e", env=environment(), capture_output=True, text=True, timeout=600
    )
    assert done.stderr.strip() == ""
    assert (tmp_path / "e" / "results" / "small" / "report.html").is_file()
