"""Sizes of official recipes: the arithmetic by hand, what is stated of them, and files that are wrong."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import machbench

from bench.common.errors import InputError
from bench.common.paths import config_root
from bench.common.text_table import Table, to_csv, to_markdown
from bench.config.experiment import load_experiment
from bench.data import known_datasets, load_card
from bench.plan.recipes import LINEAR, Recipe, read_recipes, sizes_of, sizes_tables

OFFICIAL = config_root() / "paper" / "mach-official.yaml"


def recipe(**changes: Any) -> Recipe:
    base: dict[str, Any] = {"dataset": "d", "n_features": 1000, "n_labels": 700, "network": "30-20", "method": "mach"}
    base |= {"settings": {"B": 50, "R": 4}, "source": "here", "stated": (), "why": ""}
    return Recipe(**(base | changes))


def official(dataset: str, **settings: int) -> dict[str, float]:
    (found,) = (
        r
        for r in read_recipes(OFFICIAL)
        if r.dataset == dataset and r.method == "mach" and settings.items() <= r.settings.items()
    )
    return sizes_of(found)


def read(table: Table) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(table))))


def test_a_network_by_hand() -> None:
    sizes = sizes_of(recipe())
    assert sizes["params_input"] == 4 * 1001 * 30
    assert sizes["params_hidden"] == 4 * 31 * 20
    assert sizes["params_output"] == 4 * 21 * 50
    assert sizes["params_total"] == 4 * (1001 * 30 + 31 * 20 + 21 * 50) == 4 * sizes["params_per_repetition"]
    assert sizes["weights_bytes"] == 4 * sizes["params_total"]
    full = 1001 * 30 + 31 * 20 + 21 * 700
    assert sizes["relative"] == pytest.approx(sizes["params_total"] / full)
    assert sizes["times_smaller"] == pytest.approx(full / sizes["params_total"])


def test_a_linear_model_and_hashed_inputs_by_hand() -> None:
    sizes = sizes_of(recipe(network=LINEAR))
    assert sizes["params_total"] == sizes["params_output"] == 4 * 50 * 1001
    assert (sizes["params_input"], sizes["params_hidden"]) == (0, 0)
    assert sizes["params_per_repetition"] == 50 * 1001
    assert sizes["relative"] == pytest.approx(4 * 50 / 700)
    hashed = sizes_of(recipe(settings={"B": 50, "R": 4, "feature_hash": 100}))
    assert hashed["params_input"] == 4 * 101 * 30
    assert hashed["relative"] == pytest.approx(hashed["params_total"] / (101 * 30 + 31 * 20 + 21 * 700))
    assert sizes_of(recipe(method="full_softmax", settings={}))["params_total"] == 1001 * 30 + 31 * 20 + 21 * 700


@pytest.mark.parametrize(
    ("dataset", "settings", "each", "total", "relative"),
    [
        ("wiki10-31k", {}, 101_939 * 500 + 501 * 500 + 501 * 2_000, 1.67e9, 25.0),
        ("delicious-200k", {}, 782_586 * 500 + 501 * 500 + 501 * 5_000, 12.6e9, 25.5),
        ("amazon-670k", {}, 135_910 * 500 + 501 * 500 + 501 * 10_000, 2.34e9, 5.8),
        ("amazon-3m", {}, 100_001 * 4_096 + 4_097 * 10_000, 7.21e9, 0.60),
        ("amazon-search", {"B": 20_000}, 80_001 * 2_000 + 2_001 * 20_000, 6.40e9, 0.065),
        ("odp", {"R": 50}, 32 * 422_714, 0.676e9, 0.0152),
        ("imagenet-22k", {}, 512 * 6_145, 0.0629e9, 0.469),
    ],
)
def test_official_recipes(dataset: str, settings: dict[str, int], each: int, total: float, relative: float) -> None:
    """Parameters of a repetition exactly, and the audit of the official settings to the digits that it has."""
    sizes = official(dataset, **settings)
    assert sizes["params_per_repetition"] == each
    assert sizes["params_total"] == pytest.approx(total, rel=0.005)
    assert sizes["relative"] == pytest.approx(relative, rel=0.01)


def test_recipes_are_about_the_datasets_of_the_cards() -> None:
    recipes = read_recipes(OFFICIAL)
    assert {r.dataset for r in recipes} - set(known_datasets()) == {"amazon-search"}  # private; its twin has a card
    for own in recipes:
        card = load_card(own.dataset if own.dataset != "amazon-search" else "amazon-search-style")
        assert (own.n_features, own.n_labels) == (card.expected["n_features"], card.expected["n_labels"])


def test_the_experiment_of_official_recipes_has_their_settings() -> None:
    recipes = {(r.dataset, r.settings["B"]): r for r in read_recipes(OFFICIAL) if r.method == "mach"}
    runs = [run for run in load_experiment("official_recipes").runs if run.method == "mach"]
    assert len(runs) == 5
    for run in runs:
        own = recipes[(run.dataset.removesuffix("-style"), run.settings["B"])]
        assert run.train.hidden == own.network
        assert own.settings.items() <= run.settings.items()


def test_stated_sizes_are_those_on_record() -> None:
    """Against the list of published numbers, where it is kept beside the checkout."""
    listed = config_root().parent.parent / "shared" / "published.csv"
    if not listed.is_file():
        pytest.skip("no list of published numbers beside the checkout")
    with listed.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] in ("ODP", "Amazon Search (private)")]
    scale = {"GB": 1e9, "count": 1.0, "x": 1.0, "count (>400GB)": 1.0}
    numbers = [row for row in rows if row["unit"] in scale and "-" not in row["value"]]
    known = {float(row["value"]) * scale[row["unit"]] for row in numbers} | {400e9}  # the last in a unit's words
    stated = [size for own in read_recipes(OFFICIAL) for size in own.stated]
    assert len(stated) == 9
    assert {size.value for size in stated} <= known


def test_planned_beside_stated() -> None:
    sizes, beside = sizes_tables(OFFICIAL)
    assert len(sizes.rows) == len(read_recipes(OFFICIAL)) == 12
    lines = read(beside)
    assert len(lines) == 9
    for line in lines:
        planned, stated = float(line["planned"]), float(line["stated"])
        assert float(line["difference"]) == pytest.approx(100 * (planned - stated) / stated)
    (largest,) = (line for line in lines if line["dataset"] == "amazon-search" and line["quantity"] == "params_total")
    assert float(largest["planned"]) == 6_400_704_000
    assert float(largest["stated"]) == 6.4e9
    text = to_markdown(beside)
    assert "> 100,000 M" in text.replace("\\", "")
    assert "mach on amazon-3m (B = 10,000, R = 16)" in text
    at = [head.name for head in beside.heads].index("difference")
    assert all(row[at].mark for row in beside.rows)  # every difference has a reason
    assert {row[at].mark for row in beside.rows} == {mark for mark, _ in beside.notes if mark}


def test_the_document_shows_these_tables() -> None:
    text = (config_root().parent / "docs" / "recipes.md").read_text()
    for table in sizes_tables(OFFICIAL):
        grid = next(part for part in to_markdown(table).split("\n\n") if part.startswith("|"))
        assert grid in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"netwrk": "1"}, "did you mean 'network'"),
        ({"n_labels": 0}, "n_labels: found 0"),
        ({"source": ""}, "source: found ''"),
        ({"stated": [{"quantity": "params_totl", "value": 1}]}, "did you mean 'params_total'"),
        ({"stated": [{"quantity": "params_total", "value": "many"}]}, "value: found 'many'"),
        ({"method": "mahc"}, "did you mean 'mach'"),
        ({"settings": {"BB": 1}}, "recipe of d, settings of mach"),
        ({"network": "a-b"}, "hidden: found 'a-b'"),
    ],
)
def test_a_wrong_recipe_is_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    entry: dict[str, Any] = {"dataset": "d", "n_features": 5, "n_labels": 7, "network": "3", "method": "mach"}
    entry |= {"settings": {"B": 2, "R": 2}, "source": "here"}
    path = tmp_path / "paper.yaml"
    path.write_text(yaml.safe_dump({"title": "T", "recipes": [entry | change]}))
    with pytest.raises(InputError) as caught:
        sizes_tables(path)
    assert words in str(caught.value)


def test_a_paper_without_recipes_has_no_sizes(tmp_path: Path) -> None:
    assert sizes_tables(config_root() / "paper" / "mach-pytorch.yaml") == []
    path = tmp_path / "paper.yaml"
    path.write_text("recipes: 3\n")
    with pytest.raises(InputError, match="key recipes: found int"):
        read_recipes(path)


@pytest.mark.slow
def test_the_command_prints_and_writes_them(tmp_path: Path) -> None:
    done = machbench("plan", "official_recipes", "--tables", "out", cwd=tmp_path)
    assert "6,400,704,000" in done.stdout
    assert "Planned beside stated" in done.stdout
    names = {f"{name}.{suffix}" for name in ("sizes", "sizes_stated") for suffix in ("md", "csv", "tex")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert not (tmp_path / "results").exists()
