"""SIGKILL at random moments: whoever is hit, nothing finished is lost, done again or torn, and the sweep completes."""

from __future__ import annotations

import os
import random
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
from sweep import N, assert_whole, children, executions, gone, kill, start, untimed, write_sweep

from bench.results.ledger import Ledger

KILLS = int(os.environ.get("MACHBENCH_TEST_KILLS", "8"))
SEED = int(os.environ.get("MACHBENCH_TEST_SEED", "20261126"))
SHARE_AT_AN_EVENT = 0.6  # of the kills; the others come after a random time


@pytest.mark.slow
@pytest.mark.soak
def test_a_sweep_survives_kills(tmp_path: Path) -> None:
    """Parent, child or both are killed until KILLS were; every sweep is completed and then compared."""
    draw = random.Random(SEED)
    write_sweep(tmp_path / "calm")
    started = time.monotonic()
    assert start(tmp_path / "calm").wait(timeout=1800) == 0
    run_s = (time.monotonic() - started) / N
    kills: list[str] = []
    sweeps = 0
    while len(kills) < KILLS:
        sweeps += 1
        folder = tmp_path / f"sweep{sweeps}"
        write_sweep(folder)
        disturb(folder, draw, run_s, kills)
        root = folder / "results" / "small"
        finished = assert_whole(root) if root.exists() else {}
        why = f"seed {SEED}, after {kills}"
        assert start(folder, "--retry", "all").wait(timeout=1800) == 0, why
        assert finished.items() <= assert_whole(root).items(), why
        pd.testing.assert_frame_equal(untimed(folder), untimed(tmp_path / "calm"), obj=why)
        assert not list((root / "runs").glob(".*")), why
        events = [(e["event"], e["run_id"]) for e in Ledger(root / "ledger.jsonl").events()]
        for run_id in {run_id for _, run_id in events}:
            own = [event for event, name in events if name == run_id and event in ("started", "finished")]
            assert own.count("finished") == 1, (why, run_id, own)
            assert own[-1] == "finished", (why, run_id, own)
        assert set(executions(folder)) == set(range(N))
        print(f"{len(kills)} kills in {sweeps} sweeps of {N} runs, seed {SEED}", flush=True)


def disturb(folder: Path, draw: random.Random, run_s: float, kills: list[str]) -> None:
    """Start the sweep again and again, and kill at random moments, until KILLS were or all runs are finished."""
    process = start(folder, "--retry", "all")
    finished: dict[str, str] = {}
    while len(kills) < KILLS:
        victim = draw.choice(["parent", "child", "both"])
        moment = draw.choice(["started", "record", "complete"]) if draw.random() < SHARE_AT_AN_EVENT else "time"
        began = time.monotonic()
        happened(folder, moment, process, began + draw.uniform(0.1, 2) * run_s)
        born = children(process.pid)
        while victim != "parent" and not born and process.poll() is None:
            born = children(process.pid)
        if process.poll() is None:
            kill(*[process.pid] * (victim != "child"), *born * (victim != "parent"))
            kills.append(f"{victim} at {moment}, {time.monotonic() - began:.1f} s")
            print(kills[-1], flush=True)
            if victim == "child":  # the command continues with the next run
                continue
        process.wait()
        assert gone(*born), (SEED, kills)  # a child does not outlive its parent
        now = assert_whole(folder / "results" / "small") if (folder / "results" / "small").exists() else {}
        assert finished.items() <= now.items(), (SEED, kills)  # neither lost nor done again
        finished = now
        if len(finished) == N:
            return
        process = start(folder, "--retry", "all")
    process.wait(timeout=1800)


def happened(folder: Path, moment: str, process: subprocess.Popen[str], deadline: float) -> None:
    """Wait for a start in the ledger, a record in an unfinished folder or a completed run, at most to the deadline."""
    root = folder / "results" / "small"
    before = seen(root, moment)
    while time.monotonic() < deadline and process.poll() is None and not seen(root, moment) - before:
        time.sleep(0.002)


def seen(root: Path, moment: str) -> set[str]:
    if moment == "started":
        events = Ledger(root / "ledger.jsonl").events()
        return {str(e.get("attempt")) for e in events if e["event"] == "started"}
    pattern = {"record": ".*/record.json", "complete": "[!.]*/record.json"}.get(moment)
    return {str(path.stat().st_ino) for path in (root / "runs").glob(pattern) if path.exists()} if pattern else set()


PEER = '''
import subprocess
import sys
from pathlib import Path

from baselines.external import external_method

external_method.python_of = lambda *_: Path(sys.executable)


class Toy(external_method.ExternalMethod):
    """An external method whose training never ends, with a process beside it that nobody looks after."""

    library, requirements, reproducible = "numpy", (), True
    script = str(Path("endless.py").resolve())

    def __init__(self):
        super().__init__({})

    def write_points(self, folder, split, X): ...

    def write_labels(self, folder, X, Y):
        beside = subprocess.Popen(["sleep", "600"])
        Path("beside.txt").write_text(str(beside.pid))
'''


@pytest.fixture
def endless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep of one run, whose method has its own child."""
    write_sweep(tmp_path / "sweep", "dataset: tiny\nmethods: {toy: {method: toy.yaml}}\n")
    folder = tmp_path / "sweep"
    monkeypatch.setenv("MACHBENCH_CACHE", str(tmp_path / "cache"))
    (folder / "toy.py").write_text(PEER)
    (folder / "toy.yaml").write_text("target: toy.Toy\n")
    script = "import os, time\nfrom pathlib import Path\n"
    script += f"def fit(folder, job, clock):\n    Path({str(folder / 'peer.txt')!r}).write_text(str(os.getpid()))\n"
    (folder / "endless.py").write_text(script + "    time.sleep(600)\n")
    return folder


def number_in(path: Path) -> int:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if path.exists() and path.read_text():
            return int(path.read_text())
        time.sleep(0.02)
    raise AssertionError(f"no {path}")


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["parent", "child"])
def test_processes_that_a_run_started_die_with_it(endless: Path, victim: str) -> None:
    process = start(endless)
    peer, beside = number_in(endless / "peer.txt"), number_in(endless / "beside.txt")
    (run,) = children(process.pid)
    try:
        kill(process.pid if victim == "parent" else run)
        assert gone(run, peer)
        if victim == "child":  # the launcher kills all of the run's process group
            assert gone(beside)
            assert process.wait(timeout=60) == 1
        else:
            assert process.wait(timeout=60) == -9
    finally:
        kill(beside)


@pytest.mark.slow
def test_a_child_whose_parent_died_before_it_began_ends_at_once(tmp_path: Path) -> None:
    from bench.common.child_processes import PARENT, python

    command, env = python("bench.run", **{PARENT: "1" if os.getpid() != 1 else "2"})
    done = subprocess.run([*command, str(tmp_path)], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "has ended" in done.stderr
