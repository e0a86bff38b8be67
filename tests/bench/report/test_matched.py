"""Methods at equal budgets: which configuration is chosen, by what, and what is said where there is none."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.common.text_table import Table, to_csv, to_markdown
from bench.data import load_dataset
from bench.report.tables.matched_budget import DEEPEST, SLACK, budget_levels, matched_tables
from bench.results.table import load_results, rows_to_frame

Rows = list[dict[str, Any]]
Make = Callable[..., Rows]


def tables(rows: Rows, folder: Path | None = None) -> dict[str, Table]:
    return {table.name.removeprefix("matched_"): table for table in matched_tables(rows_to_frame(rows), folder)}


def read(table: Table) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(table))))


@given(st.lists(st.floats(1e-3, 1e12), min_size=1, max_size=20), st.integers(0, 19))
def test_budgets_reach_from_room_for_all_to_room_for_one(costs: list[float], at: int) -> None:
    anchor = costs[at % len(costs)]
    levels = budget_levels(costs, anchor)
    limits = [limit for limit, _ in levels]
    assert (anchor, 1.0) in levels
    assert limits == sorted(limits, reverse=True)
    assert max(costs) <= limits[0] * SLACK
    assert limits[0] == anchor or limits[0] / 2 * SLACK < max(costs)  # and no larger than that needs
    assert min(costs) <= limits[-1] * SLACK
    assert levels[-1][1] == 4.0**-DEEPEST or limits[-1] / 4 * SLACK < min(costs) or limits[-1] > anchor
    assert all(limit == anchor * share for limit, share in levels)


def test_budgets_by_hand() -> None:
    assert budget_levels([100.0, 7.0, 300.0], 100.0) == [(400.0, 4.0), (200.0, 2.0), (100.0, 1.0), (25.0, 0.25)]
    assert budget_levels([5.0], 5.0) == [(5.0, 1.0)]
    assert [share for _, share in budget_levels([1.0, 1e9], 1e9)] == [4.0**-power for power in range(DEEPEST + 1)]


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_the_choice_is_the_best_within_the_budget(make: Make, data: st.DataObject) -> None:
    """Against a plain search, over random qualities and a random half of the rows."""
    rows = [row | {"P@1": data.draw(st.floats(0, 1))} if row["status"] == "ok" else row for row in make()]
    rows = [row for row in rows if row["method"] == "full_softmax" or data.draw(st.booleans())]
    for line in read(tables(rows).get("parameters", Table("", "", [], []))):
        within = [
            row
            for row in rows
            if row["method"] == line["method"]
            and row["status"] == "ok"
            and row["params_output"] <= float(line["budget"]) * SLACK
        ]
        if line["P@1"] == "":
            assert not within
        else:
            assert float(line["P@1"]) == max(row["P@1"] for row in within)
            assert float(line["cost"]) <= float(line["budget"]) * SLACK
            assert int(line["candidates"]) == len(within)


def test_budgets_of_the_three_quantities(rows: Rows) -> None:
    found = tables(rows)
    assert list(found) == ["parameters", "bytes", "seconds"]
    full = next(row for row in rows if row["method"] == "full_softmax")
    wanted = {"parameters": full["params_output"], "bytes": 4 * full["params_total"], "seconds": full["fit_s"]}
    for name, cost in wanted.items():
        (line,) = (r for r in read(found[name]) if r["method"] == "full_softmax" and r["share"] == "1.0")
        assert float(line["budget"]) == float(line["cost"]) == cost
        assert line["run_ids"] == full["run_id"]
    assert "label_frequency" not in {line["method"] for line in read(found["parameters"])}
    assert "no comparable output parameters are known: label_frequency" in to_markdown(found["parameters"])
    assert "label_frequency" in {line["method"] for line in read(found["seconds"])}


def test_a_budget_that_changes_no_choice_is_left_out(rows: Rows) -> None:
    lines = read(tables(rows)["parameters"])
    chosen: dict[str, set[tuple[str, str]]] = {}
    for line in lines:
        if line["P@1"]:
            chosen.setdefault(line["share"], set()).add((line["method"], line["run_ids"]))
    shares = list(chosen)
    assert "1.0" in shares
    for larger, smaller in itertools.pairwise(shares):
        assert smaller == "1.0" or chosen[smaller] - chosen[larger]


def test_a_method_with_nothing_within_a_budget_says_so_in_words(make: Make) -> None:
    rows = make(failure=True)
    lines = read(tables(rows)["parameters"])
    none = [line for line in lines if line["method"] == "full_softmax" and float(line["share"]) < 1]
    assert none
    assert {line["chosen_on"] for line in none} == {"none fits, its smallest takes 1.00×"}
    failed = [row | {"method": "other"} for row in rows if row["status"] != "ok"]
    failed[0] |= {"params_output": 1_000_000, "run_id": "failed"}
    words = {line["chosen_on"] for line in read(tables([*rows, *failed])["parameters"]) if line["method"] == "other"}
    assert words >= {"no result: out of host memory"}


def test_best_of_each_budget_is_marked(rows: Rows) -> None:
    table = tables(rows)["parameters"]
    at = {head.name: i for i, head in enumerate(table.heads)}
    for share in {row[at["share"]].value for row in table.rows}:
        block = [row for row in table.rows if row[at["share"]].value == share]
        values = [row[at["P@1"]].value for row in block if row[at["P@1"]].value is not None]
        best = [row[at["P@1"]].value for row in block if row[at["P@1"]].best]
        assert best == [max(values)]


def test_prefixes_of_a_run_are_marked(rows: Rows) -> None:
    table = tables(rows)["parameters"]
    at = {head.name: i for i, head in enumerate(table.heads)}
    derived = {row["run_id"] for row in rows if row.get("derived_from")}
    marked = 0
    for row, runs in zip(table.rows, table.sources, strict=True):
        if row[at["P@1"]].value is not None:
            assert (row[at["R"]].mark == "‡") == (runs[0] in derived)
            marked += runs[0] in derived
    assert marked > 0
    assert "[‡] derived from a trained run" in to_markdown(table)


@pytest.mark.parametrize("change", [{"env_id": "another"}, {"device": "cuda"}])
def test_seconds_of_another_machine_are_left_out(rows: Rows, change: dict[str, str]) -> None:
    moved = [row | change if row["method"] == "mach" else row for row in rows]
    found = tables(moved)
    assert "mach" not in {line["method"] for line in read(found["seconds"])}
    assert "no comparable seconds of training are known: mach" in to_markdown(found["seconds"])
    assert "mach" in {line["method"] for line in read(found["parameters"])}


def test_without_full_softmax_the_most_expensive_is_the_anchor(rows: Rows) -> None:
    rest = [row for row in rows if row["method"] not in ("full_softmax", "label_frequency") and row["status"] == "ok"]
    table = tables(rest)["parameters"]
    lines = read(table)
    assert float(lines[0]["budget"]) == max(row["params_output"] for row in rest)
    assert lines[0]["share"] == "1.0"
    assert "÷ full" not in to_markdown(table)


def test_one_method_is_no_comparison(rows: Rows) -> None:
    assert tables([row for row in rows if row["method"] == "mach"]) == {}
    assert tables([]) == {}


def write_curve(folder: Path, run_id: str, lines: list[tuple[str, int, float | str]]) -> None:
    path = folder / "runs" / run_id / "curve.csv"
    path.parent.mkdir(parents=True)
    rows = [f"{group},{epoch},1.0,0.5,{p1}" for group, epoch, p1 in lines]
    path.write_text("\n".join(["repetitions,epoch,fit_s,train_loss,P@1", *rows]) + "\n")


def test_the_choice_is_on_validation_points_where_curves_have_them(rows: Rows, tmp_path: Path) -> None:
    """B = 1024 has the better P@1 at the end of its curve, whatever the test points say; R = 8 ends a group."""
    for B, values in ((1024, (0.5, 0.9)), (256, (0.8, 0.7))):
        (run,) = (r["run_id"] for r in rows if r.get("B") == B and r["R"] == 16)
        lines: list[tuple[str, int, float | str]] = [("0-7", 7, 0.99), ("0-7", 8, values[0]), ("8-15", 8, values[1])]
        write_curve(tmp_path, run, lines)
    table = tables(rows, tmp_path)["parameters"]
    mach = {line["share"]: line for line in read(table) if line["method"] == "mach"}
    assert (mach["1.0"]["B"], mach["1.0"]["R"], mach["1.0"]["candidates"]) == ("1024", "16", "4")
    assert mach["1.0"]["chosen_on"] == "validation points"
    assert (mach["0.25"]["B"], mach["0.25"]["R"]) == ("256", "8")
    assert "on validation points: of those whose learning curve has it" in to_markdown(table)


def test_a_curve_that_ends_early_or_of_another_decoder_does_not_choose(rows: Rows, tmp_path: Path) -> None:
    (run,) = (r["run_id"] for r in rows if r.get("B") == 1024 and r["R"] == 16)
    write_curve(tmp_path, run, [("0-7", 8, ""), ("8-15", 7, 0.9)])
    assert {line["chosen_on"] for line in read(tables(rows, tmp_path)["parameters"]) if line["method"] == "mach"} == {
        "evaluated points"
    }
    for row in rows:
        if row.get("B") == 256 and row["R"] < 16:
            row["decoder"] = "mean"
    (run,) = (r["run_id"] for r in rows if r.get("B") == 256 and r["R"] == 16)
    write_curve(tmp_path, run, [("0-7", 8, 0.9), ("8-15", 8, 0.9)])
    mach = [line for line in read(tables(rows, tmp_path)["parameters"]) if line["method"] == "mach"]
    assert {line["R"] for line in mach if line["chosen_on"] == "validation points"} == {"16"}


def test_a_broken_curve_does_not_choose(rows: Rows, tmp_path: Path) -> None:
    (run,) = (r["run_id"] for r in rows if r.get("B") == 256 and r["R"] == 16)
    write_curve(tmp_path, run, [("0-15", 8, "many")])
    mach = [line for line in read(tables(rows, tmp_path)["parameters"]) if line["method"] == "mach"]
    assert {line["chosen_on"] for line in mach} == {"evaluated points"}


@pytest.mark.slow
def test_three_numbers_of_the_tables_by_hand_from_the_predictions(ran: Path) -> None:
    """A real run: topk.npz and the data, in plain loops, against the files that a paper would be given."""
    root = ran / "results" / "small"
    frame = load_results(root).set_index("run_id")
    data = load_dataset("tiny")
    truth = [set(data.test.Y[n].indices.tolist()) for n in range(data.test.Y.shape[0])]

    def predicted(run_id: str) -> list[list[int]]:
        row = frame.loc[run_id]
        own = run_id.partition("@")[0]
        with np.load(root / "runs" / own / "topk.npz", allow_pickle=False) as kept:
            at = 0 if row["method"] != "mach" else kept["R"].tolist().index(int(row["R"]))
            return kept["labels"][at].tolist()

    def lines(name: str) -> list[dict[str, str]]:
        return list(csv.DictReader((root / "tables" / f"{name}.csv").open()))

    # 1: P@1 of the full softmax in the table of quality
    (line,) = (line for line in lines("quality") if line["method"] == "full_softmax")
    ranked = predicted(line["run_ids"])
    assert len(ranked) == len(truth) > 100
    by_hand = sum(r[0] in t for r, t in zip(ranked, truth, strict=True)) / len(truth)
    assert float(line["P@1"]) == pytest.approx(by_hand, abs=1e-12)
    assert f"{100 * by_hand:.2f}" in (root / "tables" / "quality.md").read_text()
    assert f"{100 * by_hand:.2f}" in (root / "tables" / "quality.tex").read_text()

    # 2: PSP@3 of the largest MACH there; C = (ln N − 1)(B + 1)^A, p = 1 / (1 + C (N_l + B)^−A)
    line = [line for line in lines("quality") if line["method"] == "mach"][-1]
    A, B = data.propensity
    N = data.train.Y.shape[0]
    C = (np.log(N) - 1) * (B + 1) ** A
    weight = 1 + C * (np.bincount(data.train.Y.indices, minlength=data.train.Y.shape[1]) + B) ** -A
    gained = sum(
        weight[label] for r, t in zip(predicted(line["run_ids"]), truth, strict=True) for label in r[:3] if label in t
    )
    possible = sum(sum(sorted((weight[label] for label in t), reverse=True)[:3]) for t in truth)
    assert float(line["PSP@3"]) == pytest.approx(gained / possible, rel=1e-9)

    # 3: minP@5 of what is chosen at the smallest budget, a prefix of a run perhaps
    line = [line for line in lines("matched_parameters") if line["method"] == "mach"][-1]
    shares = [
        sum(label in t for label in r[:5]) / min(5, len(t)) if t else 0.0
        for r, t in zip(predicted(line["run_ids"]), truth, strict=True)
    ]
    assert float(line["minP@5"]) == pytest.approx(sum(shares) / len(shares), abs=1e-9)
    assert line["chosen_on"] in ("validation points", "only one")
