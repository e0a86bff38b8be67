"""Runs in several processes on one machine: the same results, and a failure of any process is the run's."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import PEAK_TOLERANCE, machbench, results, write_experiment
from sweep import children, gone, start

from bench.results.ledger import Ledger
from bench.run.checkpoint.checkpoint import INDEX
from bench.run.checkpoint.tensor_file import TensorFile

EPOCHS = 40
EXPERIMENT = f"""
dataset: tiny
train: {{hidden: 16, epochs: {EPOCHS}, batch_size: 256, validate_every: 20, threads: 2, checkpoint_every_s: 0}}
methods:
  full_softmax: {{shards: SHARDS}}
"""


def write(folder: Path, shards: str) -> None:
    write_experiment(folder, EXPERIMENT.replace("SHARDS", shards))


def runs_of(folder: Path) -> dict[int, Path]:
    """Run folders by number of shards."""
    found = (folder / "results" / "small" / "runs").glob("full_softmax-*")
    return {json.loads((run / "spec.json").read_text())["settings"]["shards"]: run for run in found}


def curve_of(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "curve.csv").drop(columns="fit_s")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ran")
    write(folder, "[1, 2]")
    machbench("run", "small.yaml", cwd=folder)
    return folder


@pytest.mark.slow
@pytest.mark.soak
def test_two_processes_train_what_one_does(ran: Path) -> None:
    """Up to rounding: sums over labels are added up in another order."""
    runs = runs_of(ran)
    table = results(ran).set_index("methods.full_softmax.shards")
    one, two = table.loc[1], table.loc[2]
    for name in ("P@1", "P@3", "P@5"):
        assert two[name] == pytest.approx(one[name], abs=2 / one["n_test"])
    curves = [curve_of(runs[shards]) for shards in (1, 2)]
    np.testing.assert_allclose(curves[1]["train_loss"], curves[0]["train_loss"], rtol=1e-4)
    assert curves[1]["train_loss"].iloc[-1] < curves[1]["train_loss"].iloc[0] - 1  # something is trained
    with np.load(runs[1] / "topk.npz") as whole, np.load(runs[2] / "topk.npz") as divided:
        np.testing.assert_allclose(divided["scores"], whole["scores"], rtol=0.01, atol=0.01)
    for name in ("params_total", "params_input", "params_output"):
        assert two[name] == one[name]
    assert two["params_output"] == 17 * two["n_labels"]


@pytest.mark.slow
@pytest.mark.soak
def test_columns_say_what_all_processes_took(ran: Path) -> None:
    table = results(ran).set_index("methods.full_softmax.shards")
    one, two = table.loc[1], table.loc[2]
    assert (one["device_seconds"], two["device_seconds"]) == (one["fit_s"], 2 * two["fit_s"])
    assert pd.isna(one["training_processes"])
    assert two["training_processes"] == 2
    assert two["peak_host_above_baseline_bytes"] == two["peak_host_bytes"] - two["baseline_host_bytes"]
    assert abs(two["predicted_peak_bytes"] / two["peak_host_bytes"] - 1) <= PEAK_TOLERANCE
    names = [{path.name for path in run.iterdir()} for run in runs_of(ran).values()]
    assert names[0] == names[1]
    records = {shards: json.loads((run / "record.json").read_text()) for shards, run in runs_of(ran).items()}
    assert "processes" not in records[1]
    first, second = records[2]["processes"]
    assert first.keys() == second.keys() == {"host", "process", "env_id"}
    assert first["process"] != second["process"]
    assert {first["env_id"], second["env_id"]} == {two["env_id"]}
    log = (runs_of(ran)[2] / "log.txt").read_text()
    assert '[rank 1] {"phase": "predict"}' in log
    assert not list((ran / "results" / "small" / ".checkpoints").iterdir())


def epochs_kept(folder: Path) -> list[int]:
    """Epochs of the newest checkpoint of each rank."""
    found = []
    for run in (folder / "results" / "small" / ".checkpoints").glob("*"):
        for path in (run / INDEX, run / "rank-1" / INDEX):
            found += [json.loads(path.read_text())["done"]["epoch"]] if path.exists() else []
    return found


@pytest.mark.slow
@pytest.mark.soak
def test_a_killed_peer_fails_the_run_which_continues_to_the_same_results(ran: Path, tmp_path: Path) -> None:
    """Status and reason are those of the peer; then every byte of the results equals a run that was never killed.

    And so do the copies of the trunk, as the checkpoints of both processes have them.
    """
    write(tmp_path, "2")
    launcher = start(tmp_path)
    ledger = Ledger(tmp_path / "results" / "small" / "ledger.jsonl")
    deadline = time.monotonic() + 120
    while min(epochs_kept(tmp_path), default=0) < 3:
        assert time.monotonic() < deadline
        assert launcher.poll() is None, (tmp_path / "output.txt").read_text()
        time.sleep(0.005)
    (running,) = ledger.open_starts().values()
    (peer,) = children(running["pid"])
    os.kill(peer, signal.SIGKILL)
    killed = time.monotonic()
    assert launcher.wait(timeout=60) == 1
    assert time.monotonic() - killed < 60
    assert gone(peer, running["pid"])
    (record,) = (json.loads(path.read_text()) for path in (tmp_path / "results").glob("small/runs/*/record.json"))
    assert record["status"] == "crashed"
    assert record["reason"].startswith("fit: process 1 of 2: killed by signal 9")

    first, second = epochs_kept(tmp_path)
    assert 3 <= first == second < EPOCHS
    (kept,) = (tmp_path / "results" / "small" / ".checkpoints").glob("*")
    name = f"group-0-epoch-{first}.safetensors"
    files = [TensorFile(kept / name), TensorFile(kept / "rank-1" / name)]
    trunk = [key for key in files[0].names if key.startswith("network/encoder.")]
    assert trunk
    for key in trunk:
        assert files[0].read(key).numpy().tobytes() == files[1].read(key).numpy().tobytes()
    rows = [file.shape("network/output.weight")[0] for file in files]
    assert rows == [250, 250]

    machbench("run", "small.yaml", "--retry", "failed", cwd=tmp_path)
    (row,) = results(tmp_path).to_dict("records")
    assert (row["status"], row["resumed"]) == ("ok", 1)
    mine, right = runs_of(tmp_path)[2], runs_of(ran)[2]
    assert (mine / "topk.npz").read_bytes() == (right / "topk.npz").read_bytes()
    pd.testing.assert_frame_equal(curve_of(mine), curve_of(right))


METHOD = '''
from baselines.full_softmax import FullSoftmax


class Short(FullSoftmax):
    """Its last process runs out of memory in the middle of training."""

    losses = 0

    def loss(self, hidden, labels):
        self.losses += 1
        if self.losses == 20 and self.shards.rank == self.shards.count - 1:
            raise MemoryError("no room for one more")
        return super().loss(hidden, labels)
'''


@pytest.mark.slow
def test_a_peer_out_of_memory_is_the_run_out_of_memory(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(METHOD)
    (tmp_path / "short.yaml").write_text("target: mine.Short\nsettings: {shards: 2}\n")
    train = "{hidden: 16, epochs: 9, batch_size: 256, threads: 2}"
    write_experiment(tmp_path, f"dataset: tiny\ntrain: {train}\nmethods: {{short: {{method: short.yaml}}}}\n")
    machbench("run", "small.yaml", cwd=tmp_path, check=1)
    (row,) = results(tmp_path).to_dict("records")
    assert (row["status"], row["reason"]) == ("oom_host", "fit: process 1 of 2: no room for one more")
