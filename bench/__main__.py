"""The command line: verbs in the order of use. Each calls the module that does the work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.common.child_processes import python
from bench.common.environment import THREADS
from bench.common.errors import InputError
from bench.common.exits import ended
from bench.common.files import write_atomic
from bench.config.experiment import experiment_name, load_experiment
from bench.launch.experiment_runner import RETRY, LaunchOptions, run_experiment
from bench.launch.progress import Progress
from bench.options import (
    RESULTS,
    AcrossOption,
    ExperimentArgument,
    OnlyYamlOption,
    ResultsOption,
    WhereOption,
    chosen_launcher,
    chosen_rows,
    experiment_folder,
    print_damage,
    print_remarks,
    run_ids_in_file,
)
from bench.results.left_out.quarantine import lift as lift_quarantine
from bench.results.left_out.quarantine import quarantine as withdraw
from bench.results.status import status_table
from bench.results.store import Store

app = typer.Typer(
    help="Benchmark output layers with up to millions of labels: MACH beside full and sampled softmax.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


# Each verb imports what it needs: the process that runs experiments loads no data, torch or figures.


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def data(context: typer.Context) -> None:
    """Datasets: list, show, fetch and import them."""
    from bench.data.cli import app as data_app

    data_app(context.args, prog_name="machbench data")


@app.command()
def plan(
    experiment: Annotated[str, typer.Argument(help="Name under configs/experiment/, or a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, as for `run`.")] = None,
    budget_parameters: Annotated[float | None, typer.Option(help="Solve for output parameters, e.g. 6e6.")] = None,
    budget_bytes: Annotated[str | None, typer.Option(help="Solve for peak bytes: 4e9, 4GB or 4GiB.")] = None,
    budget_seconds: Annotated[float | None, typer.Option(help="Solve for seconds of training.")] = None,
    solve_for: Annotated[list[str] | None, typer.Option("--solve", help="METHOD=SETTING to solve for.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the rows to this file.")] = None,
    tables: Annotated[Path | None, typer.Option(help="Folder for tables of the recipes of a paper.")] = None,
    results: ResultsOption = RESULTS,
) -> None:
    """Show the runs: done or to do; parameters, bytes and seconds predicted; whether they fit, and why not."""
    os.environ.update(THREADS | os.environ)  # before torch is loaded
    from bench.plan.view import show_plan

    given = {"parameters": budget_parameters, "bytes": budget_bytes, "seconds": budget_seconds}
    chosen = load_experiment(experiment, overrides or [])
    show_plan(chosen, results, given, solve_for or [], json_file, tables)
    print_damage(results / chosen.name)


@app.command()
def run(
    experiment: Annotated[str, typer.Argument(help="Name under configs/experiment/, or a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, dotted; commas sweep: methods.mach.B=256,1024")
    ] = None,
    retry: Annotated[str | None, typer.Option(help="Also repeat failed runs: oom, timeout, failed or all.")] = None,
    force: Annotated[bool, typer.Option(help="Repeat runs that are done.")] = False,
    skip_unfit: Annotated[
        bool, typer.Option("--skip-unfit", help="Do not start runs that are predicted not to fit into memory.")
    ] = False,
    launcher: Annotated[str, typer.Option(help="local, or ray: distribute the runs over a cluster.")] = "local",
    address: Annotated[
        str | None, typer.Option(help="With --launcher ray: address of the cluster; default: start one.")
    ] = None,
    exchange: Annotated[
        str | None,
        typer.Option(help="With --launcher ray: URL such as s3://bucket/folder, for nodes without a shared one."),
    ] = None,
    across_machines: AcrossOption = False,
    results: ResultsOption = RESULTS,
) -> None:
    """Train, predict and measure what is missing; then write tables, figures and the report.

    Several such commands may work on one experiment at the same time; see docs/running.md.
    """
    if retry is not None and retry not in RETRY:
        raise InputError(f"--retry: found {retry!r}; expected one of {', '.join(RETRY)}")
    place = chosen_launcher(launcher, address, exchange)
    chosen = load_experiment(experiment, overrides or [])
    console = Console()
    try:
        with Progress(console) as progress:
            options = LaunchOptions(retry, force, skip_unfit)
            failed = run_experiment(chosen, results, progress, options, place)
        folder = results / chosen.name
        command, env = python("bench.report.write_all")
        written = subprocess.run([*command, str(folder), *["--across-machines"] * across_machines], env=env).returncode
    except KeyboardInterrupt:
        console.print("stopped; what is finished is kept. The same command goes on from here.")
        raise typer.Exit(130) from None
    if written != 0:
        console.print(f"tables, figures and report were not written; `machbench table {chosen.name}` tries it again")
        raise typer.Exit(max(written, 1))
    console.print(f"results in {folder}: table.csv, tables/, figures/, report.html", highlight=False)
    raise typer.Exit(failed)


@app.command()
def status(experiment: ExperimentArgument, results: ResultsOption = RESULTS) -> None:
    """Show which runs are done, failed, running, interrupted or unreadable."""
    folder = experiment_folder(experiment, results)
    Console().print(status_table(folder))
    print_damage(folder)


@app.command()
def score(
    experiment: ExperimentArgument,
    file: Annotated[Path | None, typer.Option(help="Predictions made elsewhere: .npz or text pairs.")] = None,
    method: Annotated[str, typer.Option(help="With --file: the name of the method in tables.")] = "foreign",
    dataset: Annotated[str | None, typer.Option(help="With --file: the dataset whose test points they rank.")] = None,
    results: ResultsOption = RESULTS,
) -> None:
    """Compute metrics again from kept predictions; with --file, add a ranking made elsewhere as a row.

    Exit status 1 where the predictions of some run were left as they are; the reason is printed.
    """
    from bench.results.rescore import score_experiment, score_file, scored_line

    store = Store(results / experiment_name(experiment) if file else experiment_folder(experiment, results))
    if file is not None and dataset is None:
        raise InputError("--file: found no --dataset; expected the dataset whose test points the file ranks")
    with store.lock():
        if file is not None and dataset is not None:
            print(scored_line(store, score_file(store, file, method, dataset)))
        left = False
        for found in score_experiment(store):
            print(found.line())
            left |= bool(found.left)
        from bench.results.table import write_results

        write_results(store)
    print_remarks(store.root)
    raise typer.Exit(int(left))


@app.command()
def table(
    experiment: ExperimentArgument,
    format: Annotated[str, typer.Option(help="md, csv or latex.")] = "md",
    where: WhereOption = None,
    only_yaml: OnlyYamlOption = False,
    across_machines: AcrossOption = False,
    results: ResultsOption = RESULTS,
) -> None:
    """Write the tables and print them; of a selection of rows, print them only."""
    from bench.report.against_best import against_best
    from bench.report.selection import read_rows, readable_rows
    from bench.report.tables import further_tables, render_table, write_tables

    folder = experiment_folder(experiment, results)
    selection = chosen_rows(experiment, folder, where, only_yaml)
    with Store(folder).writing():
        frame = read_rows(folder, across_machines, selection)
        more, tested = further_tables(frame, folder, selection is None), against_best(frame, folder)
        if selection is None:
            write_tables(frame, folder / "tables", more, tested)
    print(render_table(frame, format, more, tested))
    if selection is not None:
        print(selection.words(readable_rows(folder)), file=sys.stderr)
    print_remarks(folder)


@app.command()
def figure(
    experiment: ExperimentArgument,
    only: Annotated[str | None, typer.Option(help="Name of one figure, as in the report; default: all.")] = None,
    where: WhereOption = None,
    only_yaml: OnlyYamlOption = False,
    across_machines: AcrossOption = False,
    results: ResultsOption = RESULTS,
) -> None:
    """Draw the figures; of a selection of rows, into selected/figures/."""
    from bench.report.figures import write_figures
    from bench.report.selection import SELECTED, read_rows, readable_rows

    folder = experiment_folder(experiment, results)
    selection = chosen_rows(experiment, folder, where, only_yaml)
    target = (folder / SELECTED if selection else folder) / "figures"
    with Store(folder).writing():
        paths = write_figures(read_rows(folder, across_machines, selection), target, folder / "runs", only)
    for path in paths:
        print(path)
    if selection is not None:
        print(selection.words(readable_rows(folder)), file=sys.stderr)
    print_remarks(folder)


@app.command()
def report(
    experiment: ExperimentArgument,
    where: WhereOption = None,
    only_yaml: OnlyYamlOption = False,
    across_machines: AcrossOption = False,
    results: ResultsOption = RESULTS,
) -> None:
    """Write report.html, one self-contained page; of a selection of rows, selected/report.html."""
    from bench.report.html import write_report

    folder = experiment_folder(experiment, results)
    selection = chosen_rows(experiment, folder, where, only_yaml)
    with Store(folder).writing():
        path = write_report(folder, across_machines=across_machines, selection=selection)
    print(path)
    print_remarks(folder)


@app.command()
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="An experiment (name or results folder) or a run id.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another of the same kind.")],
    times: Annotated[bool, typer.Option("--times", help="Compare times and memory across machines too.")] = False,
    results: ResultsOption = RESULTS,
) -> None:
    """Compare B with A, with paired tests. Exit status 0: nothing significant, 1: something, 2: a bad request."""
    from bench.report.diff import diff as compare

    lines, significant = compare(a, b, results, times)
    print("\n".join(lines))
    for folder in dict.fromkeys(folder for name in (a, b) for folder in (results / name, Path(name))):
        print_remarks(folder)
    raise typer.Exit(significant)


@app.command()
def quarantine(
    experiment: ExperimentArgument,
    run_id: Annotated[str, typer.Argument(help="Run id, as in table.csv and `status`.")],
    reason: Annotated[str, typer.Option(help="Why the result is withdrawn; kept with the run.")] = "",
    lift: Annotated[bool, typer.Option(help="Take it out of quarantine again.")] = False,
    results: ResultsOption = RESULTS,
) -> None:
    """Withdraw a run: it stays on disk, but is left out of table.csv, tables, figures and the report."""
    from bench.report.write_all import write_readings

    folder = experiment_folder(experiment, results)
    store = Store(folder)
    with store.lock():
        (lift_quarantine if lift else withdraw)(store, run_id, reason)
        from bench.results.table import write_results

        write_results(store)
    write_readings(folder)
    state = "out of quarantine, its rows are back" if lift else "in quarantine; only `run --force` runs it again"
    print(f"{run_id}: {state}")
    print_damage(folder)


@app.command()
def forget(
    experiment: ExperimentArgument,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", help="key=value: runs with it; value,value: any of these. Repeatable."),
    ] = None,
    not_in_yaml: Annotated[
        bool, typer.Option("--not-in-yaml", help="Runs that the experiment's file does not ask for as it is now.")
    ] = False,
    all_runs: Annotated[bool, typer.Option("--all", help="All runs.")] = False,
    restore: Annotated[
        bool, typer.Option("--restore", help="Bring back what was forgotten last, or what --where says.")
    ] = False,
    results: ResultsOption = RESULTS,
) -> None:
    """Move runs to the trash folder of the experiment's results; --restore brings them back."""
    from bench.config.conditions import read_conditions
    from bench.report.write_all import write_readings
    from bench.results.left_out import trash
    from bench.results.table import write_results

    folder, conditions = experiment_folder(experiment, results), read_conditions(where or [])
    store = Store(folder)
    if restore and (not_in_yaml or all_runs):
        raise InputError("--restore: found another choice of runs; expected --restore alone or with --where")
    if not (restore or conditions or not_in_yaml or all_runs):
        raise InputError("forget: found no choice of runs; expected --where key=value, --not-in-yaml or --all")
    with store.lock():
        if restore:
            runs = trash.restore(store, conditions)
        else:
            others = None
            if not_in_yaml:
                others = set(trash.rows_of_runs(store)) - run_ids_in_file(experiment, folder)
            runs = trash.choose(store, conditions, others)
            reason = " ".join([*(f"--where {condition}" for condition in conditions), *["--not-in-yaml"] * not_in_yaml])
            place = trash.forget(store, runs, reason or "--all")
        write_results(store)
    write_readings(folder)
    for run_id in runs:
        print(run_id)
    done = "brought back" if restore else f"moved to {place}; --restore brings them back"
    print(f"{len(runs)} run{'s' * (len(runs) != 1)} {done}")
    print_damage(folder)


