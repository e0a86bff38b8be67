"""The tables ``matched_*``, methods at equal budgets of output parameters, bytes or seconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from bench.columns import BY_NAME, REFERENCE, STATUS_WORDS, three_digits
from bench.common.text_table import Cell, Head, Table
from bench.report.best_configuration import EVALUATED, VALIDATION, Choice, Validation, choose
from bench.report.groups import Configuration, grouped, points_of, reference_for, same_machine
from bench.report.model_size import model_mean
from bench.report.tables.parts import best_shown, head, identity, leads, mean_cell, run_ids, spread_note

QUALITY = ("P@1", "P@3", "P@5", "PSP@1", "PSP@5", "minP@5")
DEEPEST = 5  # budgets below the anchor: 1/4, 1/16, … 1/1024 of its cost
PREFIX_MARK = "‡"
SLACK = 1 + 1e-9  # a cost that exceeds the budget by a rounding error is within it


@dataclass(frozen=True)
class Quantity:
    """What is held equal. ``of``: its value in the unit of ``column`` of table.csv, None where it is unknown."""

    name: str
    words: str
    column: str
    of: Callable[[Configuration], float | None]
    note: str


QUANTITIES = (
    Quantity(
        "parameters",
        "output parameters",
        "params_output",
        lambda group: group.mean("params_output", of_failed=True),
        "Parameters of the output layer alone, without encoders, of which a method may have one per "
        "repetition; a method without encoders counts whole",
    ),
    Quantity(
        "bytes",
        "bytes of the model",
        "model_bytes",
        model_mean,
        "Bytes as in the table of cost: weights, encoders included, and the index; for peers, their files",
    ),
    Quantity(
        "seconds",
        "seconds of training",
        "fit_s",
        lambda group: group.mean("fit_s"),
        "Means of fit_s, in one environment and on one device; without build and warm-up. A prefix of a run's "
        "repetitions has seconds where the clock was read at its R",
    ),
)


@dataclass(frozen=True)
class Entry:
    """A method within a budget: the choice and what it was made on, or in words why there is none."""

    method: str
    choice: Choice | None
    words: str


@dataclass(frozen=True)
class Level:
    """A budget: ``limit`` in the unit of table.csv, ``share`` of the anchor's cost; one entry per method."""

    dataset: str
    limit: float
    share: float
    entries: tuple[Entry, ...]

    @property
    def groups(self) -> list[Configuration]:
        return [entry.choice.group for entry in self.entries if entry.choice is not None]


def matched_tables(df: pd.DataFrame, folder: Path | None = None) -> list[Table]:
    """``matched_parameters``, ``matched_bytes`` and ``matched_seconds``; each where two methods have the quantity.

    Budgets: see `budget_levels`; one with the same configurations as the next larger budget is left out. ``folder``:
    the experiment's results, for validation P@1 from its learning curves (`bench.report.best_configuration`)."""
    groups = grouped(df)
    validation = Validation(folder, groups)
    tables = []
    for quantity in QUANTITIES:
        levels: list[Level] = []
        anchors: dict[str, None] = {}
        absent: dict[str, None] = {}
        for dataset in dict.fromkeys(group.dataset for group in groups):
            here = [group for group in groups if group.dataset == dataset]
            costs, anchor = known_costs(here, quantity)
            methods = {group.method for group in here if id(group) in costs}
            absent |= dict.fromkeys(group.method for group in here if group.method not in methods)
            if anchor is not None and len(methods) > 1:
                anchors[anchor.method] = None
                levels += _levels(here, costs, costs[id(anchor)], validation)
        if levels:
            tables.append(_table(quantity, levels, list(anchors), list(absent), groups))
    return tables


def known_costs(here: Sequence[Configuration], quantity: Quantity) -> tuple[dict[int, float], Configuration | None]:
    """(cost by id of the group, anchor) of the configurations of a dataset for which the quantity is known.

    The anchor is the full softmax that relative sizes refer to; without one, the most expensive configuration. Seconds
    of another environment or device than the anchor's are left out, because they are not comparable.
    """
    costs = {id(group): cost for group in here if (cost := quantity.of(group))}
    known = [group for group in here if id(group) in costs]
    anchor = next((found for group in known if (found := reference_for(group, known)) is not None), None)
    anchor = anchor or max(known, key=lambda group: costs[id(group)], default=None)
    if quantity.column == "fit_s" and anchor is not None:
        known = [group for group in known if same_machine(group, anchor)]
    return {id(group): costs[id(group)] for group in known}, anchor


def budget_levels(costs: Sequence[float], anchor: float) -> list[tuple[float, float]]:
    """(limit, share of the anchor) of each budget, the largest first: the anchor's cost, times 2, 4, … up to the first
    that is enough for every cost, and over 4, 16, … 4^`DEEPEST` while some cost is within it. Costs are positive."""
    above = math.ceil(math.log2(max(costs) / anchor / SLACK))
    shares = [2.0**power for power in range(above, 0, -1)] + [4.0**-power for power in range(DEEPEST + 1)]
    return [(anchor * share, share) for share in shares if min(costs) <= anchor * share * SLACK]


