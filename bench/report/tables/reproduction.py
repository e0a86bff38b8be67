"""The table ``reproduction``: measured values against the published ones of a paper, each with a verdict."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from bench.columns import STATUS_WORDS
from bench.common.text_table import Cell, Head, Table
from bench.config.paper import KEPT, Paper, Published, read_paper
from bench.report.groups import Configuration, Stat, grouped, varying
from bench.report.tables.parts import run_ids

ROUNDING = 1e-9  # a difference that exceeds the tolerance by a rounding error is within it
HEADS = [
    Head("dataset", "dataset", number=False),
    Head("method", "method", number=False),
    Head("B", "B", latex="$B$"),
    Head("R", "R", latex="$R$"),
    Head("metric", "metric", number=False),
    Head("ours", "ours", "%"),
    Head("n", "n"),
    Head("theirs", "theirs", "%"),
    Head("difference", "difference", "points"),
    Head("tolerance", "tolerance", "points"),
    Head("verdict", "verdict", number=False),
]


def reproduction_table(df: pd.DataFrame, folder: Path) -> Table | None:
    """The table ``reproduction`` of an experiment's results, or None when the experiment names no paper.

    ``folder`` holds the copy of the paper's file that the run left. Raises InputError when that file is wrong.
    """
    path = folder / KEPT
    return build_reproduction(df, read_paper(path)) if path.is_file() else None


def build_reproduction(df: pd.DataFrame, paper: Paper) -> Table:
    """A row for each dataset and metric of the paper. Values in the CSV are per cent, differences are points.

    ``ours`` is the mean over seeds and random splits, with the sample standard deviation; n counts them. Without a
    value, the verdict is the reason; an unverified value is never shown.
    """
    groups = grouped(df)
    rows: list[list[Cell]] = []
    sources: list[tuple[str, ...]] = []
    rules: list[int] = []
    notes = [("", f"Theirs: {paper.source}."), ("", f"Metrics: {paper.metrics}.")]
    for published in paper.results:
        group, failed, reason = _ours(groups, published)
        rules.append(len(rows))
        rows += [_row(published, metric, paper.tolerance[metric], group, reason) for metric in published.values]
        sources += [run_ids(*([group] if group else []))] * len(published.values)
        if group is not None and failed:
            notes.append(("", f"{published.dataset}: {failed}; ours is the mean of the others."))
    notes.append(
        ("", "Ours: mean ± sample standard deviation over n runs, which differ in the random split or the seed.")
    )
    notes += [("", f"Otherwise than theirs: {text}") for text in paper.differences]
    return Table("reproduction", f"Reproduction: {paper.title}", HEADS, rows, notes, frozenset(rules), sources)


def verdict(ours: float, theirs: float, tolerance: float) -> str:
    """``reproduced`` when the difference is at most the tolerance, else ``above`` or ``below``; all in per cent."""
    difference = ours - theirs
    if abs(difference) <= tolerance + ROUNDING:
        return "reproduced"
    return "above" if difference > 0 else "below"


def _ours(groups: list[Configuration], published: Published) -> tuple[Configuration | None, str, str]:
    """The one configuration to compare with the published values, what failed, and why there is none."""
    here = [group for group in groups if group.rows[0]["dataset"] == published.dataset]
    why = f": {published.missing}" if published.missing else ""
    if not here:
        return None, "", f"not run{why}"
    found = [group for group in here if _matches(group, published)]
    if not found:
        wanted = ", ".join(f"{name} {value}" for name, value in published.rows.items())
        return None, "", f"not run with {wanted}"
    # A failed run may not know all its settings, its device for one, and so stand apart from those that finished.
    failed = _failures(found)
    finished = [group for group in found if group.ok]
    if len(finished) > 1:
        sizes = [name for name in ("method", "B", "R") if len({getattr(group, name) for group in finished}) > 1]
        apart = ", ".join([*sizes, *varying(finished)])
        return None, failed, f"{len(finished)} configurations fit; the paper's rows must say which {apart}"
    return (finished[0], failed, "") if finished else (None, failed, f"no run finished: {failed}")


def _matches(group: Configuration, published: Published) -> bool:
    own = {**group.rows[0], **group.settings}
    return all(str(own.get(name)) == str(value) for name, value in published.rows.items())


def _failures(groups: list[Configuration]) -> str:
    """How many of the runs failed and how; empty when none did."""
    failed = [row for group in groups for row in group.failed]
    words = dict.fromkeys(STATUS_WORDS[row["status"]] for row in failed)
    return f"{len(failed)} of {sum(len(group.rows) for group in groups)} runs failed ({', '.join(words)})" * bool(
        failed
    )


def _row(published: Published, metric: str, tolerance: float, group: Configuration | None, reason: str) -> list[Cell]:
    stat = group.stat(metric) if group is not None else None
    theirs = published.values[metric] if published.verified else None
    words = reason or ("not measured" if stat is None else "")
    if published.values[metric] is None:
        words = f"no published value: {published.missing}"
    elif theirs is None:
        words = "published value not verified"
    elif stat is not None:
        words = verdict(100 * stat.mean, theirs, tolerance)
    shown = Cell() if theirs is None else Cell(f"{theirs:.2f}", theirs)
    difference = None if stat is None or theirs is None else 100 * stat.mean - theirs
    size = {name: published.rows.get(name) if group is None else getattr(group, name) for name in ("B", "R")}
    method = str(published.rows.get("method", "")) if group is None else group.method
    return [
        Cell(published.dataset, published.dataset),
        Cell(method, method),
        *(Cell() if value is None else Cell(f"{value:,}", value) for value in size.values()),
        Cell(metric, metric),
        _mean(stat),
        Cell() if stat is None else Cell(str(stat.n), stat.n),
        shown,
        Cell() if difference is None else Cell(f"{difference:+.2f}".replace("-", "−"), difference),
        Cell(f"{tolerance:g}", tolerance),
        Cell(words, words),
    ]


def _mean(stat: Stat | None) -> Cell:
    if stat is None:
        return Cell()
    spread = "" if stat.sd is None else f" ± {100 * stat.sd:.2f}"
    return Cell(f"{100 * stat.mean:.2f}{spread}", 100 * stat.mean, None if stat.sd is None else 100 * stat.sd)
