"""Decoding on a GPU beside plain torch, for `machbench speed decode_gpu`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from mach.decode.gpu.api import top_k_prefixes_device
from mach.hashing.families import hash_labels
from mach.kernels.triton_device import has_triton

Variants = dict[str, Callable[[], tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]]]

N_POINTS, N_LABELS, R, B, K = 256, 670_091, 32, 2000, 5


def decode_gpu() -> Variants:
    """Decoders of the top-5 labels of 256 points at Amazon-670K size, R = 32, B = 2,000; the reference first.

    The reference is torch, a chunk of labels at a time. Raises NotImplementedError where there is no CUDA device, or
    no triton.
    """
    if not torch.cuda.is_available():
        raise NotImplementedError("decode_gpu needs a CUDA device, and torch sees none")
    if not has_triton():
        raise NotImplementedError("decode_gpu needs the package triton, which is not installed")
    return variants("cuda", N_POINTS, N_LABELS)


def variants(device: str, n_points: int, n_labels: int) -> Variants:
    """Callables that return (scores [n_points, K], labels [n_points, K]) on the host.

    Scores are simulated: a noisy background with a few raised buckets per point and repetition. They and the table
    are on the device before the clock starts; the copy to the host waits until the device has finished.
    """
    rng = np.random.default_rng(0)
    scores = rng.normal(-6.0, 1.0, size=(n_points, R, B)).astype(np.float32)
    lookup = hash_labels(n_labels, B, R)
    for n in range(n_points):
        for label in rng.integers(0, n_labels, size=5):
            scores[n, np.arange(R), lookup[:, label]] += rng.normal(6.0, 2.0, size=R).astype(np.float32)
    on_device = torch.from_numpy(scores).to(device)
    table = torch.from_numpy(lookup.view(np.int16)).to(device)

    def decode(method: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        found, labels = top_k_prefixes_device(on_device, table, K, [R], method=method)
        return found[0].cpu().numpy(), labels[0].cpu().numpy()

    return {"torch in chunks": partial(decode, "torch"), "triton": partial(decode, "triton")}
