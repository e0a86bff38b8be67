"""A training step of R repetitions: one fused network beside R torch modules, for `machbench speed train`."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
import torch
from torch.nn import functional as F

from bench.model.device import has_bf16
from bench.model.ensemble import set_precision
from bench.model.network import Encoder, Network
from bench.model.optim import Optimiser
from bench.speed import Array, Measurement, Row, Variants
from bench.speed.steps import LR, Batch, Fused, Modules, Step, make_layer

N_FEATURES, FEATURES_PER_POINT, N_LABELS, LABELS_PER_POINT = 135_909, 76, 670_091, 5.45  # Amazon-670K
R, B, HIDDEN, BATCH, N_BATCHES = 16, 2000, 128, 256, 4
SIDE = 4096  # of the square matrices whose product gives the machine's rate
CPU = torch.device("cpu")


def train() -> Measurement:
    """Steps at Amazon-670K size, R = 16, B = 2,000, hidden 128, batch 256; the reference first.

    The first call of each takes a step of length zero and returns loss and gradients, which must agree to 1e-5 of the
    largest (bf16: 2 %). The references get their dense targets ready made; the fused step builds its own.
    """
    rng = np.random.default_rng(0)
    data = [batch(rng) for _ in range(N_BATCHES)]
    network = fused_network()
    dense = Modules(network, data)
    sparse = dense.with_sparse_gradients()
    adam = Step(data, Fused(network), [Optimiser(network, LR, "adam")])
    variants: Variants = {
        "16 modules, dense Adam": Step(data, dense, dense.optimisers()),
        "16 modules, sparse Adagrad": Step(data, sparse, sparse.optimisers()),
        "fused, Adam": adam,
        "fused, row-wise Adagrad": Step(data, Fused(network), [Optimiser(network, LR, "rowwise_adagrad")]),
    }
    if has_bf16(CPU):
        bf16 = Fused(network, "bf16")
        variants["fused, Adam, bf16"] = Step(data, bf16, [Optimiser(network, LR, "adam")])
    a = torch.randn(SIDE, SIDE)
    beside: dict[str, Callable[[], object]] = {"matrix product": lambda: a @ a}
    if torch.backends.mkldnn.is_available():
        blocked = a.to_mkldnn()
        beside["matrix product, oneDNN"] = lambda: F.linear(blocked, blocked)
    return Measurement(variants, same, beside, lambda rows: with_rates(rows, adam))


def batch(rng: np.random.Generator) -> Batch:
    """Points X and labels Y. Features follow Zipf's law, distinct in a point, l2-normalised; labels are uniform."""
    law = np.cumsum(1.0 / np.arange(1, N_FEATURES + 1))
    X = sp.lil_matrix((BATCH, N_FEATURES), dtype=np.float32)
    for n in range(BATCH):
        drawn = np.searchsorted(law, rng.random(8 * FEATURES_PER_POINT) * law[-1])
        features = drawn[np.sort(np.unique(drawn, return_index=True)[1])][:FEATURES_PER_POINT]
        values = rng.random(len(features)) + 0.5
        X[n, features] = values / np.linalg.norm(values)
    counts = rng.binomial(1, LABELS_PER_POINT % 1, BATCH) + int(LABELS_PER_POINT)
    labels = np.concatenate([np.sort(rng.choice(N_LABELS, count, replace=False)) for count in counts])
    indptr = np.concatenate([[0], np.cumsum(counts)])
    return X.tocsr(), sp.csr_matrix((np.ones(len(labels), np.float32), labels, indptr), shape=(BATCH, N_LABELS))


def fused_network() -> Network:
    """The network of all repetitions, with the output layer that configs/method/mach.yaml names."""
    return Network(Encoder(N_FEATURES, [HIDDEN], list(range(R))), make_layer("mach", N_LABELS, HIDDEN, B=B, R=R))


def same(variant: str, found: Array, expected: Array) -> bool:
    """Equal to 1e-5 of the largest value, or to 2 % of it in bfloat16."""
    tolerance = 0.02 if "bf16" in variant else 1e-5
    return bool(np.abs(found - expected).max() <= tolerance * np.abs(expected).max())


def flops() -> int:
    """Useful operations of a step: three products of the output layer, and the bag forward and backward."""
    return R * (3 * 2 * BATCH * HIDDEN * B + 2 * 2 * BATCH * FEATURES_PER_POINT * HIDDEN)


def with_rates(rows: list[Row], step: Step, repeats: int = 5) -> list[Row]:
    """The rows with rates, then the parts of a fused step; every ``ratio`` refers to the whole reference step."""
    rate = {row["variant"]: 2 * SIDE**3 / row["median_s"] for row in rows if "product" in row["variant"]}
    for row in rows:
        if row["variant"] in rate:
            row["note"] = f"{rate[row['variant']] / 1e9:.0f} GFLOP/s"
            continue
        row["gflop_per_s"] = flops() / row["median_s"] / 1e9
        row["samples_per_s"] = BATCH / row["median_s"]
        row["share_of_product_rate"] = {name: flops() / row["median_s"] / found for name, found in rate.items()}
        shares = ", ".join(f"{share:.0%} of {name}" for name, share in row["share_of_product_rate"].items())
        row["note"] = f"{row['samples_per_s']:.0f} samples/s, {row['gflop_per_s']:.0f} GFLOP/s: {shares}"
    seconds = parts(step, repeats)
    whole = sum(statistics.median(times) for times in seconds.values())
    for name, times in seconds.items():
        median = statistics.median(times)
        part = {"what": "train", "variant": f"  part: {name}", "median_s": median, "repeats_s": times}
        share = {"share": median / whole, "note": f"{median / whole:.0%} of the step"}
        rows.append(part | {"ratio": rows[0]["median_s"] / median} | share)
    return rows


def parts(step: Step, repeats: int) -> dict[str, list[float]]:
    """Seconds of each part of a fused step, ``repeats`` of each."""
    assert isinstance(step.model, Fused)
    network, (optimiser,) = step.model.network, step.optimisers
    set_precision(network.output, "fp32", CPU)
    dense, sparse = optimiser.parts
    seconds: dict[str, list[float]] = {}
    for X, Y in itertools.islice(itertools.cycle(step.data), repeats):
        optimiser.zero_grad()
        spent: dict[str, float] = {}
        started = time.perf_counter()
        hidden = network.hidden(X)
        spent["input forward"] = time.perf_counter() - started
        network.output.timing_hook = lambda part, seconds_, spent=spent: spent.update(
            {part: spent.get(part, 0.0) + seconds_}
        )
        loss = network.output.loss(hidden, Y)
        network.output.timing_hook = None
        passed = time.perf_counter()
        spent["targets and waiting"] = passed - started - sum(spent.values())
        loss.backward()
        sparse.step()
        reached = time.perf_counter()
        spent["input backward and update"] = reached - passed
        dense.step()
        spent["output update"] = time.perf_counter() - reached
        for name, value in spent.items():
            seconds.setdefault(name, []).append(value)
    return seconds
