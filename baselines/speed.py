"""Output layers beside their plain forms, for `machbench speed softmax`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch

from baselines.full_softmax import FullSoftmax, loss_reference

N_POINTS, N_LABELS, HIDDEN = 256, 131_073, 128


def softmax() -> dict[str, Callable[[], tuple[npt.NDArray[np.float32]]]]:
    """Loss and gradient of one batch of 256 over 131,073 labels (the hidden gradient); the reference first."""
    rng = np.random.default_rng(0)
    columns = rng.integers(0, N_LABELS, size=(N_POINTS, 5))
    rows = np.repeat(np.arange(N_POINTS), 5)
    Y = sp.csr_matrix((np.ones(rows.size, np.float32), (rows, columns.ravel())), shape=(N_POINTS, N_LABELS))
    Y.data[:] = 1.0
    layer = FullSoftmax(n_labels=N_LABELS, hidden=HIDDEN, train_labels=Y, seeds={"initialisation": 0})
    hidden = torch.from_numpy(rng.normal(size=(N_POINTS, HIDDEN)).astype(np.float32))
    at_rows = torch.from_numpy(np.repeat(np.arange(N_POINTS), np.diff(Y.indptr)))
    at_columns = torch.from_numpy(Y.indices.astype(np.int64))

    def step(loss_of: Callable[[torch.Tensor], torch.Tensor]) -> tuple[npt.NDArray[np.float32]]:
        layer.zero_grad(set_to_none=True)
        leaf = hidden.clone().requires_grad_()
        loss_of(leaf).backward()
        assert leaf.grad is not None
        return (leaf.grad.numpy(),)

    return {
        "plain log_softmax": lambda: step(
            lambda h: loss_reference(h, layer.weight, layer.bias, at_rows, at_columns, "softmax")
        ),
        "chunked": lambda: step(lambda h: layer.loss(h, Y)),
    }
