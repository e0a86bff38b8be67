"""A training step of output layers over all labels beside plain dense torch, for `machbench speed softmax`.

python -m bench.speed.softmax VARIANT LABELS     (one JSON line: bytes of a step beyond weights, gradient and moments)
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.common.procfs import host_bytes
from bench.model.device import has_bf16
from bench.model.ensemble import set_precision
from bench.model.optim import Optimiser
from bench.run.memory import peak_host_bytes
from bench.speed import Array, Measurement, Row, Variants
from bench.speed.steps import TimedStep, make_layer

N_LABELS, HIDDEN, BATCH, LABELS_PER_POINT, N_BATCHES = 670_091, 128, 256, 5, 2  # labels of Amazon-670K
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
        variants: Variants = {PLAIN: Plain(case, data), method: InChunks(make_layer(method, N_LABELS, HIDDEN), data)}
        if has_bf16(CPU):
            for name, (precision, weights) in LOW.items():
                variants[f"{method}, {name}"] = InChunks(
                    make_layer(method, N_LABELS, HIDDEN, weights=weights), data, precision
                )
        beside: dict[str, Callable[[], object]] = {}
        if case == "softmax":
            sampled = make_layer("sampled_softmax", N_LABELS, HIDDEN, n_samples=N_SAMPLES)
            work = InChunks(sampled, data)
            work.step()  # for what a first step allocates
            beside[f"sampled_softmax, {N_SAMPLES:,} samples"] = work.step
        yield case, Measurement(variants, same, beside, functools.partial(with_memory, case=case))


def batches(n_labels: int) -> list[Batch]:
    """Hidden activations as behind a ReLU, and uniform labels."""
    rng = np.random.default_rng(0)
    indptr = np.arange(BATCH + 1) * LABELS_PER_POINT
    made = []
    for _ in range(N_BATCHES):
        hidden = np.maximum(rng.normal(size=(BATCH, HIDDEN)), 0.0).astype(np.float32)
        columns = [np.sort(rng.choice(n_labels, LABELS_PER_POINT, replace=False)) for _ in range(BATCH)]
        parts = (np.ones(indptr[-1], np.float32), np.concatenate(columns), indptr)
        made.append((torch.from_numpy(hidden), sp.csr_matrix(parts, shape=(BATCH, n_labels))))
    return made


class LossStep(TimedStep):
    """A training step on hidden activations: loss, gradients, optimiser."""

    optimiser: Any

    def step(self) -> None:
        self.backward(next(self.batches))
        self.optimiser.step()
        self.optimiser.zero_grad()

    def backward(self, at: int) -> tuple[float, Tensor]:
        """Loss of batch ``at``, and its hidden activations with their gradient."""
        self.optimiser.zero_grad()
        hidden = self.hidden(at).clone().requires_grad_()
        loss = self.loss(at, hidden)
        loss.backward()
        return float(loss.detach()), hidden

    @abstractmethod
    def hidden(self, at: int) -> Tensor:
        """Hidden activations [N, H] of batch ``at``."""

    @abstractmethod
    def loss(self, at: int, hidden: Tensor) -> Tensor:
        """The loss of batch ``at``, a scalar."""


class Plain(LossStep):
    """All logits at once, autograd, fused dense Adam. Targets that the loss wants dense are part of the step."""

    def __init__(self, case: str, data: Sequence[Batch]) -> None:
        super().__init__(len(data))
        first = make_layer(METHODS[case], data[0][1].shape[1], HIDDEN)
        self.weight, self.bias = (nn.Parameter(p.detach().clone()) for p in (first.weight, first.bias))
        self.optimiser = torch.optim.Adam([self.weight, self.bias], lr=LR, fused=True)
        self.loss_of = {"softmax": plain_softmax, "one-vs-all": plain_bce}[case]
        pairs = [(np.repeat(np.arange(BATCH), np.diff(Y.indptr)), Y.indices.astype(np.int64)) for _, Y in data]
        self.pairs = [(torch.from_numpy(rows), torch.from_numpy(columns)) for rows, columns in pairs]
        self.data = data

    def check(self) -> Sequence[Array]:
        loss, hidden = self.backward(0)
        tensors = [hidden.grad, self.weight.grad, self.bias.grad]
        found = [t.numpy().copy().reshape(len(t), -1) for t in tensors if t is not None]
        self.step()  # for what a first step allocates
        return [np.array([[loss]]), *found]

    def hidden(self, at: int) -> Tensor:
        return self.data[at][0]

    def loss(self, at: int, hidden: Tensor) -> Tensor:
        return self.loss_of(F.linear(hidden, self.weight, self.bias), *self.pairs[at])


def plain_softmax(logits: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Cross-entropy against 1/|Y|, mean over points."""
    share = 1.0 / torch.bincount(rows, minlength=len(logits))[rows]
    return -(F.log_softmax(logits, 1)[rows, columns] * share).sum() / len(logits)


