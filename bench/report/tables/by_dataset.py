"""The table ``comparison``, methods × datasets: a row per method, P@1/3/5, PSP@1/3/5 and minP@3/5 per dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bench.columns import STATUS_WORDS
from bench.common.text_table import Cell, Head, Table
from bench.report.best_configuration import EVALUATED, VALIDATION, Choice, Validation, choose
from bench.report.groups import Configuration, grouped, points_of, varying
from bench.report.tables.parts import best_shown, failure_notes, head, leads, mean_cell, run_ids, spread_note

FAMILIES = {"P@k": ("P@1", "P@3", "P@5"), "PSP@k": ("PSP@1", "PSP@3", "PSP@5"), "minP@k": ("minP@3", "minP@5")}


def comparison_table(df: pd.DataFrame, folder: Path | None = None) -> Table | None:
    """The table ``comparison`` of results about several datasets; None for one.

    A method with several configurations on a dataset shows the one that `bench.report.best_configuration.choose` picks;
    a note says which. ``folder``: the experiment's results, for validation P@1."""
    groups = grouped(df)
    datasets = list(dict.fromkeys(group.dataset for group in groups))
    methods = list(dict.fromkeys(group.method for group in groups))
    if len(datasets) < 2:
        return None
    validation = Validation(folder, groups)
    chosen: dict[tuple[str, str], Choice] = {}
    for dataset in datasets:
        here = [group for group in groups if group.dataset == dataset]
        for method in methods:
            choice = choose([group for group in here if group.method == method], validation)
            if choice is not None:
                chosen[(method, dataset)] = choice
    failures = failure_notes([(group, False) for group in groups if (group.method, group.dataset) not in chosen])
    used: dict[str, str] = {}
    heads = [Head("method", "method", number=False)]
    columns = [(family, dataset, name) for family, names in FAMILIES.items() for dataset in datasets for name in names]
    for family, dataset, name in columns:
        shown = head(name, family)
        heads.append(Head(f"{dataset} {name}", f"{dataset} {shown.label}", shown.unit, panel=family))
    best = {
        (dataset, name): best_shown((c.group for (_, where), c in chosen.items() if where == dataset), name)
        for _, dataset, name in columns
    }
    rows = []
    for method in methods:
        line = [Cell(method, method)]
        for _, dataset, name in columns:
            choice = chosen.get((method, dataset))
            if choice is not None:
                stat = choice.group.stat(name)
                line.append(mean_cell(name, stat, leads(stat, name, best[(dataset, name)])))
                continue
            failed = [group for group in groups if (group.method, group.dataset) == (method, dataset)]
            words, mark = _failed(failed, failures)
            used |= dict([failures[id(group)] for group in failed if id(group) in failures])
            line.append(Cell(words, words, mark=mark))
        rows.append(line)
    sources = [run_ids(*(chosen[(m, d)].group for d in datasets if (m, d) in chosen)) for m in methods]
    notes = _notes(groups, chosen) + list(used.items())
    return Table("comparison", f"Methods by datasets: {', '.join(datasets)}", heads, rows, notes, sources=sources)


def _failed(groups: Sequence[Configuration], failures: dict[int, tuple[str, str]]) -> tuple[str, str]:
    """Why a method has no value on a dataset, in words, and the mark of the note with the details."""
    if not groups:
        return "not run", ""
    words = dict.fromkeys(STATUS_WORDS[row["status"]] for group in groups for row in group.failed)
    marks = [failures[id(group)][0] for group in groups if id(group) in failures]
    return ", ".join(words) or "not measured", ",".join(marks)


def _notes(groups: Sequence[Configuration], chosen: dict[tuple[str, str], Choice]) -> list[tuple[str, str]]:
    shown = [choice.group for choice in chosen.values()]
    points = points_of(shown)
    notes = [("", f"{points.capitalize()}, per cent; the best of each column is bold, with its ties at two decimals.")]
    notes.append(spread_note(shown))
    extra = varying(groups)
    for (method, dataset), choice in chosen.items():
        if choice.of == 1 and not choice.group.hashed:
            continue
        sizes = {"B": choice.group.B, "R": choice.group.R} | {name: choice.group.settings[name] for name in extra}
        settings = ", ".join(f"{name} = {value}" for name, value in sizes.items() if value is not None)
        how = "" if choice.of == 1 else f"; best P@1 of {choice.of} on the {_points(choice, points)}"
        notes.append(("", f"{method} on {dataset}: {settings or 'its one configuration'}{how}."))
    return notes


def _points(choice: Choice, points: str) -> str:
    return {VALIDATION: VALIDATION, EVALUATED: f"{points} themselves, which favours it"}.get(choice.by, points)
