"""The cost of MACH in parameters, bytes and operations, and the cost of a full output layer on the same encoder.

MACH saves in the output layer alone: every repetition has its own input layer, so in total MACH can have more
parameters than the layer that it replaces. `cost_ratios` compares them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from mach.kernels.sizes import FLOAT_BYTES


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
        ``params_total``; ``params_per_repetition``; and ``index_bytes`` of the table, 2 bytes per entry for B
        up to 2^16 and 4 above.

    Raises:
        ValueError: a size is below 1.
    """
    widths = _widths(hidden)
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


def cost(
    n_features: int, hidden: int | Sequence[int], B: int, R: int, n_labels: int, *, batch: int, nnz: float
) -> dict[str, float]:
    """Everything of `parameters`, and bytes and operations of all R repetitions in single precision.

    Args:
        n_features, hidden, B, R, n_labels: as for `parameters`.
        batch: points in a training step.
        nnz: features of a point that are not zero, on average; n_features for dense input.

    Returns:
        Also ``weights_bytes``; ``gradients_bytes`` (as many: dense gradients); ``adam_bytes`` (two moments per
        parameter); ``activations_bytes`` (values of all layers but the input for one batch, and their gradients, all
        repetitions at once); ``train_bytes``, the sum of these and of the index; ``serve_bytes``, weights and index;
        ``train_step_flops`` of the matrix products of one step, forward and backward (two a multiply-add; no gradient
        for the input; biases, loss and optimiser are left out); ``query_flops`` of the network for one point;
        ``query_scan_adds`` of the dense scan over all labels, K·R; and ``query_operations``, the sum of the two.
        For one worker that trains a repetition alone, call it with R = 1.

    Raises:
        ValueError: a size is below 1, or nnz is not in 0 … n_features.
    """
    counted = parameters(n_features, hidden, B, R, n_labels)
    _check_batch(batch, nnz, n_features)
    return _with_bytes_and_flops(counted, [*_widths(hidden), B], R, n_labels * R, batch, nnz)


def full_softmax_cost(
    n_features: int, hidden: int | Sequence[int], n_labels: int, *, batch: int, nnz: float
) -> dict[str, float]:
    """As `cost`, for one network n_features → hidden → n_labels: no index, no scan, an output for every label."""
    counted = parameters(n_features, hidden, n_labels, 1, n_labels) | {"index_bytes": 0}
    _check_batch(batch, nnz, n_features)
    return _with_bytes_and_flops(counted, [*_widths(hidden), n_labels], 1, 0, batch, nnz)


def cost_ratios(
    n_features: int, hidden: int | Sequence[int], B: int, R: int, n_labels: int, *, batch: int, nnz: float
) -> dict[str, float]:
    """Each entry of `cost` over that of `full_softmax_cost`, where the latter is not 0. Below 1 MACH is cheaper."""
    ours = cost(n_features, hidden, B, R, n_labels, batch=batch, nnz=nnz)
    full = full_softmax_cost(n_features, hidden, n_labels, batch=batch, nnz=nnz)
    return {name: ours[name] / full[name] for name in ours if full[name]}


def _widths(hidden: int | Sequence[int]) -> list[int]:
    return list(hidden) if isinstance(hidden, Sequence) else [hidden]


def _check_batch(batch: int, nnz: float, n_features: int) -> None:
    if batch < 1 or not 0 <= nnz <= n_features:
        raise ValueError(f"found batch={batch}, nnz={nnz}; expected batch >= 1, 0 <= nnz <= n_features={n_features}")


def _with_bytes_and_flops(
    counted: dict[str, int], widths: list[int], networks: int, scan: int, batch: int, nnz: float
) -> dict[str, float]:
    """``counted`` and the cost of ``networks`` networks with layers of these widths; scan: additions per query."""
    entering = networks * nnz * widths[0]  # multiply-adds of a point, forward
    after = networks * sum(a * b for a, b in itertools.pairwise(widths))
    weights = FLOAT_BYTES * counted["params_total"]
    activations = 2 * FLOAT_BYTES * batch * networks * sum(widths)
    return {
        **counted,
        "weights_bytes": weights,
        "gradients_bytes": weights,
        "adam_bytes": 2 * weights,
        "activations_bytes": activations,
        "train_bytes": 4 * weights + activations + counted["index_bytes"],
        "serve_bytes": weights + counted["index_bytes"],
        "train_step_flops": batch * (4 * entering + 6 * after),
        "query_flops": 2 * (entering + after),
        "query_scan_adds": scan,
        "query_operations": 2 * (entering + after) + scan,
    }