def plain_bce(logits: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Binary cross-entropy summed over labels, mean over points."""
    target = torch.zeros_like(logits)
    target[rows, columns] = 1.0
    return F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / len(logits)


class InChunks(LossStep):
    """A layer as the harness trains it."""

    def __init__(self, layer: Any, data: Sequence[Batch], precision: str = "fp32") -> None:
        super().__init__(len(data))
        self.layer, self.data = layer, data
        set_precision(layer, precision, CPU)
        self.optimiser = Optimiser(layer, LR)

    def check(self) -> Sequence[Array]:
        found = {name: np.empty((len(p), p[0].numel()), np.float32) for name, p in self.layer.named_parameters()}

        def collect(name: str, rows: slice, gradient: Tensor) -> None:
            found[name][rows] = gradient.reshape(len(gradient), -1).numpy()

        usual, self.layer.update = self.layer.update, collect
        loss, hidden = self.backward(0)
        self.layer.update = usual
        self.step()
        assert hidden.grad is not None
        return [np.array([[loss]]), hidden.grad.numpy(), found["weight"], found["bias"]]

    def hidden(self, at: int) -> Tensor:
        return self.data[at][0]

    def loss(self, at: int, hidden: Tensor) -> Tensor:
        loss: Tensor = self.layer.loss(hidden, self.data[at][1])
        return loss


def same(variant: str, found: Array, expected: Array) -> bool:
    """Every element to 1e-4 of the largest of its row (a point's or a label's); bf16 to 2 % of the largest of all."""
    off = np.abs(found - expected)
    if "bf16" in variant:
        return bool(off.max() <= 0.02 * np.abs(expected).max())
    return bool((off <= 1e-4 * np.abs(expected).max(1, keepdims=True)).all())


def with_memory(rows: list[Row], case: str) -> list[Row]:
    """The rows with the memory of a step at two numbers of labels, or the speed relative to the exact layer."""
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
    """Bytes of a step, measured in a process of its own."""
    command = [sys.executable, "-m", "bench.speed.softmax", variant, str(n_labels)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(json.loads(ran.stdout)["transient_host_bytes"])


def measure_memory(variant: str, n_labels: int) -> dict[str, int]:
    """Peak resident bytes of this process less what it held before, the weights, their gradient and their moments.

    ``VmHWM`` counts the whole life of the process, so a variant needs a fresh one. Two steps over few labels come
    first: memory for compiling and starting threads does not belong to a step. An in-place layer has no gradient.
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
            layer = make_layer(METHODS[case], size, HIDDEN, weights=weights)
            work = InChunks(layer, data, precision)
            held = sum(p.numel() * (p.element_size() + 8) for p in layer.parameters())
        for _ in range(2):
            work.step()
        if counted:
            peak = peak_host_bytes()
            if peak is None or before is None:
                raise RuntimeError("this kernel does not report the peak memory of a process")
            return {"transient_host_bytes": peak - before - held}
        del work  # and what it holds
    raise AssertionError


if __name__ == "__main__":
    print(json.dumps(measure_memory(sys.argv[1], int(sys.argv[2]))))
