"""The table ``quality``: metrics of each configuration, the best marked, and tests against the best of each column."""

from __future__ import annotations

from bench.common.text_table import Table
from bench.metrics.significance import LEVEL
from bench.report.against_best import METRICS as SHOWN_QUALITY
from bench.report.against_best import AgainstBest
from bench.report.groups import points_of
from bench.report.tables.parts import (
    Shown,
    best_shown,
    enough_note,
    head,
    identity,
    leads,
    mean_cell,
    replaced_notes,
    rules,
    run_ids,
    spread_note,
    title,
)

RANKED_PANEL, TAIL_PANEL = "P@k and nDCG@k", "PSP@k and minP@k"
ALIKE_MARK = "≈"


def quality_table(rows: Shown, failures: dict[int, tuple[str, str]], tested: AgainstBest) -> Table:
    """The table of ``rows``; ``failures``: notes by id of the configuration (`bench.report.tables.parts`)."""
    heads, cells = identity(rows, failures)
    heads += [head(name, TAIL_PANEL if name.startswith(("PSP", "minP")) else RANKED_PANEL) for name in SHOWN_QUALITY]
    best = {
        (dataset, name): best_shown((group for group, _ in rows if group.dataset == dataset), name)
        for dataset in {group.dataset for group, _ in rows}
        for name in SHOWN_QUALITY
    }
    for (group, _), line in zip(rows, cells, strict=True):
        for name in SHOWN_QUALITY:
            stat, p = group.stat(name), tested.p.get((group.key, name))
            alike = ALIKE_MARK * (p is not None and p >= 1 - LEVEL)
            line.append(mean_cell(name, stat, leads(stat, name, best[(group.dataset, name)]), p, alike))
    points = points_of(group for group, _ in rows)
    notes = [("", f"{points.capitalize()}, per cent; the best of each column is bold, with its ties at two decimals.")]
    notes += [spread_note(group for group, _ in rows), *_prefix_notes(rows), *_test_notes(tested, points)]
    unseeded = dict.fromkeys(g.method for g, _ in rows if any(row.get("reproducible") == "no" for row in g.rows))
    if unseeded:
        notes.append(("", f"Not reproducible, because the library's randomness takes no seed: {', '.join(unseeded)}."))
    notes += enough_note(rows) + replaced_notes(rows) + _settings_notes(rows) + list(failures.values())
    sources = [run_ids(group) for group, _ in rows]
    return Table("quality", title("Quality", rows), heads, cells, notes, rules(rows), sources)


def _prefix_notes(rows: Shown) -> list[tuple[str, str]]:
    """A note on rows that are not independent of each other."""
    if not any(row["derived_from"] is not None for group, _ in rows for row in group.ok):
        return []
    prefixes = "are the first R repetitions of the run at the largest R, so they are correlated with it"
    return [("", f"Rows for a smaller R of a B {prefixes} and with each other: they are not independent evidence.")]


def _test_notes(tested: AgainstBest, points: str) -> list[tuple[str, str]]:
    notes = [("", f"Not tested over {points}: {reason}.") for reason in tested.untested]
    if tested.p:
        how = f"paired bootstrap over {points} of the mean over common seeds, Holm's correction per column"
        best = "not significantly different from the best of its column at 5 %"
        notes.insert(0, (ALIKE_MARK, f"{best}: {how}. It covers the choice of points, not that of seeds."))
    return notes


def _settings_notes(rows: Shown) -> list[tuple[str, str]]:
    """A note of settings per method: the loss or the width can matter more than the method."""
    used: dict[str, dict[str, dict[str, None]]] = {}
    for group, _ in rows:
        for name, value in group.settings.items():
            if value is not None:
                used.setdefault(group.method, {}).setdefault(name, {})[str(value)] = None
    return [
        (
            "",
            f"Settings of {method}: " + "; ".join(f"{name} {', '.join(v)}" for name, v in settings.items()) + ".",
        )
        for method, settings in used.items()
    ]
