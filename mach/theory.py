"""What the papers promise about MACH, as functions: collisions, repetitions needed, variance and size.

K labels are hashed into B buckets by each of R repetitions: R·B outputs are paid for, B^R codes tell labels
apart (Huang, Wang, Medini, Shrivastava: arXiv 1810.04254, 2018; Medini, Huang, Wang, Mohan, Shrivastava:
Extreme Classification in Log Memory using Count-Min Sketch, NeurIPS 2019).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def expected_unresolved_pairs(n_labels: int, B: int, R: int) -> float:
    """Expected number of label pairs that share their bucket in all R repetitions: K(K−1)/2 · B^−R.

    Exact when two labels collide with probability 1/B in a repetition, independently of the others; an upper
    bound for a family that only promises at most 1/B. With R = 0 every pair is unresolved.

    Raises:
        ValueError: ``n_labels`` or ``R`` is negative or ``B`` below 1.
    """
    if n_labels < 0 or B < 1 or R < 0:
        raise ValueError(f"found n_labels={n_labels}, B={B}, R={R}; expected n_labels >= 0, B >= 1, R >= 0")
    return n_labels * (n_labels - 1) / 2 * float(B) ** -R


def unresolved_pairs(lookup: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    """Number of label pairs that share their bucket in each of the first r repetitions, for r = 1 to R.

    Args:
        lookup: int [R, n_labels], the bucket of each label in each repetition.

    Returns:
        int64 [R], exact and never increasing; the last entry counts the pairs that no repetition tells apart.

    Raises:
        ValueError: ``lookup`` is not a two-dimensional array of integers, or a bucket is not in 0 … 2^31 − 1.
    """
    table = np.asarray(lookup)
    if table.ndim != 2 or not np.issubdtype(table.dtype, np.integer):
        raise ValueError(f"lookup: found {table.dtype} {list(table.shape)}; expected integers [R, n_labels]")
    if table.size and (table.min() < 0 or table.max() >= 2**31):
        raise ValueError(f"lookup: found buckets {table.min()} to {table.max()}; expected 0 to 2^31 - 1")
    pairs = np.zeros(len(table), dtype=np.int64)
    labels = np.arange(table.shape[1])  # those that still share all their buckets with some other label
    group = np.zeros(len(labels), dtype=np.int64)
    for r, row in enumerate(table):
        if labels.size == 0:
            break
        buckets = row[labels].astype(np.int64)
        _, group, sizes = np.unique(group * (buckets.max() + 1) + buckets, return_inverse=True, return_counts=True)
        pairs[r] = (sizes * (sizes - 1) // 2).sum()
        together = sizes[group] > 1
        labels, group = labels[together], group[together]
    return pairs


def repetitions_needed(n_labels: int, B: int, delta: float) -> float:
    """Repetitions that tell all pairs of labels apart with probability 1 − delta: 2·log(K/√delta) / log B.

    The union bound over fewer than K² pairs of B^−R each (arXiv 1810.04254); round up for a whole
    number. It says when labels can be told apart, not when they are predicted well.

    Raises:
        ValueError: ``n_labels`` below 1, ``B`` below 2, or ``delta`` not in (0, 1).
    """
    if n_labels < 1 or B < 2 or not 0 < delta < 1:
        raise ValueError(
            f"found n_labels={n_labels}, B={B}, delta={delta}; expected n_labels >= 1, B >= 2, 0 < delta < 1"
        )
    return float(2 * np.log(n_labels / np.sqrt(delta)) / np.log(B))


def estimator_variance(p: npt.ArrayLike, B: int, R: int) -> npt.NDArray[np.float64]:
    """Variance of MACH's estimate of each label's probability when the bucket probabilities are exact.

    The estimate p̂_k = B/(B−1) · (mean_r P_r[h_r(k)] − 1/B) is unbiased for single-label data; over pairwise
    independent hash functions its variance is Σ_{j≠k} p_j² / (R(B−1)).

    Args:
        p: label probabilities, float [..., n_labels], summing to 1 along the last axis.
        B, R: buckets per repetition and repetitions.

    Returns:
        float64 of the shape of ``p``.

    Raises:
        ValueError: ``B`` below 2 or ``R`` below 1, or ``p`` is no distribution along its last axis.
    """
    if B < 2 or R < 1:
        raise ValueError(f"found B={B}, R={R}; expected B >= 2, R >= 1")
    probabilities = np.asarray(p, dtype=np.float64)
    if probabilities.ndim == 0 or not (
        (probabilities >= 0).all() and np.allclose(probabilities.sum(axis=-1), 1, rtol=0, atol=1e-6)
    ):
        raise ValueError("p: expected probabilities of 0 or more that sum to 1 along the last axis")
    squares = probabilities**2
    others = squares.sum(axis=-1, keepdims=True) - squares
    return np.asarray(np.maximum(others, 0.0) / (R * (B - 1)))


def parameters(n_features: int, hidden: int | Sequence[int], B: int, R: int, n_labels: int) -> dict[str, int]:
    """Size of R independent networks n_features → hidden → B, with biases, split as in the results table.

    Args:
        n_features: size of the sparse input.
        hidden: width of the hidden layer, or the widths of several.
        B, R: buckets per repetition (1 or more) and repetitions.
        n_labels: labels in the label → bucket table.

    Returns:
        ``params_input`` (input to the first hidden layer), ``params_hidden`` (between hidden layers),
        ``params_output`` (last hidden layer to the buckets), each summed over the repetitions; their sum
        ``params_total``; ``params_per_repetition``; and ``index_bytes`` of the table, 2 bytes an entry for B
        up to 2^16 and 4 above.

    Raises:
        ValueError: a size is below 1.
    """
    widths = list(hidden) if isinstance(hidden, Sequence) else [hidden]
    if not widths or min(n_features, B, R, n_labels, *widths) < 1:
        raise ValueError(
            f"found n_features={n_features}, hidden={hidden}, B={B}, R={R}, n_labels={n_labels}; "
            "expected every size to be 1 or more"
        )
    entering = (n_features + 1) * widths[0]
    between = sum((before + 1) * after for before, after in itertools.pairwise(widths))
    leaving = (widths[-1] + 1) * B
    return {
        "params_input": R * entering,
        "params_hidden": R * between,
        "params_output": R * leaving,
        "params_total": R * (entering + between + leaving),
        "params_per_repetition": entering + between + leaving,
        "index_bytes": R * n_labels * (2 if B <= 2**16 else 4),
    }