@app.command()
def check(
    method: Annotated[str, typer.Argument(help="Name under configs/method/, or a method's YAML file.")],
) -> None:
    """Check a method against the interface: named checks on a tiny dataset, with a reason for each failure."""
    os.environ.update(THREADS | os.environ)  # before torch is loaded
    from bench.check import FAILED, check_method, summary

    outcomes = []
    for outcome in check_method(method):
        outcomes.append(outcome)
        print(outcome.line(), flush=True)
    print(f"{method}: {summary(outcomes)}")
    raise typer.Exit(any(outcome.status == FAILED for outcome in outcomes))


@app.command()
def speed(
    what: Annotated[str | None, typer.Argument(help="One measurement; default: all.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the rows to this file.")] = None,
) -> None:
    """Measure own speed against plain references, as ratios of medians of interleaved repeats."""
    os.environ.update(THREADS | os.environ)  # before torch is loaded
    from bench.speed import measure

    rows = []
    for row in measure(what):
        rows.append(row)
        numbers = f"{row['median_s']:10.4f} s {row['ratio']:8.2f}×"
        print(f"{row['what']:10} {row['variant']:40} {numbers}  {row.get('note', '')}", flush=True)
    if json_file:
        write_atomic(json_file, json.dumps(rows, indent=1) + "\n")


def main() -> None:
    """Entry point; exit statuses: see `bench.common.exits.ended`."""
    ended(app)


if __name__ == "__main__":
    main()
