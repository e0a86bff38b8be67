"""Processes that are kept for all tests of a module, because starting one takes seconds, and the work that they do."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
import torch.distributed as dist
from torch import Tensor

from baselines.chunked.linear import LinearOverLabels
from baselines.full_softmax import FullSoftmax
from baselines.one_vs_all import OneVsAll
from baselines.parts.shards import Shards
from bench.model.optim import Optimiser
from bench.run.ranks.group import ProcessGroup

SEEDS = {"hashing": 1, "initialisation": 2, "sampling": 3}
KINDS: dict[str, tuple[type[LinearOverLabels], dict[str, Any]]] = {
    "softmax": (FullSoftmax, {}),
    "decoupled": (FullSoftmax, {"loss": "decoupled"}),
    "bce": (OneVsAll, {}),
}
HIDDEN = 6
Arrays = list[npt.NDArray[Any]]


class Pool:
    """Processes 0, 1, ...; the first ``world_size`` of them do each piece of work, as a fresh process group."""

    def __init__(self, size: int, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._number = 0
        pairs = [context.Pipe() for _ in range(size)]
        self._pipes = [mine for mine, _ in pairs]
        self._processes = [
            context.Process(target=serve, args=(rank, pair[1], str(folder)), daemon=True)
            for rank, pair in enumerate(pairs)
        ]
        for process in self._processes:
            process.start()

    def ask(self, world_size: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What each process makes of it, in the order of ranks. AssertionError with the traceback of one that fails."""
        self._number += 1
        for pipe in self._pipes[:world_size]:
            pipe.send((self._number, world_size, work, arguments))
        answers = [pipe.recv() for pipe in self._pipes[:world_size]]
        failures = [text for ok, text in answers if not ok]
        assert not failures, failures[0]
        return [answer for _, answer in answers]

    def close(self) -> None:
        for process in self._processes:
            process.kill()


def serve(rank: int, pipe: Connection, folder: str) -> None:
    torch.set_num_threads(1)
    while True:
        number, world_size, work, arguments = pipe.recv()
        try:
            store = dist.FileStore(os.path.join(folder, str(number)), world_size)  # noqa: PTH118 - it takes a string
            ranks = ProcessGroup(rank, world_size, store)
            ranks.join(torch.device("cpu"))
            pipe.send((True, work(*arguments)))
            ranks.leave()
        except Exception:
            pipe.send((False, f"rank {rank}: {traceback.format_exc()}"))
            if dist.is_initialized():
                dist.destroy_process_group()


def build(kind: str, labels: sp.csr_matrix, **settings: Any) -> LinearOverLabels:
    """A layer whose biases are its own, label by label, however the labels are divided."""
    target, own = KINDS[kind]
    once = labels.copy()
    once.sum_duplicates()
    layer = target(n_labels=labels.shape[1], hidden=HIDDEN, train_labels=once, seeds=SEEDS, **own, **settings)
    noise = torch.randn(labels.shape[1], generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        layer.bias.add_(noise[layer.rows])
    return layer


def labels_of(n_points: int, n_labels: int, share: float, seed: int) -> sp.csr_matrix:
    """With a point without labels, and one that names a label twice."""
    dense = np.random.default_rng(seed).random((n_points, n_labels)) < share
    dense[0] = False
    plain = sp.csr_matrix(dense.astype(np.float32))
    indptr = plain.indptr.copy()
    indptr[-1] += 2
    twice = np.array([n_labels - 1] * 2, dtype=plain.indices.dtype)
    rest = [index for index in plain.indices[plain.indptr[-2] :] if index != n_labels - 1]
    indices = np.concatenate([plain.indices[: plain.indptr[-2]], np.array(rest, dtype=twice.dtype), twice])
    indptr[-1] = len(indices)
    return sp.csr_matrix((np.ones(len(indices), dtype=np.float32), indices, indptr), shape=plain.shape)


def hidden_of(n_points: int, seed: int, dtype: str = "float32", scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n_points, HIDDEN, dtype=getattr(torch, dtype), generator=generator)


def gradients(kind: str, labels: sp.csr_matrix, seed: int, dtype: str, scale: float, **settings: Any) -> Arrays:
    """Loss, gradients of hidden, weight and bias; and the loss where none are wanted."""
    layer = build(kind, labels, **settings).to(getattr(torch, dtype))
    hidden = hidden_of(labels.shape[0], seed, dtype, scale).requires_grad_()
    loss = layer.loss(hidden, labels)
    loss.backward()
    with torch.no_grad():
        alone = layer.loss(hidden, labels)
    found = (loss.detach(), hidden.grad, layer.weight.grad, layer.bias.grad, alone)
    return [tensor.numpy() for tensor in found if tensor is not None]


def trained(kind: str, labels: sp.csr_matrix, steps: int, **settings: Any) -> Arrays:
    """Weight, bias and the moments of the weight after some steps, and hidden's gradient of the last."""
    layer = build(kind, labels, **settings)
    with Optimiser(layer, 0.02, seed=3) as optimiser:
        for step in range(steps):
            optimiser.zero_grad()
            hidden = hidden_of(labels.shape[0], step).requires_grad_()
            layer.loss(hidden, labels).backward()
            optimiser.step()
        moments = optimiser.parts[-1].state[layer.weight]
    assert hidden.grad is not None
    found = (layer.weight.detach().float(), layer.bias.detach(), moments["mean"], moments["square"], hidden.grad)
    return [tensor.numpy() for tensor in found]


def ranked(labels: sp.csr_matrix, n_points: int, k: int, seed: int, **settings: Any) -> Arrays:
    """Top-k of whole numbers, which are exact and often equal, of all labels, and without some pairs."""
    layer = build("softmax", labels, **settings)
    rng = np.random.default_rng(seed)
    weight = rng.integers(-1, 2, (labels.shape[1], HIDDEN)).astype(np.float32)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight[layer.rows]))
        layer.bias.zero_()
        hidden = torch.from_numpy(rng.integers(-1, 2, (n_points, HIDDEN)).astype(np.float32))
        pairs = sp.csr_matrix(rng.random((n_points, labels.shape[1])) < 0.5)
        return [*layer.topk(hidden, k), *layer.topk(hidden, k, excluded=pairs)]


def built(labels: sp.csr_matrix, **settings: Any) -> tuple[Arrays, int, int]:
    """Weight and bias as they start, the number of the first row, and parameters elsewhere."""
    layer = build("bce", labels, **settings)
    return [layer.weight.detach().float().numpy(), layer.bias.detach().numpy()], layer.offset, layer.elsewhere


def sums(shape: tuple[int, ...], dtype: str) -> Arrays:
    """Both kinds of sums of numbers that do not add up exactly."""
    shards = Shards.of(dist.get_world_size())
    own = torch.randn(shape, dtype=getattr(torch, dtype), generator=torch.Generator().manual_seed(shards.rank))
    return [own.numpy(), shards.sum(own).numpy(), shards.sum_large(own).numpy()]


def refused(labels: sp.csr_matrix, shards: int) -> str:
    """What building a layer ends with."""
    try:
        build("softmax", labels, shards=shards)
    except ValueError as error:
        return str(error)
    return "built"
