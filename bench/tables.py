"""The two tables of every experiment, quality (how good) and cost (how large, how slow), on the same rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from bench.columns import BY_NAME, three_digits
from bench.compare import METRICS as SHOWN_QUALITY
from bench.compare import AgainstBest
from bench.errors import unknown_name
from bench.files import write_atomic
from bench.frequency_tables import decile_table, frequency_table
from bench.machines import machines_note
from bench.render import MISSING, Cell, Head, Table, to_csv, to_latex, to_markdown
from bench.reproduction import reproduction_table
from bench.stats import LEVEL
from bench.summary import REFERENCE, Group, Stat, grouped, points_of, reference_for, repeats, shown_groups
from bench.table_parts import Shown, enough_note, failure_notes, head, identity, rules, title
from bench.tune import tuning_table

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
ALIKE_MARK = "≈"
FORMATS: dict[str, tuple[str, Callable[[Table], str]]] = {
    "md": (".md", to_markdown),
    "csv": (".csv", to_csv),
    "latex": (".tex", to_latex),
}


def write_tables(
    df: pd.DataFrame, out_dir: Path | str, more: Sequence[Table] = (), tested: AgainstBest | None = None
) -> list[Path]:
    """Write ``quality``, ``cost`` and ``more`` into ``out_dir``, each as .md, .csv and .tex; returns the paths."""
    return [
        write_atomic(Path(out_dir) / f"{table.name}{suffix}", render(table))
        for table in (*build_tables(df, tested), *more)
        for suffix, render in FORMATS.values()
    ]


def further_tables(df: pd.DataFrame, folder: Path) -> list[Table]:
    """Tables that only some experiments have: ``frequency`` and ``deciles`` where quality by label frequency was kept,
    ``tuning`` where settings were chosen, ``reproduction`` of a paper."""
    found = (frequency_table(df), decile_table(df, folder), tuning_table(folder), reproduction_table(df, folder))
    return [table for table in found if table is not None]


def render_table(df: pd.DataFrame, format: str, more: Sequence[Table] = (), tested: AgainstBest | None = None) -> str:
    """All tables as text. ``format`` is md, latex or csv (one table: the same rows, quality then cost, and no more)."""
    if format not in FORMATS:
        raise unknown_name("table format", format, FORMATS)
    tables = (*build_tables(df, tested), *more)
    if format == "csv":
        return to_csv(_side_by_side(*tables[:2]))
    return "\n".join(FORMATS[format][1](table) for table in tables)


def build_tables(df: pd.DataFrame, tested: AgainstBest | None = None) -> tuple[Table, Table]:
    """(quality, cost) of a frame from ``load_results``; see ``shown_groups`` for which rows they have.

    ``tested``: the tests over points (`bench.compare.against_best`); without them the frame alone is told of.
    """
    groups = grouped(df)
    rows = shown_groups(groups)
    failures = failure_notes(rows)
    return _quality(rows, failures, tested or AgainstBest()), _cost(rows, groups, failures)


def _quality(rows: Shown, failures: dict[int, tuple[str, str]], tested: AgainstBest) -> Table:
    best = _best(rows)
    heads, cells = identity(rows, failures)
    heads += [head(name) for name in SHOWN_QUALITY]
    for (group, _), line in zip(rows, cells, strict=True):
        for name in SHOWN_QUALITY:
            stat = group.stat(name)
            leads = stat is not None and BY_NAME[name].show(stat.mean) == best[(group.dataset, name)]
            line.append(Cell() if stat is None else _mean_cell(name, stat, leads, tested.p.get((group.key, name))))
    points = points_of(group for group, _ in rows)
    notes = [("", f"{points.capitalize()}, per cent; the best of each column is bold, with its ties at two decimals.")]
    notes += _spread_notes(rows) + _test_notes(tested, points)
    unseeded = dict.fromkeys(g.method for g, _ in rows if any(row.get("reproducible") == "no" for row in g.rows))
    if unseeded:
        notes.append(("", f"Not reproducible, because the library's randomness takes no seed: {', '.join(unseeded)}."))
    notes += enough_note(rows) + _settings_notes(rows) + list(failures.values())
    return Table("quality", title("Quality", rows), heads, cells, notes, rules(rows))


def _mean_cell(name: str, stat: Stat, leads: bool, p: float | None) -> Cell:
    text = BY_NAME[name].show(stat.mean)
    if stat.half is not None:
        text += f" ± {BY_NAME[name].show(stat.half)}"
    alike = p is not None and p >= 1 - LEVEL
    return Cell(text, stat.mean, sd=stat.sd, half=stat.half, p=p, best=leads, mark=ALIKE_MARK * alike)


def _spread_notes(rows: Shown) -> list[tuple[str, str]]:
    """What ± means, and which rows are not independent of each other."""
    if any(len(group.ok) > 1 for group, _ in rows):
        over = repeats(row for group, _ in rows for row in group.ok)
        spread = f"Across {over}: mean ± half the width of its {100 * LEVEL:g} % t interval, n {over}; none for one"
        overlap = "; random splits share their points, so the interval is too narrow" * ("split" in over)
        notes = [("", f"{spread}{overlap}.")]
    else:
        notes = [("", "One seed: the spread between seeds is not known.")]
    if any(row["derived_from"] is not None for group, _ in rows for row in group.ok):
        prefixes = "are the first R repetitions of the run at the largest R, so they are correlated with it"
        notes.append(
            ("", f"Rows for a smaller R of a B {prefixes} and with each other: they are not further evidence.")
        )
    return notes


def _test_notes(tested: AgainstBest, points: str) -> list[tuple[str, str]]:
    notes = [("", f"Not tested over {points}: {reason}.") for reason in tested.untested]
    if tested.p:
        how = f"paired bootstrap over {points} of the mean of the seeds that both have, Holm's correction in a column"
        what = "what other points would change, not what other seeds would"
        notes.insert(0, (ALIKE_MARK, f"not told apart from the best of its column at 5 %: {how}. It says {what}."))
    return notes


def _cost(rows: Shown, groups: list[Group], failures: dict[int, tuple[str, str]]) -> Table:
    heads, cells = identity(rows, failures)
    measured = [name for name in PEAKS if any(group.stat(name) for group, _ in rows)]
    sizes = [*SIZES, *(name for name in OPTIONAL_SIZES if any(group.stat(name) for group, _ in rows))]
    heads += [head(name) for name in sizes]
    heads += [Head(f"{name}_relative", label) for name, label in RATIOS.items()]
    heads += [head(name) for name in (*measured, *TIMES)]
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
    apart = machines_note(row for group, _ in rows for row in group.rows)
    notes += [("", apart)] * bool(apart) + enough_note(rows) + list(failures.values())
    return Table("cost", title("Cost", rows), heads, cells, notes, rules(rows))


def _best(rows: Shown) -> dict[tuple[str, str], str]:
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


def _settings_notes(rows: Shown) -> list[tuple[str, str]]:
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


def _side_by_side(left: Table, right: Table) -> Table:
    """Two tables on the same rows as one, the shared first columns once."""
    names = [head.name for head in left.heads]
    new = [i for i, head in enumerate(right.heads) if head.name not in names]
    heads = left.heads + [right.heads[i] for i in new]
    rows = [a + [b[i] for i in new] for a, b in zip(left.rows, right.rows, strict=True)]
    return Table("table", left.title, heads, rows)