def _levels(
    here: Sequence[Configuration], costs: dict[int, float], anchor: float, validation: Validation
) -> list[Level]:
    levels: list[Level] = []
    for limit, share in budget_levels(list(costs.values()), anchor):
        entries = []
        for method in dict.fromkeys(group.method for group in here if id(group) in costs):
            own = [group for group in here if group.method == method and id(group) in costs]
            within = [group for group in own if costs[id(group)] <= limit * SLACK]
            choice = choose(within, validation)
            least = min(costs[id(group)] for group in own) / anchor
            entries.append(Entry(method, choice, choice.by if choice else _why_none(within, least)))
        level = Level(here[0].dataset, limit, share, tuple(entries))
        before = {id(group) for group in levels[-1].groups} if levels else set()
        if share == 1 or any(id(group) not in before for group in level.groups):
            levels.append(level)
    return levels


def _why_none(within: Sequence[Configuration], least: float) -> str:
    if not within:
        return f"none fits, its smallest takes {three_digits(least)}×"
    words = dict.fromkeys(STATUS_WORDS[row["status"]] for group in within for row in group.failed)
    return f"no result: {', '.join(words) or 'P@1 not measured'}"


def _table(
    quantity: Quantity,
    levels: Sequence[Level],
    anchors: Sequence[str],
    absent: Sequence[str],
    groups: Sequence[Configuration],
) -> Table:
    chosen = [group for level in levels for group in level.groups]
    many = len({level.dataset for level in levels}) > 1
    own_heads, own_cells = identity([(group, False) for group in chosen], {}, dataset=False)
    at_r = [head.name for head in own_heads].index("R")
    for group, cells in zip(chosen, own_cells, strict=True):
        cells[at_r] = replace(cells[at_r], mark=PREFIX_MARK * _is_prefix(group))
    own = {id(group): cells for group, cells in zip(chosen, own_cells, strict=True)}
    column = BY_NAME[quantity.column]
    heads = [Head("dataset", "dataset", number=False)] * many
    heads += [
        Head("budget", "budget", column.shown_unit),
        Head("share", "÷ full" if anchors == [REFERENCE] else "share"),
        *own_heads,
    ]
    heads += [Head("cost", "cost", column.shown_unit), *map(head, QUALITY)]
    heads += [Head("candidates", "of"), Head("chosen_on", "chosen on", number=False)]
    rows: list[list[Cell]] = []
    sources, starts = [], []
    for level in levels:
        starts.append(len(rows))
        best = {name: best_shown(level.groups, name) for name in QUALITY}
        budget = [Cell(level.dataset, level.dataset)] * many
        budget += [Cell(column.show(level.limit), level.limit), Cell(_share(level.share), level.share)]
        for entry in level.entries:
            if entry.choice is None:
                empty = [Cell()] * (len(own_heads) + len(QUALITY) + 1)
                rows.append([*budget, Cell(entry.method, entry.method), *empty, Cell(entry.words, entry.words)])
                sources.append(run_ids(*(g for g in groups if (g.dataset, g.method) == (level.dataset, entry.method))))
                continue
            group, cost = entry.choice.group, quantity.of(entry.choice.group) or 0.0
            quality = [mean_cell(n, group.stat(n), leads(group.stat(n), n, best[n])) for n in QUALITY]
            of = [Cell(str(entry.choice.of), entry.choice.of), Cell(entry.words, entry.words)]
            rows.append([*budget, *own[id(group)], Cell(column.show(cost), cost), *quality, *of])
            sources.append(run_ids(group))
    title = f"Within equal budgets of {quantity.words}: {', '.join(dict.fromkeys(level.dataset for level in levels))}"
    notes = _notes(quantity, levels, anchors, absent)
    return Table(f"matched_{quantity.name}", title, heads, rows, notes, frozenset(starts[1:]), sources)


def _is_prefix(group: Configuration) -> bool:
    """Whether its rows are about the first R repetitions of larger runs, or about another decoder of a run."""
    return all(row["derived_from"] is not None for row in group.ok)


def _share(share: float) -> str:
    """4× or 1/16."""
    return f"{share:g}×" if share >= 1 else f"1/{1 / share:g}"


def _notes(
    quantity: Quantity, levels: Sequence[Level], anchors: Sequence[str], absent: Sequence[str]
) -> list[tuple[str, str]]:
    chosen = [group for level in levels for group in level.groups]
    points = points_of(chosen)
    share = "÷ full" if anchors == [REFERENCE] else "Share"
    budgets = (
        f"Each method's best configuration within a budget. {share}: the budget over the cost of {', '.join(anchors)}"
    )
    best = "the best of each budget is bold, with its ties at two decimals"
    notes = [
        ("", f"{budgets}. {quantity.note}."),
        ("", f"{points.capitalize()}, per cent; {best}."),
        spread_note(chosen),
    ]
    by = {entry.words for level in levels for entry in level.entries if entry.choice is not None}
    how = "Of: configurations to choose from, prefixes of a run's repetitions included. The choice is by P@1"
    if VALIDATION in by:
        how += f"; on {VALIDATION}: of those whose learning curve has it"
    if EVALUATED in by:
        how += f"; on {EVALUATED}: on the {points} themselves, which favours the method with more configurations"
    notes.append(("", f"{how}."))
    if any(_is_prefix(group) for group in chosen):
        notes.append((PREFIX_MARK, "derived from a trained run: its first R repetitions, or another decoder."))
    if absent:
        notes.append(("", f"Not in the table, because no comparable {quantity.words} are known: {', '.join(absent)}."))
    return notes
