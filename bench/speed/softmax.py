"""A training step of output layers over all labels beside plain dense torch, for `machbench speed softmax`.

python -m bench.speed.softmax VARIANT LABELS     (one JSON line: bytes of a step beyond weights, gradient and moments)
"""

from __future__ import annotations

import functools
import importlib
import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F

from bench.common.paths import config_root
from bench.common.procfs import host_bytes
from bench.model.device import has_bf16
from bench.model.ensemble import set_precision
from bench.model.optim import Optimiser
from bench.run.memory import peak_host_bytes
from bench.speed import Array, Measurement, Row, Variants

N_LABELS, HIDDEN, BATCH, LABELS_A_POINT, N_BATCHES = 670_091, 128, 256, 5, 2  # labels of Amazon-670K
N_SAMPLES = 6_701  # 1 % of the labels
LR = 1e-3
CPU = torch.device("cpu")
Batch = tuple[Tensor, sp.csr_matrix]  # hidden [N, H], labels [N, n_labels]

PLAIN = "plain dense torch"
METHODS = {"softmax": "full_softmax", "one-vs-all": "one_vs_all"}
LOW = {"bf16 products": ("bf16", "fp32"), "bf16 products and weights": ("bf16", "bf16")}


def softmax() -> Iterator[tuple[str, Measurement]]:
    """A step of the two exact losses at Amazon-670K size, hidden 128, batch 256: loss, gradients, Adam.

    The reference has all logits at once and goes through autograd and torch's fused Adam. The first call of each
    variant returns loss and gradients, which must agree (`same`); the later ones are training steps.
    """
    for case, method in METHODS.items():
        data = batches(N_LABELS)
        variants: Variants = {PLAIN: Plain(case, data), method: InChunks(make(method, N_LABELS), data)}
        if has_bf16(CPU):
            for name, (precision, weights) in LOW.items():
                variants[f"{method}, {name}"] = InChunks(make(method, N_LABELS, weights=weights), data, precision)
        beside: dict[str, Callable[[], object]] = {}
        if case == "softmax":
            sampled = make("sampled_softmax", N_LABELS, n_samples=N_SAMPLES)
            work = InChunks(sampled, data)
            work.step()  # for what a first step allocates
            beside[f"sampled_softmax, {N_SAMPLES:,} samples"] = work.step
        yield case, Measurement(variants, same, beside, functools.partial(told, case=case))


def batches(n_labels: int) -> list[Batch]:
    """Hidden activations as behind a ReLU, and uniform labels."""
    rng = np.random.default_rng(0)
    indptr = np.arange(BATCH + 1) * LABELS_A_POINT
    made = []
    for _ in range(N_BATCHES):
        hidden = np.maximum(rng.normal(size=(BATCH, HIDDEN)), 0.0).astype(np.float32)
        columns = [np.sort(rng.choice(n_labels, LABELS_A_POINT, replace=False)) for _ in range(BATCH)]
        parts = (np.ones(indptr[-1], np.float32), np.concatenate(columns), indptr)
        made.append((torch.from_numpy(hidden), sp.csr_matrix(parts, shape=(BATCH, n_labels))))
    return made


def make(method: str, n_labels: int, **settings: Any) -> Any:
    """The layer that configs/method/<method>.yaml names, without a prior: all start with the same weights."""
    content: Any = OmegaConf.load(config_root() / "method" / f"{method}.yaml")
    module, _, name = content.target.rpartition(".")
    nothing = sp.csr_matrix(np.zeros((1, n_labels), dtype=np.float32))
    seeds = dict.fromkeys(("hashing", "initialisation", "sampling"), 0)
    return getattr(importlib.import_module(module), name)(
        n_labels=n_labels,
        hidden=HIDDEN,
        train_labels=nothing,
        seeds=seeds,
        **{**content.settings, "bias": "zero", **settings},
    )


class Plain:
    """All logits at once, autograd, fused dense Adam. Targets that the loss wants dense are part of the step."""

    def __init__(self, case: str, data: Sequence[Batch]) -> None:
        first = make(METHODS[case], data[0][1].shape[1])
        self.weight, self.bias = (nn.Parameter(p.detach().clone()) for p in (first.weight, first.bias))
        self.optimiser = torch.optim.Adam([self.weight, self.bias], lr=LR, fused=True)
        self.loss_of = {"softmax": plain_softmax, "one-vs-all": plain_bce}[case]
        pairs = [(np.repeat(np.arange(BATCH), np.diff(Y.indptr)), Y.indices.astype(np.int64)) for _, Y in data]
        self.pairs = [(torch.from_numpy(rows), torch.from_numpy(columns)) for rows, columns in pairs]
        self.hidden = [hidden for hidden, _ in data]
        self._at = itertools.cycle(range(len(data)))
        self._checked = False

    def __call__(self) -> Sequence[Array]:
        if self._checked:
            self.step()
            return []
        self._checked = True
        loss, hidden = self.backward(0)
        tensors = [hidden.grad, self.weight.grad, self.bias.grad]
        found = [t.numpy().copy().reshape(len(t), -1) for t in tensors if t is not None]
        self.step()  # for what a first step allocates
        return [np.array([[loss]]), *found]

    def backward(self, at: int) -> tuple[float, Tensor]:
        self.optimiser.zero_grad()
        hidden = self.hidden[at].clone().requires_grad_()
        loss = self.loss_of(F.linear(hidden, self.weight, self.bias), *self.pairs[at])
        loss.backward()
        return float(loss.detach()), hidden

    def step(self) -> None:
        self.backward(next(self._at))
        self.optimiser.step()
        self.optimiser.zero_grad()


