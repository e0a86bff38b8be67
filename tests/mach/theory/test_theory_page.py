"""docs/theory.md and its figure: every number in them is computed again."""

from __future__ import annotations

import csv
import doctest
import importlib.util
import itertools
import re
from pathlib import Path
from types import ModuleType

import matplotlib.text
import numpy as np
import pytest

from mach.hashing.families import hash_labels
from mach.theory.collisions import (
    bucket_loads,
    expected_unresolved_pairs,
    parameters,
    repetitions_needed,
    unresolved_pairs,
)
from mach.theory.cost import cost, cost_ratios

DOCS = Path(__file__).resolve().parents[3] / "docs"
PAGE = (DOCS / "theory.md").read_text()


def table(heading: str) -> list[list[str]]:
    """The cells of the rows of the table whose header line starts with ``heading``."""
    lines = PAGE.splitlines()
    (start,) = [i for i, line in enumerate(lines) if line.startswith(heading)]
    body = itertools.takewhile(lambda line: line.startswith("|"), lines[start + 2 :])
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in body]


def number(text: str) -> int:
    return int(text.replace(",", ""))


def test_examples_give_what_the_page_shows() -> None:
    examples = doctest.DocTestParser().get_doctest(PAGE, {}, "theory.md", None, 0)
    assert len(examples.examples) == 7
    assert doctest.DocTestRunner().run(examples).failed == 0


def test_pairs_and_repetitions_needed() -> None:
    rows = table("| dataset | K | B | R used")
    assert len(rows) == 7
    for _, K, B, _, needed, *pairs in rows:
        assert needed == f"{repetitions_needed(number(K), number(B), 0.01):.1f}"
        assert pairs == [f"{expected_unresolved_pairs(number(K), number(B), R):.1e}" for R in (1, 2, 3, 4)]


def test_loads_and_pairs_of_the_families() -> None:
    K, B = 30_938, 2_000
    rows = table("| family | load sd")
    assert [row[0] for row in rows] == ["universal", "murmur3", "balanced"]
    assert f"{expected_unresolved_pairs(K, B, 2):.1f} are expected" in PAGE
    for family, *shown in rows:
        loads = bucket_loads(hash_labels(K, B, 32, family=family), B).std(axis=1)
        pairs = [unresolved_pairs(hash_labels(K, B, 2, family=family, seed=seed))[1] for seed in range(200)]
        assert shown[:3] == [f"{value:.2f}" for value in np.quantile(loads, [0, 0.5, 1])]
        assert shown[3:] == [f"{value:g}" for value in np.quantile(pairs, [0, 0.5, 1])]


def test_costs_of_the_recipes() -> None:
    labels = {dataset: number(K) for dataset, K, *_ in table("| dataset | K | B | R used")}
    rows = table("| dataset | network")
    assert len(rows) == 5
    for dataset, network, R, *shown in rows:
        n_features, *hidden, B = map(number, network.split("-"))
        setting = (n_features, hidden, B, int(R), labels[dataset])
        found, ratios = cost(*setting, batch=1, nnz=1), cost_ratios(*setting, batch=1, nnz=1)
        values = [found["params_per_repetition"], found["params_total"]]
        values += [ratios["params_total"], ratios["params_output"]]
        assert shown == [f"{value:.3g}" for value in values]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("codes", DOCS / "figures" / "codes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_figures_numbers_are_the_theorys() -> None:
    """Outputs, cells, and pairs of the labels shown, from the codes in the csv; 3^R different codes are all apart."""
    with (DOCS / "figures" / "codes.csv").open(newline="") as f:
        rows = list(csv.DictReader(f))
    costs = {int(row["R"]): row for row in rows if row["kind"] == "cost"}
    assert list(costs) == [1, 2, 3, 4]
    for R, row in costs.items():
        assert int(row["outputs"]) == parameters(1, 1, 3, R, 81)["params_output"] // 2 == 3 * R
        every_code = np.array(list(itertools.product(range(3), repeat=R))).T
        assert unresolved_pairs(every_code)[-1] == 0
        assert int(row["cells"]) == every_code.shape[1]
    for R in (2, 3, 4):
        codes = [row["code"].split("-") for row in rows if row["kind"] == "code" and row["R"] == str(R)]
        lookup = np.array(codes, dtype=int).T - 1
        assert lookup.shape == (R, 3)
        pairs = [int(costs[r]["pairs_of_shown_labels_in_one_cell"]) for r in range(1, R + 1)]
        assert unresolved_pairs(lookup).tolist() == pairs


def test_the_figure_shows_its_numbers(script: ModuleType) -> None:
    """What is drawn now has the csv beside the script, a cell for each code, and says outputs and cells in words."""
    picture = script.draw()
    assert picture.csv() == (DOCS / "figures" / "codes.csv").read_text()
    assert len({script.cell(code) for code in itertools.product((1, 2, 3), repeat=4)}) == 81
    words = [text.get_text() for text in picture.figure.findobj(matplotlib.text.Text)]
    for expected in ("R = 2: 9 cells", "R = 3: 27 cells", "R = 4: 81 cells", "2 × 3 = 6 outputs"):
        assert expected in words
    for kind in ("png", "pdf"):
        assert re.match(rb"\x89PNG|%PDF", (DOCS / "figures" / f"codes.{kind}").read_bytes())
