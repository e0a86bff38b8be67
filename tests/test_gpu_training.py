"""Triton's kernels of training against the plain torch forms: on a GPU where there is one, else in the interpreter.

The interpreter is switched on for a process before it imports triton, so without a GPU this file runs itself in another
process, in which nothing is skipped.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import Tensor

from baselines.chunked import kernels
from baselines.full_softmax import FullSoftmax
from baselines.one_vs_all import OneVsAll
from bench.config.spec import TrainSettings
from bench.data import Split
from bench.model import inplace_adam, optim
from bench.model.ensemble import Ensemble
from bench.model.inplace_adam import AdamNumbers, RandomBits
from bench.model.methods import method_class
from bench.run.clock import Clock
from bench.run.train import train_groups
from mach.layer import loss as mach_loss
from mach.layer.output import MachOutput

TRITON = importlib.util.find_spec("triton") is not None
GPU = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cuda" if GPU else "cpu")
with_triton = pytest.mark.skipif(
    not TRITON or not (GPU or INTERPRETED), reason="needs triton, and a GPU or its interpreter"
)
needs_gpu = pytest.mark.skipif(not GPU or not TRITON, reason="needs a GPU, and triton")
SHAPES = [(1, 1), (16, 128), (33, 130), (150, 5), (5, 300)]
TYPES = [torch.float32, torch.bfloat16]
NUMBERS = AdamNumbers(0.01, 0.9, 0.9, 0.999, 0.1, 0.001, 1e-8)  # rate, correction, both decays and what is left, ε


@pytest.mark.soak
@pytest.mark.skipif(not TRITON or GPU or INTERPRETED, reason="needs triton, and no GPU, where the tests run themselves")
def test_the_kernels_in_the_interpreter() -> None:
    options = ["-x", "-o", "addopts=", "-p", "no:cacheprovider", "-p", "no:xdist"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, __file__],
        env=environment | {"TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) > 50


def chunk(n_labels: int, n_points: int, dtype: torch.dtype) -> tuple[Tensor, kernels.ChunkLabels]:
    """Logits [C, N], and bias and positives of their labels."""
    rng = np.random.default_rng(n_labels + n_points)
    logits = torch.from_numpy(rng.normal(0.0, 4.0, (n_labels, n_points)).astype(np.float32)).to(dtype)
    bias = torch.from_numpy(rng.normal(-2.0, 1.0, n_labels).astype(np.float32))
    pairs = np.flatnonzero(rng.random(n_labels * n_points) < 0.1)
    rows, points = (torch.from_numpy(part) for part in np.divmod(pairs, n_points))
    return logits.to(DEVICE), kernels.ChunkLabels(bias.to(DEVICE), rows.to(DEVICE), points.to(DEVICE))


def in_double(labels: kernels.ChunkLabels) -> kernels.ChunkLabels:
    return labels._replace(bias=labels.bias.double())


def near(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    tolerance = {"rtol": 5e-5, "atol": 5e-5} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 1e-2}
    torch.testing.assert_close(found.double(), expected.double(), **tolerance)


@with_triton
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("negatives_only", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_log_sum(shape: tuple[int, int], negatives_only: bool, dtype: torch.dtype) -> None:
    from baselines.chunked import triton_kernels

    logits, labels = chunk(*shape, dtype)
    found, expected = (torch.empty(len(labels.rows), device=DEVICE, dtype=t) for t in (torch.float32, torch.float64))
    sums, expected_sums = (torch.full((shape[1],), torch.nan, device=DEVICE, dtype=found.dtype) for _ in range(2))
    expected_sums = expected_sums.double()
    kernels.log_sum_torch(logits.double(), in_double(labels), negatives_only, expected, expected_sums)
    triton_kernels.log_sum(logits, labels, negatives_only, found, sums)
    near(found, expected, torch.float32)
    some = expected_sums > -1e30  # where a point has a label that counts
    near(sums[some], expected_sums[some], torch.float32)
    assert (sums[~some] < -1e30).all()


@with_triton
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_softmax_gradient(shape: tuple[int, int], dtype: torch.dtype) -> None:
    from baselines.chunked import triton_kernels

    logits, labels = chunk(*shape, dtype)
    log_total = torch.linspace(5.0, 9.0, shape[1], device=DEVICE)
    factor = torch.linspace(0.0, 1.0, shape[1], device=DEVICE)
    at_positives = -torch.linspace(0.1, 1.0, len(labels.rows), device=DEVICE)
    expected, expected_bias = logits.double(), labels.bias.double()
    rest = (t.double() for t in (log_total, factor, at_positives))
    kernels.softmax_gradient_torch(expected, in_double(labels), *rest, expected_bias)
    grad_bias = torch.full_like(labels.bias, torch.nan)
    triton_kernels.softmax_gradient(logits, labels, log_total, factor, at_positives, grad_bias)
    near(logits, expected, dtype)
    near(grad_bias, expected_bias if dtype == torch.float32 else logits.double().sum(1), torch.float32)


@with_triton
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_bce_gradient(shape: tuple[int, int], dtype: torch.dtype) -> None:
    from baselines.chunked import triton_kernels

    logits, labels = chunk(*shape, dtype)
    logits[0, 0], labels.bias[0] = -40.0, 0.0  # e^-40 is lost beside 1, but not from the loss
    expected, expected_bias = logits.double(), labels.bias.double()
    expected_loss = kernels.bce_gradient_torch(expected, in_double(labels), 0.25, expected_bias)
    grad_bias = torch.full_like(labels.bias, torch.nan)
    near(triton_kernels.bce_gradient(logits, labels, 0.25, grad_bias), expected_loss, torch.float32)
    near(logits, expected, dtype)
    near(grad_bias, expected_bias if dtype == torch.float32 else logits.double().sum(1), torch.float32)


@with_triton
def test_a_small_loss_is_not_lost() -> None:
    from baselines.chunked import triton_kernels

    logits = torch.full((1, 4), -17.0, device=DEVICE)
    nothing = torch.empty(0, dtype=torch.int64, device=DEVICE)
    labels = kernels.ChunkLabels(torch.zeros(1, device=DEVICE), nothing, nothing)
    loss = triton_kernels.bce_gradient(logits, labels, 1.0, torch.zeros(1, device=DEVICE))
    assert loss.item() == pytest.approx(4 * np.log1p(np.exp(-17.0)), rel=1e-5)


@with_triton
def test_a_logit_that_is_no_number_shows() -> None:
    from baselines.chunked import triton_kernels

    logits, labels = chunk(33, 130, torch.float32)
    logits[20, 7] = torch.nan
    sums = torch.empty(130, device=DEVICE)
    triton_kernels.log_sum(logits, labels, False, torch.empty(len(labels.rows), device=DEVICE), sums)
    assert sums.isnan().nonzero().tolist() == [[7]]
    assert triton_kernels.bce_gradient(logits, labels, 1.0, torch.empty_like(labels.bias)).isnan()


@with_triton
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 70), (2, 33, 40)])
def test_bucket_losses(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    from mach.layer.triton_kernels import bce_gradient

    rng = np.random.default_rng(shape[1])
    logits = torch.from_numpy(rng.normal(-3.0, 4.0, shape).astype(np.float32)).to(dtype).to(DEVICE)
    at = tuple((torch.from_numpy(rng.random(shape)) < 0.1).nonzero().T.to(DEVICE))
    expected_loss, expected = mach_loss._loss_and_gradient_torch(logits.double(), *at, "bce")
    loss, gradient = bce_gradient(logits, at, shape[1])
    near(loss, expected_loss, torch.float32)
    near(gradient, expected, dtype)
    assert loss.dtype == torch.float32


@with_triton
@pytest.mark.parametrize("gradient_type", TYPES)
@pytest.mark.parametrize("cells", [1, 1023, 2500])
def test_adam_in_place(cells: int, gradient_type: torch.dtype) -> None:
    from bench.model import triton_updates

    ours = [torch.randn(cells, device=DEVICE), torch.randn(cells, device=DEVICE), torch.rand(cells, device=DEVICE)]
    theirs, gradient = [tensor.clone() for tensor in ours], torch.randn(cells, device=DEVICE).to(gradient_type)
    triton_updates.adam(*ours, gradient, RandomBits(0, 0), NUMBERS)
    inplace_adam.adam_torch(*theirs, gradient.float(), RandomBits(0, 0), NUMBERS)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)


@with_triton
@pytest.mark.parametrize(("first", "key"), [(0, 1), (2**32 - 700, 2**32 - 1), (2**40 + 3, 2**31)])
def test_adam_in_place_rounds_as_the_reference_does(first: int, key: int) -> None:
    """Bit for bit but where a value differs in its last place, which moves it over an edge seldom and by one step."""
    from bench.model import triton_updates

    moments = [torch.randn(3000, device=DEVICE), torch.rand(3000, device=DEVICE)]
    ours = [torch.randn(3000, device=DEVICE).bfloat16(), *moments]
    theirs, gradient = [tensor.clone() for tensor in ours], torch.randn(3000, device=DEVICE)
    triton_updates.adam(*ours, gradient, RandomBits(first, key), NUMBERS)
    inplace_adam.adam_torch(*theirs, gradient, RandomBits(first, key), NUMBERS)
    assert (ours[0] == theirs[0]).float().mean() > 0.99
    torch.testing.assert_close(ours[0], theirs[0], rtol=2**-7, atol=0.0)


@with_triton
@pytest.mark.parametrize("width", [1, 96, 1500])
def test_adam_of_rows(width: int) -> None:
    from bench.model import triton_updates

    rows = torch.tensor([7, 0, 3], device=DEVICE)
    ours = [torch.randn(9, width, device=DEVICE), torch.randn(9, width, device=DEVICE)]
    ours.append(torch.rand(9, width, device=DEVICE))
    theirs, gradient = [tensor.clone() for tensor in ours], torch.randn(3, width, device=DEVICE)
    rate, _, *others = NUMBERS
    numbers = optim.AdamStep(rate, *others)
    triton_updates.adam_rows(*ours, rows, gradient, numbers)
    optim._adam_torch(*theirs, rows, gradient, numbers)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)
    triton_updates.adam_rows(*ours, rows[:0], gradient[:0], numbers)


@with_triton
@pytest.mark.parametrize(("groups", "width"), [(1, 1), (3, 20), (2, 300)])
def test_rowwise_adagrad(groups: int, width: int) -> None:
    from bench.model import triton_updates

    rows = torch.tensor([7, 0, 3], device=DEVICE)
    ours = [torch.randn(9, groups * width, device=DEVICE), torch.rand(9, groups, device=DEVICE)]
    theirs, gradient = [tensor.clone() for tensor in ours], torch.randn(3, groups * width, device=DEVICE)
    triton_updates.adagrad_rows(*ours, rows, gradient, 0.1, 1e-10)
    optim._adagrad_torch(*theirs, rows, gradient, 0.1, 1e-10)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


LAYERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "softmax": (FullSoftmax, {"label_chunk": 40}),
    "decoupled": (FullSoftmax, {"label_chunk": 40, "loss": "decoupled"}),
    "one_vs_all": (OneVsAll, {"label_chunk": 40}),
    "mach": (MachOutput, {"B": 30, "R": 3}),
    "mach_softmax": (MachOutput, {"B": 30, "R": 3, "loss": "softmax"}),
}


@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", LAYERS)
def test_layers_on_a_gpu_have_the_gradients_of_the_cpu(kind: str, precision: str) -> None:
    labels = sp.random_array((70, 101), density=0.05, format="csr", random_state=0, dtype=np.float32)
    labels = sp.csr_matrix(labels)
    make, settings = LAYERS[kind]
    seeds = {"hashing": 1, "initialisation": 2, "sampling": 3}
    layers = [make(n_labels=101, hidden=24, train_labels=labels, seeds=seeds, **settings) for _ in range(2)]
    shape = (3, 70, 24) if kind.startswith("mach") else (70, 24)
    hidden = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = []
    for layer, device, dtype in ((layers[0], "cuda", torch.float32), (layers[1], "cpu", torch.float64)):
        layer.to(device).to(dtype)
        layer.precision = precision if device == "cuda" else "fp32"
        own = hidden.to(device).to(dtype).requires_grad_()
        value = layer.loss(own, labels)
        value.backward()
        gradients = [own.grad, *(p.grad for p in layer.parameters())]
        found.append([value.detach().cpu().double(), *(g.cpu().double() for g in gradients)])
    for ours, theirs in zip(*found, strict=True):
        off = (ours - theirs).abs().max() / theirs.abs().max()
        assert off < (1e-4 if precision == "fp32" else 3e-2)


REPEATED: dict[str, tuple[str, dict[str, Any]]] = {
    "full_softmax": ("baselines.full_softmax.FullSoftmax", {}),
    "full_softmax in bf16": ("baselines.full_softmax.FullSoftmax", {"weights": "bf16"}),
    "decoupled": ("baselines.full_softmax.FullSoftmax", {"loss": "decoupled"}),
    "one_vs_all": ("baselines.one_vs_all.OneVsAll", {}),
    "sampled_softmax": ("baselines.sampled_softmax.SampledSoftmax", {"n_samples": 300}),
    "adaptive_softmax": ("baselines.adaptive_softmax.AdaptiveSoftmax", {"cutoffs": "100-400"}),
    "bottleneck": ("baselines.bottleneck.Bottleneck", {"rank": 8}),
    "mach": ("mach.layer.output.MachOutput", {"B": 50, "R": 4}),
    "mach with hashed features": ("mach.layer.output.MachOutput", {"B": 50, "R": 4, "feature_hash": 90}),
}


@needs_gpu
@pytest.mark.parametrize("optimiser", ["adam", "rowwise_adagrad"])
@pytest.mark.parametrize("method", REPEATED)
def test_training_on_a_gpu_gives_the_same_bits_again(method: str, optimiser: str) -> None:
    X, Y = (
        sp.csr_matrix(sp.random_array((600, columns), density=density, format="csr", random_state=0, dtype=np.float32))
        for columns, density in ((200, 0.1), (900, 0.02))
    )
    target, own = REPEATED[method]
    settings = TrainSettings(hidden="32-24", epochs=3, batch_size=64, optimiser=optimiser, device="cuda")
    device = torch.device("cuda")
    found = []
    for _ in range(2):
        seeds = {"hashing": 1, "initialisation": 2, "sampling": 3}
        layer = method_class(target)(n_labels=900, hidden=24, train_labels=Y, seeds=seeds, **own)
        ensemble = Ensemble(layer, 200, settings, 5, device)
        train_groups(ensemble, Split(X, Y), Clock(DEVICE))
        with torch.no_grad():
            (ranking,) = ensemble.topk(X, ensemble.prefixes[-1:], 10)
        parameters = [p.detach().cpu() for group in ensemble.groups for p in group.network.parameters()]
        found.append([*ranking, *(p.float().numpy() for p in parameters)])
    for first, second in zip(*found, strict=True):
        np.testing.assert_array_equal(first, second)
