"""End to end: import a file of random splits, run an experiment over them that names a paper, read the verdict."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.results.table import load_results

ROOT = Path(__file__).resolve().parents[3]
PAPER = """
title: a floor
source: worked out by hand
metrics: P@k
tolerance: {P@1: 1.0}
results:
- {dataset: mine, rows: {method: label_frequency}, values: {P@1: 50.0}, verified: true}
"""


@pytest.mark.slow
@pytest.mark.soak
def test_splits_from_import_to_verdict(tmp_path: Path) -> None:
    """Label 0 is the most frequent in train, and half of the test points of each split have it."""
    lines = [f"0{',1' * (i % 4 == 0)} 0:1" if i % 4 < 2 or i < 20 else f"{2 + i % 3} 1:1" for i in range(40)]
    (tmp_path / "all.txt").write_text("\n".join(["40 2 5", *lines]) + "\n")
    splits = np.array([range(20, 40), range(16, 36)])
    splits = np.array([np.setdiff1d(np.arange(40), test) for test in splits])
    (tmp_path / "splits.txt").write_text("".join(f"{' '.join(map(str, rows))}\n" for rows in splits))
    (tmp_path / "floor.yaml").write_text(PAPER)
    experiment = tmp_path / "both.yaml"
    experiment.write_text(
        "paper: floor.yaml\nmethods: {label_frequency: {}}\n"
        "dataset: {name: mine, split: [0, 1], validation_points: 0}\ntrain: {holdout: false}\n"
    )
    for arguments in (
        ["data", "import", "mine", "--all", "all.txt", "--splits", "splits.txt"],
        ["run", "both.yaml"],
        ["table", "both"],
    ):
        env = os.environ | {"PYTHONPATH": str(ROOT), "MACHBENCH_CACHE": str(tmp_path / "cache"), "COLUMNS": "200"}
        command = [sys.executable, "-m", "bench", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "results" / "both"
    table = load_results(folder)
    assert table["dataset.split"].tolist() == [0, 1]
    assert table["P@1"].tolist() == [0.5, 0.6]  # of test points 20 to 39, and of 16 to 35
    assert table["data_fingerprint"].nunique() == len(list((tmp_path / "results" / "data").glob("*.json"))) == 2
    assert "above" in (folder / "tables" / "reproduction.md").read_text()
    assert "Reproduction: a floor" in done.stdout
    assert "Reproduction: a floor" in (folder / "report.html").read_text()
    # without the paper, neither its copy nor its table stays
    experiment.write_text(experiment.read_text().replace("paper: floor.yaml\n", ""))
    subprocess.run([sys.executable, "-m", "bench", "run", "both.yaml"], cwd=tmp_path, env=env, check=True, timeout=300)
    assert not (folder / "paper.yaml").exists()
    assert not list((folder / "tables").glob("reproduction.*"))
