"""The table ``cost``: parameters, bytes, memory and time of each method, also relative to the full softmax."""

from __future__ import annotations

from collections.abc import Sequence

from bench.columns import BY_NAME, COLUMNS, PHASES, REFERENCE, three_digits
from bench.common.text_table import MISSING, Cell, Head, Table
from bench.report.groups import Configuration, reference_for, same_machine
from bench.report.machines import machines_note
from bench.report.model_size import is_counted, model_mean
from bench.report.tables.parts import Shown, enough_note, head, identity, rules, run_ids, title

SIZES = (
    "params_input",
    "params_hidden",
    "params_output",
    "params_total",
    "params_per_repetition",
    "index_bytes",
)
# What a run measured, in the order of the columns; shown where some row has it.
PEAKS = tuple(c.name for c in COLUMNS if c.group == "memory")
TIMES = tuple(c.name for c in COLUMNS if c.group == "time" and c.name not in ("device_seconds", "elapsed_s"))
RATIOS = {"params_output": "output ÷ full", "params_total": "all ÷ full", "model_bytes": "model ÷ full"}
MEASURED_RATIOS = {"peak_host_bytes": "peak host ÷ full", "fit_s": "fit ÷ full", "predict_s": "predict ÷ full"}
SIZE_PANEL, MEASURED_PANEL = "Parameters and bytes", "Memory and time"
PHASE_PANEL, PREDICTED_PANEL, TRAINING_PANEL = "Memory by phase", "Predicted memory", "Steps and repetitions"
MAIN = ("peak_host_bytes", "peak_gpu_allocated_bytes", "peak_gpu_reserved_bytes", "examples_per_s")
COUNTED_MARK = "†"


def cost_table(rows: Shown, groups: list[Configuration], failures: dict[int, tuple[str, str]]) -> Table:
    """The table ``cost`` of the rows of the quality table; ``groups``: all, with the reference.

    Sizes are exact and known for failed runs too; memory and time are those of finished runs.
    """
    heads, cells = identity(rows, failures)
    measured = [name for name in (*PEAKS, *TIMES) if any(group.stat(name) for group, _ in rows)]
    heads += [head(name, SIZE_PANEL) for name in (*SIZES, "model_bytes")]
    heads += [Head(f"{name}_relative", label, panel=SIZE_PANEL) for name, label in RATIOS.items()]
    heads += [head(name, _panel(name)) for name in measured]
    compared = [name for name in MEASURED_RATIOS if name in measured]
    heads += [Head(f"{name}_relative", MEASURED_RATIOS[name], panel=MEASURED_PANEL) for name in compared]
    elsewhere: dict[str, None] = {}
    for (group, _), line in zip(rows, cells, strict=True):
        reference = reference_for(group, groups)
        line += [_cell(name, group.mean(name, of_failed=True)) for name in SIZES]
        size = _size(group, "model_bytes")
        line.append(_cell("model_bytes", size, COUNTED_MARK * (size is not None and is_counted(group))))
        line += [_ratio(_size(group, name), _size(reference, name)) for name in RATIOS]
        line += [_cell(name, _measured(group, name)) for name in measured]
        comparable = reference if reference is not None and same_machine(group, reference) else None
        if reference is not None and group.ok and reference.ok and comparable is None:
            elsewhere[group.method] = None
        line += [_ratio(_measured(group, name), _measured(comparable, name)) for name in compared]
    sources = [run_ids(group) for group, _ in rows]
    notes = _cost_notes(rows, measured, list(elsewhere)) + enough_note(rows) + list(failures.values())
    return Table("cost", title("Cost", rows), heads, cells, notes, rules(rows), sources)


def _cost_notes(rows: Shown, measured: Sequence[str], elsewhere: Sequence[str]) -> list[tuple[str, str]]:
    counts = "Input, hidden, output, all, per repetition: trained parameters in millions (M)"
    means = "Peak memory is the largest over seeds, times are means"
    notes = [("", f"{counts}; ÷ full: divided by that of {REFERENCE}. {means}.")]
    if any(is_counted(group) and model_mean(group) is not None for group, _ in rows):
        each = "4 bytes per parameter (2 of an output layer in bf16)"
        notes.append((COUNTED_MARK, f"counted, not measured: {each}, and the index. Others: files on disk."))
    gaps = [f"{MISSING} = not measured"]
    if any(row["derived_from"] is not None for group, _ in rows for row in group.rows):
        gaps.append("rows for R below the largest trained come from that run and have no memory of their own")
    if not any("gpu" in name for name in measured):
        gaps.append("GPU memory was not measured in any run")
    notes.append(("", "; ".join(gaps) + "."))
    if elsewhere:
        why = "run in another environment or on another device than the reference"
        notes.append(("", f"Times and memory not divided, because {why}: {', '.join(elsewhere)}."))
    if not any(group.method == REFERENCE for group, _ in rows):
        notes.append(("", f"No row of {REFERENCE}: the relative sizes have nothing to refer to."))
    apart = machines_note(row for group, _ in rows for row in group.rows)
    return [*notes, ("", apart)] if apart else notes


def _panel(name: str) -> str:
    """The panel of a column: panels stand below each other, so that none is wider than a page."""
    if name.startswith("predicted_"):
        return PREDICTED_PANEL
    if name in PEAKS:
        return MEASURED_PANEL if name in MAIN else PHASE_PANEL
    phase = name.removesuffix("_s") in PHASES
    return MEASURED_PANEL if phase or name in MAIN else TRAINING_PANEL


def _cell(name: str, value: float | None, mark: str = "") -> Cell:
    if value is None:
        return Cell()
    return Cell(BY_NAME[name].show(value), round(value) if BY_NAME[name].kind == "int" else value, mark=mark)


def _size(group: Configuration | None, name: str) -> float | None:
    if group is None:
        return None
    return model_mean(group) if name == "model_bytes" else group.mean(name, of_failed=True)


def _measured(group: Configuration | None, name: str) -> float | None:
    """The largest over seeds of a peak, the mean of anything else."""
    stat = group.stat(name) if group is not None else None
    if stat is None:
        return None
    return stat.high if name in PEAKS else stat.mean


def _ratio(own: float | None, other: float | None) -> Cell:
    if own is None or not other:
        return Cell()
    ratio = own / other
    return Cell("<0.001×" if 0 < ratio < 0.001 else f"{three_digits(ratio)}×", ratio)
