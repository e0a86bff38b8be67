"""Arguments and options that several verbs of the command line share, and what they mean."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.common.errors import InputError, unknown_name
from bench.config.conditions import read_conditions
from bench.config.experiment import experiment_name, is_file_of_experiment, load_experiment
from bench.launch.experiment_runner import Launcher
from bench.results.kept_inputs import check_source, kept_source
from bench.results.left_out.damage import damage_lines
from bench.results.status import stale_line
from bench.results.store import Store

if TYPE_CHECKING:  # loads pandas
    from bench.report.selection import Selection

ExperimentArgument = Annotated[str, typer.Argument(help="Name of an experiment that was run.")]
ResultsOption = Annotated[Path, typer.Option("--results", help="Folder with a folder per experiment.")]
WhereOption = Annotated[
    list[str] | None, typer.Option("--where", help="key=value: only such rows; value,value: any of these. Repeatable.")
]
OnlyYamlOption = Annotated[
    bool, typer.Option("--only-yaml", help="Only rows of runs that the experiment's file asks for as it is now.")
]
AcrossOption = Annotated[bool, typer.Option("--across-machines", help="Show times of several machines together.")]
RESULTS = Path("results")


def chosen_launcher(name: str, address: str | None, exchange: str | None) -> Launcher | None:
    if name not in ("local", "ray"):
        raise InputError(f"--launcher: found {name!r}; expected local or ray")
    if name == "local":
        for option, value in (("--address", address), ("--exchange", exchange)):
            if value is not None:
                raise InputError(
                    f"{option}: found without --launcher ray; expected both, because the option is for a cluster"
                )
        return None
    from bench.launch.ray.cluster import RayCluster

    return RayCluster(address, exchange)


def chosen_rows(experiment: str, folder: Path, where: list[str] | None, only_yaml: bool) -> Selection | None:
    """The rows that --where and --only-yaml ask for; None without them."""
    from bench.report.selection import Selection

    if not where and not only_yaml:
        return None
    runs = frozenset(run_ids_in_file(experiment, folder)) if only_yaml else None
    options = [*(f"--where {shlex.quote(text)}" for text in where or ()), *["--only-yaml"] * only_yaml]
    return Selection(read_conditions(where or []), runs, " ".join(options))


def run_ids_in_file(experiment: str, folder: Path) -> set[str]:
    """Ids of the runs that the experiment's file asks for: the file given, else that which was run, else by name."""
    from bench.plan.in_file import runs_in_file

    file = None if is_file_of_experiment(experiment) else kept_source(folder)
    return runs_in_file(load_experiment(str(file or experiment)), Store(folder))


def print_damage(folder: Path) -> None:
    """What of an experiment's results cannot be read, on standard error."""
    for line in damage_lines(folder):
        print(line, file=sys.stderr)


def print_remarks(folder: Path) -> None:
    """The same, and what is stale: for commands that show results."""
    print_damage(folder)
    if (folder / "ledger.jsonl").is_file() and (stale := stale_line(Store(folder))):
        print(stale, file=sys.stderr)


def experiment_folder(experiment: str, results: Path) -> Path:
    """The results of an experiment given by name or by its YAML file; InputError when there are none, or when they are
    those of another file of that name."""
    folder = results / experiment_name(experiment)
    if not folder.is_dir():
        known = [path.parent.name for path in results.glob("*/ledger.jsonl")]
        raise unknown_name("results of experiment", folder.name, known)
    if is_file_of_experiment(experiment):
        check_source(Path(experiment), folder)
    return folder
