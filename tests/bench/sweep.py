"""A small sweep for tests of execution: a method of the user's own that is quick, and writes down what was executed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from command_line import alive, command, environment

from bench.report.machines import TIMES
from bench.results.ledger import Ledger
from bench.results.table import load_results

N = 6
EXPERIMENT = f"dataset: tiny\nmethods:\n  quick: {{method: quick.yaml, which: {list(range(N))}}}\n"
METHOD = '''
import os
import shutil
import time
from pathlib import Path

import numpy as np


class Quick:
    """Always the same labels, another order for each ``which``; writes each execution into executions.txt."""

    def __init__(self, which=0, seconds=0.0, fill="", fail=""):
        self.which, self.seconds, self.fill, self.fail = which, seconds, fill, fail

    def fit(self, X, Y):
        self.n_labels = Y.shape[1]
        time.sleep(self.seconds)
        if self.fail and Path(self.fail).exists():
            raise RuntimeError("no luck today")
        if self.fill and self.which == 2 and not Path(self.fill, "made room").exists():
            self.take_all_room(Path(self.fill))

    def take_all_room(self, folder):
        for size in (1 << 16, 1):
            with open(folder / f"ballast{size}", "wb", buffering=0) as ballast:
                try:
                    while ballast.write(bytes(size)):
                        pass
                except OSError:
                    pass

    def topk(self, X, k):
        with open("executions.txt", "a") as file:
            file.write(f"{self.which}\\n")
        labels = (self.which + np.arange(k, dtype=np.int32)) % self.n_labels
        return np.tile(np.arange(k, 0, -1, dtype=np.float32), (X.shape[0], 1)), np.tile(labels, (X.shape[0], 1))
'''


def write_sweep(folder: Path, text: str = EXPERIMENT) -> None:
    """small.yaml and its method in a folder of their own."""
    folder.mkdir(exist_ok=True)
    (folder / "mine.py").write_text(METHOD)
    settings = 'settings: {which: 0, seconds: 0.0, fill: "", fail: ""}'
    (folder / "quick.yaml").write_text(f"target: mine.Quick\n{settings}\n")
    (folder / "small.yaml").write_text(text)


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """`machbench run small.yaml` going on; what it says goes to output.txt."""
    whole = command("run", "small.yaml", *arguments)
    with (folder / "output.txt").open("a") as output:
        return subprocess.Popen(
            whole, cwd=folder, env=environment(), stdout=output, stderr=subprocess.STDOUT, text=True
        )


def executions(folder: Path) -> Counter[int]:
    """How often each run of the sweep was executed to the end."""
    path = folder / "executions.txt"
    return Counter(int(line) for line in path.read_text().split()) if path.exists() else Counter()


def untimed(folder: Path) -> pd.DataFrame:
    """The table without what depends on the moment: seconds and bytes."""
    df = load_results(folder / "results" / "small")
    return df[[name for name in df.columns if name not in TIMES and "bytes" not in name]]


def children(pid: int) -> list[int]:
    """Processes that a process has started and that are alive."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            if int(path.read_text().rsplit(")", 1)[1].split()[1]) == pid and alive(int(path.parent.name)):
                found.append(int(path.parent.name))
    return found


def kill(*pids: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def gone(*pids: int, within_s: float = 20) -> bool:
    """Whether the processes end before the time is up."""
    deadline = time.monotonic() + within_s
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not any(alive(pid) for pid in pids)


def assert_whole(root: Path) -> dict[str, str]:
    """No file under results/small that has its name is torn; returns the attempts behind finished runs."""
    finished = {}
    for run in (root / "runs").glob("[!.]*"):
        record = json.loads((run / "record.json").read_text())
        json.loads((run / "spec.json").read_text())
        if record["status"] == "ok":
            finished[run.name] = record["attempt"]
            with np.load(run / "topk.npz", allow_pickle=False) as kept:
                assert kept["labels"].shape[0] == len(record["rows"])
    ledger = root / "ledger.jsonl"
    if ledger.exists():
        lines = ledger.read_text().splitlines()
        assert len(list(Ledger(ledger).events())) == len(lines)
    if (root / "table.csv").exists():
        load_results(root)
    for path in [*(root / "tables").glob("[!.]*"), *(root / "figures").glob("[!.]*")]:
        assert path.stat().st_size > 0, path
    if (root / "report.html").exists():
        assert (root / "report.html").read_text().rstrip().endswith("</html>")
    for path in (root.parent / "env").glob("[!.]*"):
        json.loads(path.read_text())
    return finished
