"""What tests of several rooms share: runs of the tiny twin, and a synthetic experiment folder for readers of results.

The numbers of the synthetic folder are formulae: nobody measured them.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import machbench
from command_line import write_experiment as write_small

from bench.results.table import rows_to_frame, write_table

K, N_FEATURES, HIDDEN = 46_881, 24_082, 256
BS, R_MAX = (256, 1024, 4096), 16
DATA = {"n_train": 48_236, "n_test": 12_132, "n_features": N_FEATURES, "n_labels": K}


def _quality(p1: float) -> dict[str, float]:
    shape = {
        "P@3": 0.78,
        "P@5": 0.5,
        "nDCG@1": 1.0,
        "nDCG@3": 0.9,
        "nDCG@5": 0.92,
        "PSP@1": 0.6,
        "PSP@3": 0.62,
    }
    shape |= {"PSP@5": 0.66, "R@5": 0.8, "minP@3": 0.85, "minP@5": 0.9}
    return {"P@1": p1} | {name: p1 * factor for name, factor in shape.items()}


def _base(method: str, run_id: str, seed: int, **more: Any) -> dict[str, Any]:
    row = {
        "experiment": "synthetic",
        "run_id": run_id,
        "status": "ok",
        "method": method,
        "dataset": "made-up",
    }
    row |= {"data_fingerprint": "0f1e2d3c", "seed": seed, "env_id": "e1a2b3", "precision": "float32"}
    return row | {"hidden": HIDDEN, "epochs": 8, "batch_size": 256, "device": "cpu"} | DATA | more


def _times(fit_s: float) -> dict[str, float]:
    times = {"load_s": 0.41, "build_s": 0.2, "warmup_s": 0.9, "fit_s": fit_s, "predict_s": fit_s / 10}
    return times | {"elapsed_s": 1.3 * fit_s, "examples_per_s": 8 * DATA["n_train"] / fit_s}


def _network(outputs: int, repetitions: int = 1) -> dict[str, int]:
    each = {
        "params_input": N_FEATURES * HIDDEN + HIDDEN,
        "params_hidden": 0,
        "params_output": (HIDDEN + 1) * outputs,
    }
    size = {name: repetitions * count for name, count in each.items()}
    return size | {"params_total": sum(size.values()), "params_per_repetition": sum(each.values())}


def make_rows(seeds: tuple[int, ...] = (0,), failure: bool = True) -> list[dict[str, Any]]:
    """Full and sampled softmax, the label-frequency floor, a hashed method, a run out of memory."""
    rows = []
    for seed in seeds:
        drift = 0.002 * seed
        for method, p1, fit_s, loss in (
            ("full_softmax", 0.872, 61.0, "softmax"),
            ("sampled_softmax", 0.861, 38.0, "softmax"),
        ):
            quality, size = _quality(p1 + drift), _network(K) | {"index_bytes": 0}
            memory = {"peak_host_bytes": 900_000_000 + seed, "predicted_peak_bytes": 880_000_000}
            more = quality | size | memory | _times(fit_s + seed) | {"loss": loss}
            rows.append(_base(method, f"{method}-made-up-s{seed}-aa11bb", seed, **more))
        floor = _quality(0.008) | {"params_total": 0, "params_output": 0, "fit_s": 0.03, "predict_s": 0.1}
        floor |= {"peak_host_bytes": 150_000_000, "hidden": None, "epochs": None, "batch_size": None}
        rows.append(_base("label_frequency", f"label_frequency-made-up-s{seed}-cc22dd", seed, **floor))
        for B in BS:
            rows += _hashed(B, seed, drift)
        if failure:
            reason = "killed at 2.9 GiB of 3.0 GiB allowed; B=16384 asks for 67 M output parameters & 5_000 more"
            more = {
                "B": 16_384,
                "R": R_MAX,
                "status": "oom_host",
                "reason": reason,
                "decoder": "sum",
                "loss": "bce",
            }
            more |= {"predicted_peak_bytes": 3_400_000_000} | _network(16_384, R_MAX)
            rows.append(_base("mach", f"mach-made-up-B16384-R16-s{seed}-0ddba1", seed, **more))
    return rows


def _hashed(B: int, seed: int, drift: float) -> list[dict[str, Any]]:
    trained = f"mach-made-up-B{B}-R{R_MAX}-s{seed}-3fa9c1"
    rows = []
    for R in range(1, R_MAX + 1):
        ceiling = {256: 0.848, 1024: 0.866, 4096: 0.88}[B]
        more: dict[str, Any] = {"B": B, "R": R, "decoder": "sum", "loss": "bce", "index_bytes": 4 * K * R}
        more |= _network(B, R) | _quality(ceiling * (1 - 0.9 * (400 / B / 10) ** (0.9 * R)) + drift)
        more["unresolved_pairs"] = round(K * (K - 1) / 2 * B**-R * 1.01)
        if R == R_MAX:
            more |= _times(5.0 * R + B / 400) | {"peak_host_bytes": 700_000_000 + B * 1000}
        else:
            more |= {"derived_from": trained, "fit_s": 5.0 * R + B / 400 if R % 4 == 0 else None}
        rows.append(_base("mach", trained if R == R_MAX else f"{trained}@R{R}", seed, **more))
    return rows


def write_experiment(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """``folder/results/synthetic`` with table.csv, learning curves and an environment; returns it."""
    experiment = folder / "results" / "synthetic"
    write_table(rows_to_frame(rows), experiment / "table.csv")
    for row in rows:
        if row["status"] != "ok" or row.get("derived_from") or not row.get("epochs"):
            continue
        lines, clock = ["epoch,fit_s,train_loss,P@1,repetitions"], 0.0
        groups = ["0-3", "4-7", "8-11", "12-15"] if row.get("B") else [""]
        for group in groups:
            for epoch in range(1, 9):
                clock += row["fit_s"] / 8 / len(groups)
                p1 = row["P@1"] * (1 - 0.6**epoch)
                lines.append(f"{epoch},{clock:.3f},{2.5 * 0.7**epoch:.4f},{p1 if epoch % 2 == 0 else ''},{group}")
        curve = experiment / "runs" / row["run_id"] / "curve.csv"
        curve.parent.mkdir(parents=True)
        curve.write_text("\n".join(lines) + "\n")
    env = folder / "results" / "env" / "e1a2b3.json"
    env.parent.mkdir(parents=True)
    env.write_text(json.dumps({"python": "3.12.1", "cpu": "made-up CPU, 2 cores", "packages": {"numpy": "2.4.6"}}))
    return experiment


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    return make_rows()


@pytest.fixture(scope="session")
def make() -> Callable[..., list[dict[str, Any]]]:
    return make_rows


@pytest.fixture
def experiment(tmp_path: Path, rows: list[dict[str, Any]]) -> Path:
    return write_experiment(tmp_path, rows)


@pytest.fixture(scope="session")
def write() -> Callable[[Path, list[dict[str, Any]]], Path]:
    return write_experiment


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the small experiment was run, once for all processes of tests: to be read, or copied."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "ran"
    with (shared / "ran.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "finished").exists():
            folder.mkdir()
            done = machbench("run", write_small(folder), cwd=folder, pages=True)
            assert "4 runs: 0 done before, 4 to do" in done.stdout
            (folder / "finished").touch()
    return folder
