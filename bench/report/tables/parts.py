"""What tables share: the columns that identify a row, cells with means, titles and notes."""

from __future__ import annotations

from collections.abc import Iterable

from bench.columns import BY_NAME, PARTS, PHASES, STATUS_WORDS
from bench.common.text_table import Cell, Head
from bench.metrics.significance import LEVEL
from bench.report.groups import SPLIT, Configuration, Stat, points_of, repeats, varying

Shown = list[tuple[Configuration, bool]]  # see `bench.report.groups.shown_groups`
SHORT = {"params_input": "input", "params_hidden": "hidden", "params_output": "output", "params_total": "all"}
SHORT |= {"params_per_repetition": "per repetition", "model_bytes": "model", "peak_host_bytes": "peak host"}
SHORT |= {f"predicted_{part}_bytes": part for part in PARTS} | {"predicted_peak_bytes": "peak"}
SHORT |= {f"peak_host_{phase}_bytes": f"host, {said}" for phase, said in PHASES.items()}
SHORT |= {"baseline_host_bytes": "host, baseline", "peak_host_above_baseline_bytes": "peak host above it"}
SHORT |= {"peak_gpu_allocated_bytes": "peak GPU allocated", "peak_gpu_reserved_bytes": "peak GPU reserved"}
ENOUGH_MARK = "*"


def identity(
    rows: Shown, failures: dict[int, tuple[str, str]], dataset: bool = True
) -> tuple[list[Head], list[list[Cell]]]:
    """The first columns of a table: dataset if there are several, method, B, R, varying settings, n, status."""
    extra = varying(group for group, _ in rows)
    many = dataset and len({group.dataset for group, _ in rows}) > 1
    heads = [Head("dataset", "dataset", number=False)] if many else []
    heads += [Head("method", "method", number=False), head("B"), head("R")]
    heads += [head(name) if name in BY_NAME else Head(name, name, number=False) for name in extra]
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


def head(name: str, panel: str = "") -> Head:
    """The head of a column of table.csv."""
    column = BY_NAME[name]
    label = SHORT.get(name, column.label)
    return Head(name, label, column.shown_unit, column.latex, number=column.kind != "text", panel=panel)


def mean_cell(name: str, stat: Stat | None, best: bool = False, p: float | None = None, mark: str = "") -> Cell:
    """A mean and, of several runs, ± half the width of its t interval; a dash where nothing was measured."""
    if stat is None:
        return Cell()
    text = BY_NAME[name].show(stat.mean)
    if stat.half is not None:
        text += f" ± {BY_NAME[name].show(stat.half)}"
    return Cell(text, stat.mean, sd=stat.sd, half=stat.half, p=p, best=best, mark=mark)


def best_shown(groups: Iterable[Configuration], name: str) -> str | None:
    """The highest mean of a quality, as it is shown: values that read the same are marked alike."""
    means = [mean for group in groups if (mean := group.mean(name)) is not None]
    return BY_NAME[name].show(max(means)) if means else None


def leads(stat: Stat | None, name: str, best: str | None) -> bool:
    """Whether a mean reads the same as the best one."""
    return stat is not None and BY_NAME[name].show(stat.mean) == best


def run_ids(*groups: Configuration) -> tuple[str, ...]:
    """The rows of table.csv behind the numbers of a row."""
    return tuple(dict.fromkeys(str(row["run_id"]) for group in groups for row in group.rows))


def spread_note(groups: Iterable[Configuration]) -> tuple[str, str]:
    """What ± means."""
    groups = list(groups)
    if not any(len(group.ok) > 1 for group in groups):
        return ("", "One seed: the spread between seeds is not known.")
    over = repeats(row for group in groups for row in group.ok)
    spread = f"Across {over}: mean ± half the width of its {100 * LEVEL:g} % t interval, n {over}; none for one"
    overlap = "; random splits share their points, so the interval is too narrow" * ("split" in over)
    return ("", f"{spread}{overlap}.")


def title(what: str, rows: Shown) -> str:
    """``what`` on the datasets of the rows."""
    datasets = list(dict.fromkeys(group.dataset for group, _ in rows))
    return f"{what} on {', '.join(datasets)}" if datasets else f"{what}: no run yet"


def rules(rows: Shown) -> frozenset[int]:
    """Indices of the rows with which another method starts."""
    methods = [(group.dataset, group.method) for group, _ in rows]
    return frozenset(i for i in range(1, len(methods)) if methods[i] != methods[i - 1])


def failure_notes(rows: Shown) -> dict[int, tuple[str, str]]:
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
        failures = [f"{what} (seed {', '.join(which)})" for what, which in seeds.items()]
        notes[id(group)] = (_letter(len(notes)), "; ".join(failures) + ".")
    return notes


def replaced_notes(rows: Shown) -> list[tuple[str, str]]:
    """What became of earlier answers: how many rows replace one, by what has changed."""
    replaced: dict[str, dict[str, None]] = {}
    for group, _ in rows:
        for row in group.rows:
            if row.get("replaces"):
                run_id = row["derived_from"] or row["run_id"]
                replaced.setdefault(f"{group.dataset}: {row['replaced_because']}", {})[run_id] = None
    notes = []
    for because, runs in replaced.items():
        what = "1 run replaces an earlier result" if len(runs) == 1 else f"{len(runs)} runs replace earlier results"
        notes.append(("", f"{what} of {because}."))
    return notes


def enough_note(rows: Shown) -> list[tuple[str, str]]:
    """The note on the mark at an R, where a row has the mark."""
    if not any(enough for _, enough in rows):
        return []
    what = "the smallest R whose P@1 is within 0.1 point of the best R of this B"
    points = points_of(group for group, _ in rows)
    caveat = f"read off the {points}, so it describes the sweep and was not chosen in advance"
    return [(ENOUGH_MARK, f"{what}; {caveat}.")]


def _letter(i: int) -> str:
    """a, b, …, z, aa, ab, …"""
    return (_letter(i // 26 - 1) if i >= 26 else "") + chr(ord("a") + i % 26)
