"""A sweep of 200 runs, and one over K: readable, quick, without torch. Its numbers are formulae, nobody measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
Rows = list[dict[str, Any]]
K, N_FEATURES, HIDDEN = 131_073, 40_000, 128
P1 = {
    "full_softmax": 0.41,
    "one_vs_all": 0.402,
    "sampled_softmax": 0.395,
    "sampled_softmax_tf_2019": 0.31,
    "adaptive_softmax": 0.388,
    "bottleneck": 0.365,
    "label_frequency": 0.01,
    "nearest_neighbours": 0.37,
    "omikuji_parabel": 0.418,
    "omikuji_bonsai": 0.421,
    "napkinxc_plt": 0.405,
    "pecos_xrlinear": 0.415,
}
PEERS = ("nearest_neighbours", "omikuji_parabel", "omikuji_bonsai", "napkinxc_plt", "pecos_xrlinear")


def base(method: str, run_id: str, seed: int, **more: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"experiment": "sweep", "run_id": run_id, "status": "ok", "method": method, "seed": seed}
    row |= {"dataset": "made-up", "data_fingerprint": "0f1e2d3c", "env_id": "e1a2b3", "precision": "fp32"}
    row |= {"device": "cpu", "hidden": HIDDEN, "epochs": 8, "batch_size": 256}
    row |= {"n_train": 294_805, "n_test": 134_835, "n_features": N_FEATURES, "n_labels": K}
    return row | more


def quality(p1: float) -> dict[str, float]:
    shape = {"P@1": 1.0, "P@3": 0.7, "P@5": 0.5, "nDCG@1": 1.0, "nDCG@3": 0.9, "nDCG@5": 0.92, "PSP@1": 0.6}
    shape |= {"PSP@3": 0.62, "PSP@5": 0.66, "R@5": 0.8, "minP@3": 0.85, "minP@5": 0.9}
    shape |= {"P@1_head": 0.4, "P@1_torso": 0.45, "P@1_tail": 0.15}
    shape |= {"R@5_head": 1.9, "R@5_torso": 1.5, "R@5_tail": 0.8}
    return {name: min(1.0, p1 * factor) for name, factor in shape.items()}


def network(outputs: int, repetitions: int = 1) -> dict[str, int]:
    entering, leaving = (N_FEATURES + 1) * HIDDEN * repetitions, (HIDDEN + 1) * outputs * repetitions
    size = {"params_input": entering, "params_hidden": 0, "params_output": leaving}
    return size | {"params_total": entering + leaving, "params_per_repetition": (entering + leaving) // repetitions}


def sweep_rows() -> Rows:
    """200 runs: MACH at 7 B, 3 rates and 3 seeds to R = 32, 12 other methods, and what ran out of memory."""
    rows: Rows = []
    for seed in range(3):
        for B in (64, 128, 256, 512, 1024, 2048, 4096):
            for lr in (0.005, 0.01, 0.02):
                trained = f"mach-made-up-B{B}-R32-lr{lr}-s{seed}"
                best = 0.43 - 0.12 * (64 / B) ** 0.5 - 3 * abs(lr - 0.01) + 0.001 * seed
                for R in range(1, 33):
                    p1 = best * (1 - (0.94 + 0.0003 * seed) * (64 / B / 1.6) ** 0.3 * 0.75 ** (R - 1))
                    more: dict[str, Any] = {"B": B, "R": R, "loss": "bce", "decoder": "logit_sum"}
                    more |= {"methods.mach.B": B, "methods.mach.lr": lr, "index_bytes": 2 * K * R}
                    more |= network(B, R) | quality(p1) | {"unresolved_pairs": round(K * (K - 1) / 2 * B**-R)}
                    more |= {"fit_s": (4.0 + B / 300) * R if R % 8 == 0 else None}
                    if R == 32:
                        more |= {"peak_host_bytes": 900_000_000 + 60_000 * B, "predict_s": 12.0 + B / 500}
                        more |= {"predicted_peak_bytes": 880_000_000 + 60_000 * B}
                    else:
                        more |= {"derived_from": trained}
                    rows.append(base("mach", trained if R == 32 else f"{trained}@R{R}", seed, **more))
        for method, p1 in P1.items():
            for lr in (0.005, 0.01, 0.02):
                p = p1 - 2 * abs(lr - 0.01) + 0.002 * seed if p1 > 0.1 else p1
                more = quality(p) | {f"methods.{method}.lr": lr}
                more |= {"fit_s": 40 + 900 * p1 * (method != "label_frequency"), "predict_s": 3 + 20 * p1}
                more |= {"peak_host_bytes": 1_200_000_000 + 5_000_000 * len(method) ** 2}
                if method in PEERS:
                    more |= {
                        "params_output": 9_000_000 + 400_000 * len(method),
                        "model_bytes": 90_000_000,
                        "epochs": None,
                    }
                elif method != "label_frequency":
                    more |= network(K // (4 if method == "bottleneck" else 1)) | {"index_bytes": 0}
                rows.append(base(method, f"{method}-made-up-lr{lr}-s{seed}", seed, **more))
        for i, B in enumerate((8192, 16_384, 32_768)):
            more = {"B": B, "R": 32, "status": "oom_host", "reason": "fit: killed", "n_labels": None}
            more |= {"predicted_peak_bytes": 14_000_000_000 * 2**i} | (network(B, 32) if i else {})
            rows.append(base("mach", f"mach-made-up-B{B}-R32-s{seed}", seed, **more))
    for i in range(20):
        more = quality(0.33 + 0.002 * i) | network(512, i + 1) | {"B": 512, "R": i + 1, "methods.mach.B": 512}
        more |= {"methods.mach.lr": 0.04, "loss": "softmax", "decoder": "mean", "index_bytes": 2 * K * (i + 1)}
        rows.append(base("mach", f"mach-made-up-softmax-R{i + 1}", 0, **more, fit_s=5.0 * i + 5))
    return rows


def k_rows() -> Rows:
    """Full and sampled softmax and MACH at two B, K from 1e4 to 1e8; a full output layer stops fitting on the way."""
    rows: Rows = []
    for K in (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000):
        for method, B, R in (
            ("full_softmax", None, None),
            ("sampled_softmax", None, None),
            ("mach", 1024, 8),
            ("mach", 4096, 16),
        ):
            size = network(B or K, R or 1) | {"index_bytes": 2 * K * R if R else 0}
            peak = 400_000_000 + 12 * size["params_total"] + 3 * size["index_bytes"]
            more = {
                "B": B,
                "R": R,
                "n_labels": K,
                "dataset.n_labels": K,
                "predicted_peak_bytes": peak,
                "loss": "softmax",
            }
            run_id = f"{method}-made-up-K{K}-B{B}"
            if peak > 24 * 2**30:
                more |= {"status": "oom_host", "reason": "fit: killed", "n_labels": None}
                rows.append(base(method, run_id, 0, **more))
                continue
            slow = {"full_softmax": 2e-3, "sampled_softmax": 2e-4, "mach": 3e-5}[method]
            more |= quality(0.4) | size | {"peak_host_bytes": round(1.05 * peak)}
            more |= {"fit_s": 20 + slow * K + (R or 0) * (B or 0) / 400, "predict_s": 2 + 134_835 * K * slow / 1e5}
            rows.append(base(method, run_id, 0, **more))
    return rows


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, write: Any) -> Path:
    rows = sweep_rows()
    assert len({row["run_id"].partition("@")[0] for row in rows}) == 200
    return write(tmp_path_factory.mktemp("sweep"), rows)
