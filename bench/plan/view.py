"""What `machbench plan` prints: the grid, or the sizes that meet a budget. Loads torch, unlike the launcher."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.common.errors import InputError
from bench.common.files import write_atomic
from bench.common.text_table import to_markdown, write_each
from bench.common.units import in_units, read_bytes
from bench.config.experiment import Experiment
from bench.plan.budget import Budget, Solution, solve
from bench.plan.check_methods import answers_here, checked
from bench.plan.grid import Planner, grid_table, make_grid
from bench.plan.recipes import sizes_tables
from bench.results.kept_inputs import check_source
from bench.results.store import Store

WIDE = 240  # columns of a table that goes to a file or a pipe


def show_plan(
    experiment: Experiment,
    results: Path,
    given: Mapping[str, float | str | None],
    wanted: Sequence[str],
    json_file: Path | None,
    tables: Path | None = None,
) -> None:
    """Print the plan, and write its rows to ``json_file``.

    Where the experiment's paper has recipes, also print their sizes beside the stated ones; ``tables`` is a folder to
    write these tables into. given: the budget by quantity, None where there is none. InputError for more than one
    budget, one that is no positive number, a --solve that is not METHOD=SETTING, and a paper file that is wrong.
    """
    console = Console() if sys.stdout.isatty() else Console(width=WIDE)
    budget = read_budget(given)
    store = Store(results / experiment.name)
    if experiment.file is not None:
        check_source(experiment.file, store.root)
    experiment = checked(experiment, store, answers_here)
    if budget is None:
        grid = make_grid(experiment, results)
        console.print(grid_table(grid, experiment.name), highlight=False, markup=False)
        rows = [run.row() for run in grid]
    else:
        solve_for = dict(read_pair(text) for text in wanted)
        solutions = solve(experiment, Planner(results, experiment.time_limit_s), budget, solve_for)
        console.print(budget_table(solutions, budget, experiment.name), highlight=False, markup=False)
        for solution in solutions:
            if solution.override:
                console.print(solution.override, highlight=False, markup=False, soft_wrap=True)
        rows = [solution.row() for solution in solutions]
    sizes = sizes_tables(experiment.paper) if experiment.paper else []
    for table in sizes:
        console.print(to_markdown(table), highlight=False, markup=False, soft_wrap=True)
    if tables:
        write_each(sizes, tables)
    if json_file:
        write_atomic(json_file, json.dumps(rows, indent=1) + "\n")


def read_budget(given: Mapping[str, float | str | None]) -> Budget | None:
    """The one budget that is given."""
    chosen = {quantity: value for quantity, value in given.items() if value is not None}
    if not chosen:
        return None
    if len(chosen) > 1:
        raise InputError(f"found budgets of {' and '.join(chosen)}; expected one: sizes are solved for a single budget")
    ((quantity, value),) = chosen.items()
    limit = read_bytes(value, f"--budget-{quantity}") if isinstance(value, str) else float(value or 0)
    if not limit > 0:
        raise InputError(f"--budget-{quantity}: found {value}; expected a positive number")
    return Budget(quantity, limit)


def read_pair(text: str) -> tuple[str, str]:
    """METHOD=SETTING."""
    method, equals, setting = text.partition("=")
    if not (method and equals and setting):
        raise InputError(f"--solve: found {text!r}; expected METHOD=SETTING, for example mach=R")
    return method, setting


def budget_table(solutions: Sequence[Solution], budget: Budget, name: str) -> Table:
    """Method, dataset, override and predicted quantity."""
    table = Table(title=f"{name}: at most {shown(budget.quantity, budget.limit)}", title_justify="left")
    for head in ("method", "dataset", "override", "predicted"):
        table.add_column(head, justify="right" if head == "predicted" else "left")
    for solution in solutions:
        override = f"none: {solution.reason}"
        if solution.override:
            override = solution.override + (f"  (with {solution.reason})" if solution.reason else "")
        predicted = "" if solution.predicted is None else shown(budget.quantity, solution.predicted)
        table.add_row(solution.spec.method, solution.spec.dataset_name, override, predicted)
    return table


def shown(quantity: str, value: float) -> Any:
    """A value with its unit."""
    if quantity == "bytes":
        return in_units(value)
    return f"{value:,.0f} output parameters" if quantity == "parameters" else f"{value:,.4g} s of training"
