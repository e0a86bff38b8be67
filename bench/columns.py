"""The columns of ``table.csv`` as data: name, unit, direction, and how each is shown. To add a column, add it here.

One ordered list, used by the writer of the table, by the checks when it is read, and by every table and figure. At the
end: all that the readers of results know about methods.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

STATUS_WORDS = {
    "ok": "ok",
    "oom_host": "out of host memory",
    "oom_device": "out of GPU memory",
    "timeout": "out of time",
    "diverged": "diverged",
    "unsupported": "not supported",
    "skipped_by_plan": "skipped by the plan",
    "crashed": "crashed",
    "interrupted": "interrupted",
}
OUT_OF_MEMORY = ("oom_host", "oom_device", "skipped_by_plan")  # statuses of runs that did not fit
MIB = 2**20
NEVER_EMPTY = ("experiment", "run_id", "status", "method", "dataset")
_ROUNDING = 1e-9  # a mean of ones may be a little above one


@dataclass(frozen=True)
class Column:
    """One column. ``unit`` is that of the file; tables and figures show ``value · scale`` in ``shown_unit``."""

    name: str
    group: str
    kind: Literal["text", "int", "float"]
    label: str
    unit: str = ""
    better: Literal["higher", "lower", ""] = ""
    latex: str = ""  # only where it differs from the escaped label
    shown_unit: str = ""
    scale: float = 1.0
    style: Literal["plain", "fixed2", "sig3"] = "plain"
    required: bool = True  # in every table; False: only where some row has a value

    def show(self, value: float | int | str) -> str:
        """``value`` (in the unit of the file) as a table shows it, without the unit."""
        if isinstance(value, str) or self.style == "plain":
            return str(value)
        shown = float(value) * self.scale
        return f"{shown:.2f}" if self.style == "fixed2" else three_digits(shown)

    def accepts(self, value: Any) -> bool:
        """Whether a value that is not missing fits the column: its kind, finite, and its range."""
        if self.kind == "text":
            return not isinstance(value, list | dict)
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
            return False
        number = float(value)
        whole = self.kind == "float" or number.is_integer()
        return whole and number >= 0 and (self.group != "quality" or number <= 1 + _ROUNDING)

    @property
    def expected(self) -> str:
        """What the column accepts, in words."""
        if self.group == "quality":
            return "a fraction from 0 to 1"
        if self.kind == "text":
            return "text"
        what = "a whole number" if self.kind == "int" else "a number"
        return f"{what}, 0 or more{f' ({self.unit})' if self.unit else ''}, or nothing when it was not measured"


def three_digits(x: float) -> str:
    """About three significant digits, never in exponent form above 0.001: 0.0312, 0.00, 4.19, 41.9, 1,234."""
    size = abs(x)
    if size >= 99.95:
        return f"{x:,.0f}"
    return f"{x:.1f}" if size >= 9.995 else f"{x:.2f}" if size >= 0.995 or x == 0 else f"{x:#.3g}"


def _text(group: str, names: str) -> list[Column]:
    return [Column(n, group, "text", n.replace("_", " ")) for n in names.split()]


def _count(group: str, name: str, label: str, latex: str = "") -> Column:
    return Column(name, group, "int", label, latex=latex)


def _quality(name: str, required: bool = True) -> Column:
    return Column(
        name,
        "quality",
        "float",
        name.replace("_", " "),
        unit="fraction",
        better="higher",
        shown_unit="%",
        scale=100,
        style="fixed2",
        required=required,
    )


def _params(name: str, label: str) -> Column:
    return Column(
        name,
        "size",
        "int",
        label,
        unit="parameters",
        better="lower",
        shown_unit="M",
        scale=1e-6,
        style="sig3",
    )


def _bytes(group: str, name: str, label: str, required: bool = True) -> Column:
    return Column(
        name,
        group,
        "int",
        label,
        unit="bytes",
        better="lower",
        shown_unit="MiB",
        scale=1 / MIB,
        style="sig3",
        required=required,
    )


def _seconds(name: str, label: str, required: bool = True) -> Column:
    return Column(
        name, "time", "float", label, unit="s", better="lower", shown_unit="s", style="sig3", required=required
    )


_MEASURES = [(m, k) for m in ("P", "nDCG", "PSP") for k in (1, 3, 5)] + [("R", 5), ("minP", 3), ("minP", 5)]


QUALITY = tuple(f"{measure}@{k}" for measure, k in _MEASURES)


# Kinds of memory, and phases of a run for each of which a peak is measured: in names of columns, and in words.
MEMORIES = {
    "host": "host memory",
    "gpu_allocated": "GPU memory, allocated",
    "gpu_reserved": "GPU memory, reserved",
    "gpu_process": "GPU memory of the process",
}


PHASES = {"load": "load", "build": "build", "warmup": "warm-up", "fit": "fit", "predict": "predict"}


PARTS = ("weights", "gradients", "optimiser", "activations", "index", "data", "process")  # of a predicted peak


DECILES = 10  # bins of label frequency of equal weight, beside one for labels without a train point


BY_GROUP = tuple(f"{metric}_{group}" for metric in ("P@1", "P@5", "R@5") for group in ("head", "torso", "tail"))


COLUMNS: tuple[Column, ...] = (
    *_text("identity", "experiment run_id status reason method dataset data_fingerprint"),
    _count("identity", "seed", "seed"),
    *_text("identity", "env_id derived_from"),
    # of the points, labels, filter and constants that decide the metrics: `bench.config.evaluation_inputs`
    Column("evaluation_fingerprint", "identity", "text", "evaluation fingerprint", required=False),
    Column("replaces", "identity", "text", "replaces", required=False),  # run id of the earlier answer
    Column("replaced_because", "identity", "text", "replaced because", required=False),
    Column("code", "identity", "text", "code", required=False),  # hash of the code that ran
    Column("evaluated_on", "identity", "text", "evaluated on", required=False),
    Column("library", "identity", "text", "library", required=False),  # of a peer that runs in its own environment
    Column("reproducible", "identity", "text", "reproducible", required=False),
    _count("settings", "B", "B", latex="$B$"),
    _count("settings", "R", "R", latex="$R$"),
    Column("hidden", "settings", "text", "hidden", unit="units"),  # text: two layers read 500-500
    _count("settings", "epochs", "epochs"),
    _count("settings", "batch_size", "batch size"),
    *_text("settings", "loss decoder precision device"),
    _count("data", "n_train", "training points"),
    _count("data", "n_test", "test points"),
    _count("data", "n_features", "features"),
    _count("data", "n_labels", "labels"),
    *(_quality(name) for name in QUALITY),
    *(_quality(name, required=False) for name in BY_GROUP),
    _params("params_total", "all parameters"),
    _params("params_input", "input parameters"),
    _params("params_hidden", "hidden parameters"),
    _params("params_output", "output parameters"),
    _params("params_per_repetition", "parameters per repetition"),
    _bytes("size", "index_bytes", "index"),
    Column("model_bytes", "size", "int", "model on disk", "bytes", "lower", "", "MiB", 1 / MIB, "sig3", required=False),
    Column("unresolved_pairs", "size", "int", "label pairs that share all buckets", "pairs", "lower", required=False),
    Column("encoder_trained_by", "size", "int", "repetitions that trained the encoder", "repetitions", required=False),
    Column("repetitions_together", "size", "int", "repetitions trained together", "repetitions", required=False),
    _bytes("memory", "peak_host_bytes", "peak host memory"),
    _bytes("memory", "peak_gpu_allocated_bytes", "peak GPU memory, allocated"),
    _bytes("memory", "peak_gpu_reserved_bytes", "peak GPU memory, reserved"),
    _bytes("memory", "predicted_peak_bytes", "predicted peak memory"),
    _bytes("memory", "peak_gpu_process_bytes", "peak GPU memory of the process", required=False),
    *(
        _bytes("memory", f"{what}_{kind}_{which}bytes", f"{words} {MEMORIES[kind]}{more}", required=False)
        for kind in ("host", "gpu_process")
        for what, which, words, more in (
            ("baseline", "", "baseline", ""),
            ("peak", "above_baseline_", "peak", " above the baseline"),
        )
    ),
    *(
        _bytes("memory", f"peak_{kind}_{phase}_bytes", f"peak {words}, {said}", required=False)
        for kind, words in MEMORIES.items()
        for phase, said in PHASES.items()
    ),
    *(_bytes("memory", f"predicted_{part}_bytes", f"predicted memory, {part}", required=False) for part in PARTS),
    _seconds("load_s", "load"),
    _seconds("build_s", "build"),
    _seconds("warmup_s", "warm-up"),
    _seconds("fit_s", "fit"),
    _seconds("predict_s", "predict"),
    _seconds("device_seconds", "device time"),
    _seconds("elapsed_s", "elapsed"),
    _seconds("slowest_repetition_s", "slowest repetition", required=False),
    Column("training_processes", "time", "int", "training processes", required=False),
    Column("predicting_processes", "time", "int", "predicting processes", required=False),
    Column("repetitions_at_hand", "time", "int", "repetitions trained before", required=False),
    _seconds("step_p50_s", "training step, median", required=False),
    _seconds("step_p95_s", "training step, 95th percentile", required=False),
    Column("resumed", "time", "int", "times resumed", required=False),
    Column("examples_per_s", "time", "float", "examples/s", unit="1/s", better="higher", style="sig3"),
)


BY_NAME = {column.name: column for column in COLUMNS}


def is_missing(value: Any) -> bool:
    """Whether a value is none: it is empty in the file."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def odd_values(row: Mapping[str, Any]) -> dict[str, str]:
    """What does not fit the columns of a row, by column: found and expected. Missing values fit."""
    return {
        name: f"found {value!r}; expected {BY_NAME[name].expected}"
        for name, value in row.items()
        if name in BY_NAME and not is_missing(value) and not BY_NAME[name].accepts(value)
    }


def without_odd_values(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a run without a result, with what does not fit left empty and named in its reason.

    Earlier versions executed runs with settings such as B = 16.5, which failed; their rows are kept.
    """
    odd = odd_values(row)
    if not odd:
        return dict(row)
    left_out = "; ".join(f"column {name}: {words}" for name, words in odd.items())
    reason = "; ".join(filter(None, [str(row.get("reason") or ""), left_out]))
    return {**row, **dict.fromkeys(odd), "reason": reason}


# All that the readers of results know about methods.

REFERENCE = "full_softmax"  # the method that relative sizes and times refer to
DECODER_SETTING = "estimator"  # the setting of a method that column ``decoder`` shows
WEIGHT_BYTES = 4  # of a trained parameter


def output_weight_bytes(row: Mapping[str, Any]) -> int:
    """Bytes of a parameter of the output layer; methods with a setting ``weights`` may keep them in bfloat16."""
    return 2 if row.get("weights") == "bf16" else WEIGHT_BYTES
