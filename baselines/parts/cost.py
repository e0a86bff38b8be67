"""The cost of one run of an output layer: bytes by purpose, and operations, before anything is built.

The argument ``run`` has ``n_points`` and ``labels_per_point`` of the points trained on, ``epochs``, ``batch_size``
and ``predict_batch`` in points, ``threads``. All return ``weights_bytes``, ``gradients_bytes``, ``optimiser_bytes``
and ``activations_bytes`` of a step; ``index_bytes`` of tables kept beside the weights; ``build_bytes`` and
``predict_bytes``, temporary memory on top; ``step_flops`` and ``step_bytes`` (memory read and written) of a
training step. Single precision unless said otherwise.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mach.kernels.sizes import FLOAT_BYTES

BLOCK_BYTES = 32 * 2**20  # glibc returns larger blocks to the system as soon as they are freed
RANK_CHUNK = 16384  # labels ranked at a time by `baselines.chunked.linear.linear_topk`
PRIOR_BYTES = 32  # per label: counts, their logarithm and values between, in double precision


@dataclass(frozen=True)
class DenseLayout:
    """How a linear layer over all labels is stored and computed."""

    keep_bytes: int  # logits up to this size are kept for the gradient
    label_chunk: int  # labels computed at a time
    passes: int  # products over all labels in a step in which logits are not kept
    weight_bytes: int = FLOAT_BYTES  # 4, or 2 for weights in bfloat16
    shards: int = 1  # processes over which the labels are divided


def dense_cost(*, n_labels: int, hidden: int, run: Mapping[str, float], layout: DenseLayout) -> dict[str, float]:
    """A linear layer over all labels, computed and updated in chunks: no gradient of its weights exists."""
    weight_bytes, shards, label_chunk = layout.weight_bytes, layout.shards, layout.label_chunk
    N, K = run["batch_size"], math.ceil(n_labels / shards)
    threads = min(run["threads"], math.ceil(K / label_chunk))
    logits = FLOAT_BYTES * N * K
    kept = logits <= layout.keep_bytes
    # A thread has a chunk's logits and one product's result; hidden's gradient is added up in double precision.
    chunk = FLOAT_BYTES * threads * label_chunk * (2 * N + 2 * hidden)
    parameters = K * (hidden + 1)
    return {
        "weights_bytes": K * (hidden * weight_bytes + FLOAT_BYTES),
        "gradients_bytes": 0,
        "optimiser_bytes": 2 * FLOAT_BYTES * parameters,
        # The exchange of hidden's gradient needs two more copies of it.
        "activations_bytes": (logits if kept else 0) + chunk + 8 * N * hidden * (1 if shards == 1 else 3),
        "index_bytes": 0,
        "build_bytes": PRIOR_BYTES * n_labels + (hidden * K * FLOAT_BYTES if weight_bytes < FLOAT_BYTES else 0),
        "predict_bytes": ranking_bytes(K, run["predict_batch"], RANK_CHUNK),
        "step_flops": 2 * (layout.passes - kept) * N * K * hidden,
        "step_bytes": FLOAT_BYTES * (6 * parameters + 4 * N * K),
    }


def ranking_bytes(n_labels: int, points: float, chunk: int) -> float:
    """Memory of a running top-k over chunks of labels: two chunks of logits, and for one of them a test for NaN."""
    width = min(n_labels, chunk)
    return points * width * (FLOAT_BYTES * (2 if n_labels > chunk else 1) + 1)


def sampled_cost(*, n_labels: int, hidden: int, run: Mapping[str, float], n_samples: int) -> dict[str, float]:
    """A linear layer over all labels trained on some rows per step; moments use memory only for rows that were used."""
    N, K = run["batch_size"], n_labels
    positives = N * run["labels_per_point"]
    used = min(K, n_samples + positives)
    steps = run["epochs"] * math.ceil(run["n_points"] / N)
    # Memory of moments is allocated in pages, and that of large arrays in huge pages.
    row = FLOAT_BYTES * hidden
    reached = 1.0 - math.exp(-steps * used / K * max(1.0, run["page_bytes"] / row))
    parameters = K * (hidden + 1)
    return {
        "weights_bytes": FLOAT_BYTES * parameters,
        # Rows in use, their gradient, and the positives' rows and activations.
        "gradients_bytes": FLOAT_BYTES * used * (hidden + 1),
        "optimiser_bytes": 2 * FLOAT_BYTES * parameters * reached,
        "activations_bytes": FLOAT_BYTES * (2 * N * n_samples + used * hidden + 4 * positives * hidden) + K,
        "index_bytes": 0,
        "decoding_bytes": 16 * K,  # of the sampler: cumulative probabilities and log inclusion
        "build_bytes": PRIOR_BYTES * K,
        "predict_bytes": ranking_bytes(K, run["predict_batch"], RANK_CHUNK),
        "step_flops": 6 * N * n_samples * hidden,
        "step_bytes": FLOAT_BYTES * (10 * used * (hidden + 1) + 6 * N * n_samples + 4 * positives * hidden),
    }


def adaptive_cost(
    *,
    hidden: int,
    run: Mapping[str, float],
    ends: Sequence[int],
    widths: Sequence[int],
    keep_bytes: int,
    label_chunk: int,
) -> dict[str, float]:
    """A head and tails: ``ends`` [C] of the clusters of labels, ``widths`` [C − 1]: numbers per label in each tail."""
    N, K = run["batch_size"], ends[-1]
    sizes = [ends[0] + len(widths), *(high - low for low, high in itertools.pairwise(ends))]
    inputs = [hidden, *widths]
    clusters = list(zip(sizes, inputs, strict=True))
    parameters = sum(size * (width + 1) for size, width in clusters) + hidden * sum(widths)
    # One buffer for a cluster's logits, or for those of a chunk; small buffers of several clusters exist together.
    buffers = [FLOAT_BYTES * N * (size if FLOAT_BYTES * N * size <= keep_bytes else label_chunk) for size in sizes]
    logits = max((size for size in buffers if size >= BLOCK_BYTES), default=0)
    logits += sum(size for size in buffers if size < BLOCK_BYTES)
    weights = FLOAT_BYTES * parameters
    return {
        "weights_bytes": weights,
        "gradients_bytes": weights,
        "optimiser_bytes": 2 * weights,
        "activations_bytes": logits,
        "index_bytes": 8 * K,
        "build_bytes": PRIOR_BYTES * K,
        # A chunk of logits, and its test for NaN.
        "predict_bytes": run["predict_batch"] * min(label_chunk, max(sizes)) * (FLOAT_BYTES + 1),
        "step_flops": 6 * N * sum(size * width for size, width in clusters),
        "step_bytes": FLOAT_BYTES * (8 * parameters + 6 * N * sum(sizes)),
    }
