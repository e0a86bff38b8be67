"""The two tables of every experiment, quality (how good) and cost (how large, how slow), on the same rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from bench.columns import BY_NAME, STATUS_WORDS, three_digits
from bench.errors import unknown_name
from bench.files import write_atomic
from bench.render import MISSING, Cell, Head, Table, to_csv, to_latex, to_markdown
from bench.reproduction import reproduction_table
from bench.summary import (
    REFERENCE,
    SPLIT,
    Group,
    grouped,
    lines,
    points_of,
    reference_for,
    repeats,
    smallest_enough,
    varying,
)
from bench.tune import tuning_table

SHOWN_QUALITY = ("P@1", "P@3", "P@5", "nDCG@3", "nDCG@5", "PSP@1", "PSP@3", "PSP@5", "minP@3", "minP@5")
SIZES = (
    "params_input",
    "params_hidden",
    "params_output",
    "params_total",
    "params_per_repetition",
    "index_bytes",
)
OPTIONAL_SIZES = ("model_bytes",)  # shown where some method has it
PEAKS = ("peak_host_bytes", "peak_gpu_allocated_bytes", "peak_gpu_reserved_bytes")
TIMES = ("load_s", "build_s", "warmup_s", "fit_s", "predict_s", "examples_per_s")
RATIOS = {"params_output": "output ÷ full", "params_total": "all ÷ full"}
SHORT = {"params_input": "input", "params_hidden": "hidden", "params_output": "output", "params_total": "all"}
SHORT |= {"params_per_repetition": "per repetition", "peak_host_bytes": "peak host"}
SHORT |= {"peak_gpu_allocated_bytes": "peak GPU allocated", "peak_gpu_reserved_bytes": "peak GPU reserved"}
FORMATS: dict[str, tuple[str, Callable[[Table], str]]] = {
    "md": (".md", to_markdown),
    "csv": (".csv", to_csv),
    "latex": (".tex", to_latex),
}
ENOUGH_MARK = "*"


def write_tables(df: pd.DataFrame, out_dir: Path | str, more: Sequence[Table] = ()) -> list[Path]:
    """Write ``quality``, ``cost`` and ``more`` into ``out_dir``, each as .md, .csv and .tex; returns the paths."""
    return [
        write_atomic(Path(out_dir) / f"{table.name}{suffix}", render(table))
        for table in (*build_tables(df), *more)
        for suffix, render in FORMATS.values()
    ]


def further_tables(df: pd.DataFrame, folder: Path) -> list[Table]:
    """Tables that only some experiments have: ``tuning`` where settings were chosen, ``reproduction`` of a paper."""
    return [table for table in (tuning_table(folder), reproduction_table(df, folder)) if table is not None]


def render_table(df: pd.DataFrame, format: str, more: Sequence[Table] = ()) -> str:
    """All tables as text. ``format`` is md, latex or csv (one table: the same rows, quality then cost, and no more)."""
    if format not in FORMATS:
        raise unknown_name("table format", format, FORMATS)
    tables = (*build_tables(df), *more)
    if format == "csv":
        return to_csv(_side_by_side(*tables[:2]))
    return "\n".join(FORMATS[format][1](table) for table in tables)


def build_tables(df: pd.DataFrame) -> tuple[Table, Table]:
    """(quality, cost) of a frame from ``load_results``; see ``shown_groups`` for which rows they have."""
    groups = grouped(df)
    rows = shown_groups(groups)
    failures = _failure_notes(rows)
    return _quality(rows, failures), _cost(rows, groups, failures)


def shown_groups(groups: list[Group]) -> list[tuple[Group, bool]]:
    """The rows of both tables: every method; if hashed, for each B the largest R and the smallest enough.

    The flag: this is the smallest R within 0.1 point of the best P@1 of its B. Failures stay.
    """
    keep: dict[int, bool] = {}
    for line in lines(groups):
        keep[id(line[-1])] = False
        keep[id(smallest_enough(line))] = True
    return [(g, keep.get(id(g), False)) for g in groups if not g.hashed or id(g) in keep or not g.ok]


def _quality(rows: list[tuple[Group, bool]], failures: dict[int, tuple[str, str]]) -> Table:
    best = _best(rows)
    heads, cells = _identity(rows, failures)
    heads = heads + [_head(name) for name in SHOWN_QUALITY]
    for (group, _), line in zip(rows, cells, strict=True):
        for name in SHOWN_QUALITY:
            stat = group.stat(name)
            if stat is None:
                line.append(Cell())
                continue
            text = BY_NAME[name].show(stat.mean)
            is_best = text == best.get((group.dataset, name))
            if stat.sd is not None:
                text += f" ± {BY_NAME[name].show(stat.sd)}"
            line.append(Cell(text, stat.mean, stat.sd, best=is_best))
    points = points_of(group for group, _ in rows)
    notes = [("", f"{points.capitalize()}, per cent; the best of each column is bold, with its ties at two decimals.")]
    if any(len(group.ok) > 1 for group, _ in rows):
        over = repeats(row for group, _ in rows for row in group.ok)
        notes.append(("", f"Mean ± sample standard deviation over n {over}."))
    else:
        notes.append(("", "One seed: the spread between seeds is not known."))
    unseeded = dict.fromkeys(g.method for g, _ in rows if any(row.get("reproducible") == "no" for row in g.rows))
    if unseeded:
        notes.append(("", f"Not reproducible, because the library's randomness takes no seed: {', '.join(unseeded)}."))
    notes += _enough_note(rows) + _settings_notes(rows) + list(failures.values())
    return Table("quality", _title("Quality", rows), heads, cells, notes, _rules(rows))


def _cost(rows: list[tuple[Group, bool]], groups: list[Group], failures: dict[int, tuple[str, str]]) -> Table:
    heads, cells = _identity(rows, failures)
    measured = [name for name in PEAKS if any(group.stat(name) for group, _ in rows)]
    sizes = [*SIZES, *(name for name in OPTIONAL_SIZES if any(group.stat(name) for group, _ in rows))]
    heads += [_head(name) for name in sizes]
    heads += [Head(f"{name}_relative", label) for name, label in RATIOS.items()]
    heads += [_head(name) for name in (*measured, *TIMES)]
    derived = False
    for (group, _), line in zip(rows, cells, strict=True):
        reference = reference_for(group, groups)
        line += [_value(group, name, of_failed=True) for name in sizes]
        line += [_ratio(group, reference, name) for name in RATIOS]
        line += [_value(group, name, of_failed=False) for name in (*measured, *TIMES)]
        derived |= any(row["derived_from"] is not None for row in group.rows)
    counts = "Input, hidden, output, all, per repetition: trained parameters in millions (M)"
    means = "Peak memory is the largest over seeds, times are means"
    notes = [("", f"{counts}; ÷ full: divided by that of {REFERENCE}. {means}.")]
    gaps = [f"{MISSING} = not measured"]
    if derived:
        gaps.append("rows for R below the largest trained come from that run and have no memory of their own")
    if not any("gpu" in name for name in measured):
        gaps.append("GPU memory was not measured in any run")
    notes.append(("", "; ".join(gaps) + "."))
    if not any(group.method == REFERENCE for group, _ in rows):
        notes.append(("", f"No row of {REFERENCE}: the relative sizes have nothing to refer to."))
    notes += _enough_note(rows) + list(failures.values())
    return Table("cost", _title("Cost", rows), heads, cells, notes, _rules(rows))


def _identity(
    rows: list[tuple[Group, bool]], failures: dict[int, tuple[str, str]]
) -> tuple[list[Head], list[list[Cell]]]:
    """The columns both tables start with: dataset if there are several, method, B, R, varying settings, n."""
    extra = varying(group for group, _ in rows)
    many = len({group.dataset for group, _ in rows}) > 1
    heads = [Head("dataset", "dataset", number=False)] if many else []
    heads += [Head("method", "method", number=False), _head("B"), _head("R")]
    heads += [_head(name) if name in BY_NAME else Head(name, name, number=False) for name in extra]
    heads.append(Head("n_seeds", "n"))
    if failures:
        heads.append(Head("status", "status", number=False))
    cells = []
    for group, enough in rows:
        line = [Cell(group.dataset, group.dataset)] if many else []
        line.append(Cell(group.method, group.method))
        line.append(Cell(f"{group.B:,}", group.B) if group.B is not None else Cell())
        line.append(Cell(str(group.R), group.R, mark=ENOUGH_MARK * enough) if group.R is not None else Cell())
        for name in extra:
            value = group.settings[name]
            line.append(Cell() if value is None else Cell(str(value), value))
        ok, all_ = len(group.ok), len(group.rows)
        line.append(Cell(str(ok) if ok == all_ else f"{ok} of {all_}", ok))
        if not failures:
            cells.append(line)
            continue
        words = "; ".join(dict.fromkeys(STATUS_WORDS[row["status"]] for row in group.failed)) or "ok"
        codes = ";".join(dict.fromkeys(row["status"] for row in group.failed)) or "ok"
        line.append(Cell(words, codes, mark=failures.get(id(group), ("", ""))[0]))
        cells.append(line)
    return heads, cells


def _head(name: str) -> Head:
    column = BY_NAME[name]
    return Head(name, SHORT.get(name, column.label), column.shown_unit, column.latex, number=column.kind != "text")


def _best(rows: list[tuple[Group, bool]]) -> dict[tuple[str, str], str]:
    """The best value of each quality as it is shown, by dataset."""
    best: dict[tuple[str, str], float] = {}
    for group, _ in rows:
        for name in SHOWN_QUALITY:
            mean = group.mean(name)
            if mean is not None:
                best[(group.dataset, name)] = max(mean, best.get((group.dataset, name), 0.0))
    return {key: BY_NAME[key[1]].show(value) for key, value in best.items()}


def _value(group: Group, name: str, of_failed: bool) -> Cell:
    stat = group.stat(name, of_failed)
    if stat is None:
        return Cell()
    value = stat.high if name in PEAKS else stat.mean
    return Cell(BY_NAME[name].show(value), int(value) if BY_NAME[name].kind == "int" else value)


def _ratio(group: Group, reference: Group | None, name: str) -> Cell:
    own = group.mean(name, of_failed=True)
    other = reference.mean(name, of_failed=True) if reference else None
    if own is None or not other:
        return Cell()
    return Cell(f"{three_digits(own / other)}×", own / other)


def _failure_notes(rows: list[tuple[Group, bool]]) -> dict[int, tuple[str, str]]:
    """A lettered note for each configuration with failed runs: what happened, to which seeds, and why."""
    notes: dict[int, tuple[str, str]] = {}
    for group, _ in rows:
        if not group.failed:
            continue
        seeds: dict[str, list[str]] = {}
        for row in group.failed:
            what = f"{STATUS_WORDS[row['status']]} ({row['status']}): {row['reason'] or 'no reason kept'}"
            split = "" if row.get(SPLIT) is None else f" on split {row[SPLIT]}"
            seeds.setdefault(what, []).append(f"{row['seed']}{split}")
        told = [f"{what} (seed {', '.join(which)})" for what, which in seeds.items()]
        notes[id(group)] = (_letter(len(notes)), "; ".join(told) + ".")
    return notes


def _letter(i: int) -> str:
    """a, b, …, z, aa, ab, …"""
    return (_letter(i // 26 - 1) if i >= 26 else "") + chr(ord("a") + i % 26)


def _enough_note(rows: list[tuple[Group, bool]]) -> list[tuple[str, str]]:
    if not any(enough for _, enough in rows):
        return []
    what = "the smallest R whose P@1 is within 0.1 point of the best R of this B"
    points = points_of(group for group, _ in rows)
    caveat = f"read off the {points}, so it describes the sweep and is not a setting chosen in advance"
    return [(ENOUGH_MARK, f"{what}; {caveat}.")]


def _settings_notes(rows: list[tuple[Group, bool]]) -> list[tuple[str, str]]:
    """One line of settings a method: the loss or the width can matter more than the method."""
    told: dict[str, dict[str, dict[str, None]]] = {}
    for group, _ in rows:
        for name, value in group.settings.items():
            if value is not None:
                told.setdefault(group.method, {}).setdefault(name, {})[str(value)] = None
    return [
        (
            "",
            f"Settings of {method}: " + "; ".join(f"{name} {', '.join(v)}" for name, v in settings.items()) + ".",
        )
        for method, settings in told.items()
    ]


def _title(what: str, rows: list[tuple[Group, bool]]) -> str:
    datasets = list(dict.fromkeys(group.dataset for group, _ in rows))
    return f"{what} on {', '.join(datasets)}" if datasets else f"{what}: no run yet"


def _rules(rows: list[tuple[Group, bool]]) -> frozenset[int]:
    methods = [(group.dataset, group.method) for group, _ in rows]
    return frozenset(i for i in range(1, len(methods)) if methods[i] != methods[i - 1])


def _side_by_side(left: Table, right: Table) -> Table:
    """Two tables on the same rows as one, the shared first columns once."""
    names = [head.name for head in left.heads]
    new = [i for i, head in enumerate(right.heads) if head.name not in names]
    heads = left.heads + [right.heads[i] for i in new]
    rows = [a + [b[i] for i in new] for a, b in zip(left.rows, right.rows, strict=True)]
    return Table("table", left.title, heads, rows)
