"""Sizes of the recipes of a paper beside the sizes that it states, from the formulae that `machbench plan` uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.columns import REFERENCE, WEIGHT_BYTES, three_digits
from bench.common.errors import InputError, unknown_name
from bench.common.text_table import Cell, Head, Table
from bench.config.spec import RunSpec, TrainSettings
from bench.config.yaml_files import check_keys, config_path, read_yaml
from bench.data.sizes import DataSizes
from bench.model.methods import Method
from bench.plan.forecast import predicted_parameters

LINEAR = "linear"  # no hidden layer: the output layer reads the features
RECIPE_KEYS = ("dataset", "n_features", "n_labels", "network", "method", "settings", "source", "stated", "why")
STATED_KEYS = ("quantity", "value", "at_least", "source")
QUANTITIES = {
    "params_total": ("all parameters", 1e-6, "M"),
    "params_output": ("output parameters", 1e-6, "M"),
    "weights_bytes": ("bytes of all weights", 1e-9, "GB"),
    "output_bytes": ("bytes of the output layer", 1e-9, "GB"),
    "times_smaller": (f"times smaller than {REFERENCE}", 1.0, "×"),
}


@dataclass(frozen=True)
class Stated:
    """A size that a paper states; ``at_least``: it says "more than"."""

    quantity: str
    value: float
    at_least: bool
    source: str


@dataclass(frozen=True)
class Recipe:
    """A network as a paper or its code describes it; ``network``: widths of the hidden layers, or linear."""

    dataset: str
    n_features: int
    n_labels: int
    network: str
    method: str
    settings: Mapping[str, Any]
    source: str
    stated: tuple[Stated, ...]
    why: str


def read_recipes(path: Path) -> list[Recipe]:
    """The ``recipes`` of a file under configs/paper/; empty where it has none. InputError naming file and key."""
    entries = read_yaml(path).get("recipes") or []
    if not isinstance(entries, list):
        raise InputError(f"{path}, key recipes: found {type(entries).__name__}; expected a list")
    return [_recipe(entry, f"{path}, recipes[{at}]") for at, entry in enumerate(entries)]


def _recipe(entry: Any, where: str) -> Recipe:
    check_keys(entry, RECIPE_KEYS, "key", where)
    for key in ("dataset", "network", "method", "source"):
        if not (isinstance(entry.get(key), str) and entry[key].strip()):
            raise InputError(f"{where}, key {key}: found {entry.get(key)!r}; expected text")
    for key in ("n_features", "n_labels"):
        if not isinstance(entry.get(key), int) or entry[key] < 1:
            raise InputError(f"{where}, key {key}: found {entry.get(key)!r}; expected a whole number of at least 1")
    stated = []
    for at, size in enumerate(entry.get("stated") or []):
        check_keys(size, STATED_KEYS, "key", f"{where}, stated[{at}]")
        if size.get("quantity") not in QUANTITIES:
            raise unknown_name("quantity", str(size.get("quantity")), QUANTITIES, f"{where}, stated[{at}]")
        value = size.get("value")
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise InputError(f"{where}, stated[{at}], key value: found {value!r}; expected a positive number")
        source = str(size.get("source", entry["source"]))
        stated.append(Stated(size["quantity"], float(value), bool(size.get("at_least", False)), source))
    named = {key: entry[key] for key in ("dataset", "n_features", "n_labels", "network", "method", "source")}
    return Recipe(**named, settings=entry.get("settings") or {}, stated=tuple(stated), why=str(entry.get("why", "")))


def sizes_of(recipe: Recipe) -> dict[str, float]:
    """The quantities of `QUANTITIES`, ``params_input``, ``params_hidden``, ``params_per_repetition`` and ``relative``.

    ``relative`` and ``times_smaller`` compare all parameters with one full softmax on the same trunk and inputs (hashed
    ones where the recipe hashes them). Weights take 4 bytes each; the index comes on top and is not counted. InputError
    for methods and settings that do not exist.
    """
    own = _parameters(recipe.method, recipe.settings, recipe, recipe.n_features)
    inputs = int(recipe.settings.get("feature_hash") or recipe.n_features)
    full = _parameters(REFERENCE, {}, recipe, inputs)
    return {
        **own,
        "weights_bytes": WEIGHT_BYTES * own["params_total"],
        "output_bytes": WEIGHT_BYTES * own["params_output"],
        "relative": own["params_total"] / full["params_total"],
        "times_smaller": full["params_total"] / own["params_total"],
    }


def _parameters(name: str, chosen: Mapping[str, Any], recipe: Recipe, n_features: int) -> dict[str, int]:
    base = read_yaml(config_path("method", name))
    check_keys(chosen, list(base.get("settings") or {}), "key", f"recipe of {recipe.dataset}, settings of {name}")
    settings = {**(base.get("settings") or {}), **chosen}
    method = Method.load(base["target"], settings)
    train = TrainSettings() if recipe.network == LINEAR else TrainSettings(hidden=recipe.network)
    spec = RunSpec(name, base["target"], settings, train, recipe.dataset, {}, 0)
    if recipe.network == LINEAR:
        output = method.parameter_count(recipe.n_labels, n_features)
        counted = None if output is None else _without_hidden_layer(output, method.encoders.repetitions or 1)
    else:
        counted = predicted_parameters(method, spec, _sizes(n_features, recipe.n_labels))
    if counted is None:
        raise InputError(f"recipe of {recipe.dataset}: method {name} declares no parameter count")
    return counted


def _without_hidden_layer(output: int, repetitions: int) -> dict[str, int]:
    trunk = {"params_input": 0, "params_hidden": 0}
    return trunk | {"params_total": output, "params_output": output, "params_per_repetition": output // repetitions}


def _sizes(n_features: int, n_labels: int) -> DataSizes:
    """Parameters depend on these two alone."""
    return DataSizes(1, 0, 1, n_features, n_labels, 1.0, 1.0, n_features, "recipe")


NAMED = [
    Head("dataset", "dataset", number=False),
    Head("method", "method", number=False),
    Head("network", "hidden", number=False),
    Head("B", "B", latex="$B$"),
    Head("R", "R", latex="$R$"),
]
PLANNED = {"params_input": "input", "params_hidden": "hidden", "params_output": "output", "params_total": "all"}
PLANNED |= {"params_per_repetition": "per repetition"}


def sizes_tables(path: Path) -> list[Table]:
    """``sizes``, the sizes of the recipes of a paper file, and ``sizes_stated``, planned sizes beside stated ones.

    Differences are planned against stated, in per cent of the latter; a letter points at the reason. Empty for a file
    without recipes. InputError as `read_recipes` and `sizes_of`.
    """
    recipes = read_recipes(path)
    if not recipes:
        return []
    title = str(read_yaml(path).get("title", path.stem))
    sizes = [sizes_of(recipe) for recipe in recipes]
    return [_sizes_table(recipes, sizes, title), _stated_table(recipes, sizes, title)]


def _sizes_table(recipes: Sequence[Recipe], sizes: Sequence[Mapping[str, float]], title: str) -> Table:
    heads = [*NAMED, *(Head(name, label, "M") for name, label in PLANNED.items())]
    heads += [Head("weights_bytes", "weights", "GB"), Head("params_total_relative", "all ÷ full")]
    heads.append(Head("source", "settings from", number=False))
    rows = [
        [
            *_named(recipe),
            *(Cell(three_digits(size[name] * 1e-6), int(size[name])) for name in PLANNED),
            Cell(three_digits(size["weights_bytes"] * 1e-9), int(size["weights_bytes"])),
            Cell(f"{three_digits(size['relative'])}×", size["relative"]),
            Cell(recipe.source, recipe.source),
        ]
        for recipe, size in zip(recipes, sizes, strict=True)
    ]
    trunk = "the same hidden layers and inputs, hashed where the recipe hashes them"
    notes = [
        (
            "",
            "Formulae of `machbench plan`, with biases. M: millions of parameters. GB: 10^9 bytes, 4 per parameter.",
        ),
        ("", f"÷ full: divided by {REFERENCE} on {trunk}."),
    ]
    return Table("sizes", f"Sizes of the recipes: {title}", heads, rows, notes)


def _stated_table(recipes: Sequence[Recipe], sizes: Sequence[Mapping[str, float]], title: str) -> Table:
    heads = [*NAMED, Head("quantity", "quantity", number=False), Head("planned", "planned"), Head("stated", "stated")]
    heads += [Head("difference", "difference", "%"), Head("source", "stated in", number=False)]
    rows: list[list[Cell]] = []
    reasons: list[tuple[str, str]] = []
    starts, silent = [], []
    for recipe, size in zip(recipes, sizes, strict=True):
        if not recipe.stated:
            sizes_named = ", ".join(
                f"{name} = {value:,}" for name, value in recipe.settings.items() if name in ("B", "R")
            )
            silent.append(f"{recipe.method} on {recipe.dataset} ({sizes_named})")
            continue
        starts.append(len(rows))
        mark = chr(ord("a") + len(reasons)) if recipe.why else ""
        reasons += [(mark, f"{recipe.why}.")] if recipe.why else []
        rows += [[*_named(recipe), *_beside(stated, size[stated.quantity], mark)] for stated in recipe.stated]
    notes = [
        ("", "Planned by the formulae of `machbench plan`; weights take 4 bytes each, GB are 10^9 bytes."),
        *reasons,
    ]
    if silent:
        notes.append(("", f"No size is stated, or none could be read, of: {'; '.join(silent)}."))
    return Table("sizes_stated", f"Planned beside stated: {title}", heads, rows, notes, frozenset(starts[1:]))


def _named(recipe: Recipe) -> list[Cell]:
    B, R = recipe.settings.get("B"), recipe.settings.get("R")
    return [
        Cell(recipe.dataset, recipe.dataset),
        Cell(recipe.method, recipe.method),
        Cell("none" if recipe.network == LINEAR else recipe.network, recipe.network),
        Cell() if B is None else Cell(f"{B:,}", B),
        Cell() if R is None else Cell(str(R), R),
    ]


def _beside(stated: Stated, planned: float, mark: str) -> list[Cell]:
    words, scale, unit = QUANTITIES[stated.quantity]
    difference = 100 * (planned / stated.value - 1)
    more = "> " * stated.at_least
    return [
        Cell(words, stated.quantity),
        Cell(f"{three_digits(planned * scale)} {unit}", planned),
        Cell(f"{more}{three_digits(stated.value * scale)} {unit}", stated.value),
        Cell(f"{difference:+.1f}".replace("-", "−"), difference, mark=mark),
        Cell(stated.source, stated.source),
    ]