def plain_softmax(logits: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Cross-entropy against 1/|Y|, mean over points."""
    share = 1.0 / torch.bincount(rows, minlength=len(logits))[rows]
    return -(F.log_softmax(logits, 1)[rows, columns] * share).sum() / len(logits)


def plain_bce(logits: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Binary cross-entropy summed over labels, mean over points."""
    target = torch.zeros_like(logits)
    target[rows, columns] = 1.0
    return F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / len(logits)


class InChunks:
    """A layer as the harness trains it."""

    def __init__(self, layer: Any, data: Sequence[Batch], precision: str = "fp32") -> None:
        self.layer, self.data = layer, data
        set_precision(layer, precision, CPU)
        self.optimiser = Optimiser(layer, LR)
        self._at = itertools.cycle(range(len(data)))
        self._checked = False

    def __call__(self) -> Sequence[Array]:
        if self._checked:
            self.step()
            return []
        self._checked = True
        found = {name: np.empty((len(p), p[0].numel()), np.float32) for name, p in self.layer.named_parameters()}

        def collect(name: str, rows: slice, gradient: Tensor) -> None:
            found[name][rows] = gradient.reshape(len(gradient), -1).numpy()

        usual, self.layer.update = self.layer.update, collect
        loss, hidden = self.backward(0)
        self.layer.update = usual
        self.step()
        assert hidden.grad is not None
        return [np.array([[loss]]), hidden.grad.numpy(), found["weight"], found["bias"]]

    def backward(self, at: int) -> tuple[float, Tensor]:
        self.optimiser.zero_grad()
        hidden, labels = self.data[at]
        hidden = hidden.clone().requires_grad_()
        loss = self.layer.loss(hidden, labels)
        loss.backward()
        return float(loss.detach()), hidden

    def step(self) -> None:
        self.backward(next(self._at))
        self.optimiser.step()
        self.optimiser.zero_grad()


def same(variant: str, found: Array, expected: Array) -> bool:
    """Every element to 1e-4 of the largest of its row (a point's or a label's); bf16 to 2 % of the largest of all."""
    off = np.abs(found - expected)
    if "bf16" in variant:
        return bool(off.max() <= 0.02 * np.abs(expected).max())
    return bool((off <= 1e-4 * np.abs(expected).max(1, keepdims=True)).all())


def told(rows: list[Row], case: str) -> list[Row]:
    """The rows with the memory of a step at two numbers of labels, and the speed beside the exact layer's."""
    exact = next(row["median_s"] for row in rows if row["variant"] == METHODS[case])
    for row in rows:
        if "sampled" in row["variant"]:
            row["ratio_to_full"] = exact / row["median_s"]
            row["note"] = f"{row['ratio_to_full']:.1f}× full_softmax"
            continue
        found = {n: transient_bytes(f"{case}: {row['variant']}", n) for n in (N_LABELS, N_LABELS // 2)}
        row["transient_host_bytes"] = {str(n): size for n, size in found.items()}
        row["note"] = "transient " + ", ".join(f"{size / 1e9:.3f} GB at {n:,} labels" for n, size in found.items())
    return rows


def transient_bytes(variant: str, n_labels: int) -> int:
    """Of a step, measured in a process of its own."""
    command = [sys.executable, "-m", "bench.speed.softmax", variant, str(n_labels)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(json.loads(ran.stdout)["transient_host_bytes"])


def measure_memory(variant: str, n_labels: int) -> dict[str, int]:
    """Peak resident bytes of this process less what it held before, the weights, their gradient and their moments.

    ``VmHWM`` counts the whole life of the process, so a variant needs a fresh one. Two steps over few labels come
    first: what compiling and starting threads take is not memory of a step. An in-place layer has no gradient.
    """
    case, _, name = variant.partition(": ")
    for size, counted in ((10_000, False), (n_labels, True)):
        data, before = batches(size), host_bytes()
        work: Plain | InChunks
        if name == PLAIN:
            work = plain = Plain(case, data)
            held = 16 * (plain.weight.numel() + plain.bias.numel())  # weight, gradient, two moments, 4 bytes each
        else:
            precision, weights = LOW.get(name.partition(", ")[2], ("fp32", "fp32"))
            layer = make(METHODS[case], size, weights=weights)
            work = InChunks(layer, data, precision)
            held = sum(p.numel() * (p.element_size() + 8) for p in layer.parameters())
        for _ in range(2):
            work.step()
        if counted:
            peak = peak_host_bytes()
            if peak is None or before is None:
                raise RuntimeError("this kernel does not tell the peak memory of a process")
            return {"transient_host_bytes": peak - before - held}
        del work  # and what it holds
    raise AssertionError


if __name__ == "__main__":
    print(json.dumps(measure_memory(sys.argv[1], int(sys.argv[2]))))
