"""A MACH model that is trained on synthetic points within minutes, for speed measurements with realistic scores."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor

from mach.layer.output import MachOutput

N_FEATURES, HIDDEN = 20_000, 64
LABELS, SIGNS, NOISE = 5, 12, 15  # per point: labels, features that depend on each label, features that do not
ZIPF_OFFSET = 30
EPOCHS, BATCH, LR = 3, 512, 0.01


def trained_scores(
    lookup_labels: int, B: int, R: int, *, n_train: int = 20_000, n_test: int = 64, seed: int = 0
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.integer], float]:
    """Bucket logits [n_test, R, B] of unseen points, the lookup [R, n_labels], and the share of points whose best label
    by the sum of logits is one of their labels.

    A point has 5 labels of a long tail and 12 features for each; R networks of a bag of features, 64 hidden units and
    B buckets learn them with the loss of `MachOutput` (bce over buckets).
    """
    rng = np.random.default_rng(seed)
    X, Y = _points(rng, n_train + n_test, lookup_labels)
    seeds = {"hashing": seed, "initialisation": seed, "sampling": seed}
    output = MachOutput(n_labels=lookup_labels, hidden=HIDDEN, train_labels=Y[:n_train], seeds=seeds, B=B, R=R)
    torch.manual_seed(seed)
    table = torch.nn.EmbeddingBag(N_FEATURES, R * HIDDEN, mode="sum", sparse=True)
    torch.nn.init.normal_(table.weight, std=0.1)
    steps = [
        torch.optim.Adam(output.parameters(), lr=LR, fused=True),
        torch.optim.SparseAdam(table.parameters(), lr=LR),
    ]
    n_steps, done = EPOCHS * -(-n_train // BATCH), 0
    for _ in range(EPOCHS):
        order = rng.permutation(n_train)
        for low in range(0, n_train, BATCH):
            rows = order[low : low + BATCH]
            for step in steps:
                step.zero_grad(set_to_none=True)
                for group in step.param_groups:
                    group["lr"] = LR * (1 - done / n_steps)
            output.loss(_hidden(table, X[rows], R), Y[rows]).backward()
            for step in steps:
                step.step()
            done += 1
    with torch.no_grad():
        hidden = _hidden(table, X[n_train:], R)
        logits = torch.stack([torch.addmm(output.biases[r], hidden[r], output.weights[r].T) for r in range(R)], 1)
        _, best = output.topk(hidden, 1)
    hits = np.mean([best[n, 0] in Y[n_train + n].indices for n in range(n_test)])
    return logits.numpy(), output.lookup, float(hits)


def _points(rng: np.random.Generator, n_points: int, n_labels: int) -> tuple[npt.NDArray[np.int64], sp.csr_matrix]:
    """Features [n_points, 75], which may repeat, and labels CSR."""
    weight = 1.0 / (np.arange(n_labels) + ZIPF_OFFSET)
    labels = rng.choice(n_labels, size=(n_points, LABELS), p=weight / weight.sum())
    of_label = rng.integers(0, N_FEATURES, size=(n_labels, SIGNS))
    noise = rng.integers(0, N_FEATURES, size=(n_points, NOISE))
    X = np.concatenate([of_label[labels].reshape(n_points, -1), noise], axis=1)
    rows = np.repeat(np.arange(n_points), LABELS)
    Y = sp.csr_matrix((np.ones(rows.size, np.float32), (rows, labels.ravel())), shape=(n_points, n_labels))
    Y.sum_duplicates()
    Y.data[:] = 1.0
    return X, Y


def _hidden(table: torch.nn.EmbeddingBag, X: npt.NDArray[np.int64], R: int) -> Tensor:
    """[R, N, H], for points whose features have the weight 1/√(their number)."""
    summed: Tensor = table(torch.from_numpy(X)) / X.shape[1] ** 0.5
    return summed.view(len(X), R, HIDDEN).transpose(0, 1).relu()
