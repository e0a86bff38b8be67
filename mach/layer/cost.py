"""The cost of one run of the hashed output layer: bytes by purpose, and operations, before anything is built.

`mach.theory.cost` compares networks in theory; this counts the memory of this implementation, with scratch memory and
copies (docs/planning.md compares it with measured peaks).
"""

from __future__ import annotations

from collections.abc import Mapping

from mach.decode.cpu.scan import FAR_TILE, KEPT
from mach.decode.cpu.simd.vectors import LINE
from mach.decode.estimators import ESTIMATORS, estimator_names
from mach.decode.ranking import SLICE_BYTES
from mach.kernels.sizes import FLOAT_BYTES

GROUP = 2 * LINE  # points of a group of the scan, with half a byte each


def layer_cost(
    *, n_labels: int, hidden: int, run: Mapping[str, float], B: int, R: int, estimator: str = "logit_sum"
) -> dict[str, float]:
    """Bytes and operations of R·B bucket outputs on ``hidden`` activations, trained ``run["together"]`` at a time.

    Args:
        n_labels, hidden, B, R, estimator: as for `mach.layer.MachOutput`.
        run: ``batch_size``, ``predict_batch`` (points), ``threads``, ``together`` (repetitions of a group) and
            ``validated`` (1 when the groups trained so far are decoded while training goes on, else 0).

    Returns:
        ``weights_bytes``, ``gradients_bytes``, ``optimiser_bytes`` (two moments) and ``activations_bytes`` of a step;
        ``index_bytes``, the label → bucket table; ``decoding_bytes``, the memory that decoding keeps: the table by
        label, the labels by bucket, and one byte per label and thread, once for each number of repetitions that is
        decoded; ``build_bytes`` and ``predict_bytes``, temporary memory on top; and ``step_flops``, ``step_bytes``
        (memory read and written) of a training step of all R repetitions.
    """
    parameters, together = R * (hidden + 1) * B, int(run["together"])
    in_group = parameters * together // R
    batch, threads = run["batch_size"], min(run["threads"], together)
    entry = 2 if B <= 2**16 else 4
    # A decoder for each completed group, where they are validated; the last is that of the whole.
    groups = R // together if run["validated"] else 0
    unfinished = int(groups * together < R)
    decoders = groups + unfinished
    decoded = together * groups * (groups + 1) // 2 + unfinished * R
    reads = {ESTIMATORS[name].reads for name in estimator_names(estimator)}
    copies = 2 if reads == {"logit"} else 3
    size = max(LINE, SLICE_BYTES // (FLOAT_BYTES * R * B) // LINE * LINE)
    scores = FLOAT_BYTES * min(run["predict_batch"], size) * R * B
    scratch = R * B * LINE + run["threads"] * FAR_TILE * GROUP + 5 * run["threads"] * R * GROUP * KEPT
    return {
        "weights_bytes": FLOAT_BYTES * parameters,
        "gradients_bytes": FLOAT_BYTES * in_group,
        "optimiser_bytes": 2 * FLOAT_BYTES * in_group,
        # Logits become their gradient in place; a product's operands are packed and its result is then copied.
        "activations_bytes": FLOAT_BYTES * threads * (batch * B + 2 * hidden * B),
        "index_bytes": entry * R * n_labels,
        "decoding_bytes": (entry + 4) * decoded * n_labels + run["threads"] * decoders * n_labels,
        "build_bytes": FLOAT_BYTES * hidden * B,
        "predict_bytes": copies * scores + scratch,
        "step_flops": 6 * batch * hidden * B * R,
        "step_bytes": FLOAT_BYTES * (8 * parameters + 6 * batch * B * R),
    }
