"""`machbench data`: list, show, fetch and import datasets."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from bench.data.cards import known_datasets, load_card
from bench.data.dataset import dataset_fingerprint, load_dataset
from bench.data.download.fetch import fetch_dataset, install
from bench.data.passport import passport_lines

app = typer.Typer(help="Datasets: list, show, fetch and import them.", no_args_is_help=True)


@app.command("list")
def list_datasets() -> None:
    """List every known dataset, its size and whether it is on disk."""
    table = Table(box=None, pad_edge=False)
    for column in ("dataset", "task", "train", "test", "features", "labels", "on disk"):
        table.add_column(column, no_wrap=True, justify="left" if column in ("dataset", "task", "on disk") else "right")
    for name in known_datasets():
        card = load_card(name)
        counts = [f"{int(card.expected[key]):,}" if key in card.expected else "" for key in _COUNTS]
        table.add_row(name, card.task, *counts, dataset_fingerprint(name) or "")
    Console().print(table)


@app.command()
def show(name: str = typer.Argument(help="Name of a dataset, or path of a card.")) -> None:
    """Show the card of a dataset and, when its cache is built, what the data contain."""
    card = load_card(name)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]{card.name}[/bold]  {card.title}", markup=True)
    for key, value in (
        ("task", card.task),
        ("origin", card.origin),
        ("licence", card.licence),
        ("propensity", "A = {:g}, B = {:g}".format(*card.propensity)),
    ):
        console.print(f"  {key}: {value}", markup=False)
    for trap in card.traps:
        console.print(f"  trap: {trap}", markup=False)
    if (fingerprint := dataset_fingerprint(name)) is None:
        console.print(f"not built yet; `machbench data fetch {name}` builds it", markup=False)
        for key, count in card.expected.items():
            console.print(f"  expected {key}: {count:,}", markup=False)
        return
    data = load_dataset(name)
    console.print(f"  fingerprint: {fingerprint}\n  cache: {data.folder}", markup=False)
    for key, number in data.stats.items():
        expected = f"  (card: {card.expected[key]:,})" if key in card.expected else ""
        shown = f"{number:,.4g}" if number % 1 else f"{int(number):,}"
        console.print(f"  {key}: {shown}{expected}", markup=False)
    for line in passport_lines(data.passport):
        console.print(f"  {line}", markup=False)
    for note in data.notes:
        console.print(f"  note: {note}", markup=False)


@app.command()
def fetch(name: str = typer.Argument(help="Name of a dataset, or path of a card.")) -> None:
    """Download a dataset and build its cache."""
    folder = fetch_dataset(name, progress=typer.echo)
    typer.echo(f"{name}: {dataset_fingerprint(name)} in {folder}")


@app.command("import")
def import_files(
    name: str = typer.Argument(help="A known dataset, or a name of your own."),
    train: Path | None = typer.Option(None, help="Train file, in any format that docs/data.md lists."),
    test: Path | None = typer.Option(None, help="Test file."),
    all_points: Path | None = typer.Option(
        None, "--all", help="Instead of --train and --test: all points; needs --splits."
    ),
    splits: Path | None = typer.Option(None, help="Train rows of each random split, one line or one column per split."),
    train_labels: Path | None = typer.Option(None, help="Label file of the train file, when not found by its name."),
    test_labels: Path | None = typer.Option(None, help="The same for the test file."),
    train_filter: Path | None = typer.Option(None, help="(point, label) pairs to leave out, train."),
    test_filter: Path | None = typer.Option(None, help="(point, label) pairs to leave out of scoring."),
    label_names: Path | None = typer.Option(None, help="Text file, the name of label i on line i."),
) -> None:
    """Import files as a dataset, after checking them."""
    given = {
        "train": train,
        "test": test,
        "all": all_points,
        "splits": splits,
        "train_labels": train_labels,
        "test_labels": test_labels,
        "train_filter": train_filter,
        "test_filter": test_filter,
        "label_names": label_names,
    }
    files = {key: path for key, path in given.items() if path is not None}
    folder = install(name, files, typer.echo)
    typer.echo(f"{name}: {dataset_fingerprint(name)} in {folder}")


_COUNTS = ("n_train", "n_test", "n_features", "n_labels")
