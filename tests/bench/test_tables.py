from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.errors import InputError
from bench.frame import load_results, rows_to_frame
from bench.render import Cell, Head, Table, escape_latex, to_csv, to_latex, to_markdown
from bench.tables import build_tables, render_table, write_tables

Rows = list[dict[str, Any]]
Make = Callable[..., Rows]


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def one(rows: list[dict[str, str]], **want: Any) -> dict[str, str]:
    (found,) = [row for row in rows if all(row[k] == str(v) for k, v in want.items())]
    return found


def test_six_files_and_equal_bytes_when_written_again(experiment: Path) -> None:
    paths = write_tables(load_results(experiment), experiment / "tables")
    assert sorted(p.name for p in paths) == sorted(
        f"{n}.{e}" for n in ("quality", "cost") for e in ("md", "csv", "tex")
    )
    before = [p.read_bytes() for p in paths]
    write_tables(load_results(experiment), experiment / "tables")
    assert [p.read_bytes() for p in paths] == before


def test_mean_and_spread_over_seeds_by_hand(make: Make) -> None:
    rows = make(seeds=(0, 1, 2))
    quality, _ = build_tables(rows_to_frame(rows))
    p1 = [row["P@1"] for row in rows if row["method"] == "full_softmax"]
    found = one(read(to_csv(quality)), method="full_softmax")
    assert float(found["P@1"]) == pytest.approx(sum(p1) / 3)
    assert float(found["P@1_sd"]) == pytest.approx(statistics.stdev(p1))
    half = 4.302653 * statistics.stdev(p1) / 3**0.5  # t of 2 degrees of freedom at 97.5 %
    assert float(found["P@1_t95"]) == pytest.approx(half, rel=1e-5)
    assert found["n_seeds"] == "3"
    assert "87.40 ± 0.50" in to_markdown(quality)


def test_one_seed_has_no_spread_and_says_so(rows: Rows) -> None:
    quality, _ = build_tables(rows_to_frame(rows))
    assert "±" not in to_markdown(quality)
    assert "spread between seeds is not known" in to_markdown(quality)


def test_hashed_rows_are_the_largest_r_and_the_smallest_that_is_enough(rows: Rows) -> None:
    quality, _ = build_tables(rows_to_frame(rows))
    for B in (256, 1024, 4096):
        p1 = {row["R"]: row["P@1"] for row in rows if row.get("B") == B}
        enough = min(R for R, value in p1.items() if value >= max(p1.values()) - 0.001)
        assert [int(r["R"]) for r in read(to_csv(quality)) if r["B"] == str(B)] == [enough, 16]
        marked = [row for row in quality.rows if row[1].value == B and row[2].mark == "*"]
        assert [row[2].value for row in marked] == [enough]


def test_hashed_is_told_by_b_and_r_and_not_by_name(rows: Rows) -> None:
    renamed = [row | {"method": row["method"].replace("mach", "my_variant")} for row in rows]
    assert len(build_tables(rows_to_frame(renamed))[0].rows) == len(build_tables(rows_to_frame(rows))[0].rows) == 10


def test_best_is_marked_with_its_ties(rows: Rows) -> None:
    full, sampled = (next(r for r in rows if r["method"] == m) for m in ("full_softmax", "sampled_softmax"))
    full["P@1"], sampled["P@1"] = 0.95, 0.95001
    quality, _ = build_tables(rows_to_frame(rows))
    at = [head.name for head in quality.heads].index("P@1")
    assert [row[0].text for row in quality.rows if row[at].best] == ["full_softmax", "sampled_softmax"]
    assert "**95.00**" in to_markdown(quality)
    assert "\\textbf{95.00}" in to_latex(quality)


def test_best_is_per_dataset(rows: Rows) -> None:
    other = [row | {"dataset": "other", "P@1": 0.5} for row in rows[:1]]
    quality, _ = build_tables(rows_to_frame(rows + other))
    assert quality.heads[0].name == "dataset"
    at = [head.name for head in quality.heads].index("P@1")
    assert {row[0].text for row in quality.rows if row[at].best} == {"made-up", "other"}


@pytest.mark.parametrize("format", ["md", "latex"])
def test_a_failure_is_words_and_a_footnote(rows: Rows, format: str) -> None:
    text = render_table(rows_to_frame(rows), format)
    assert text.count("out of host memory") == 6  # each table: two panels and a note
    assert text.count("killed at 2.9 GiB of 3.0 GiB allowed") == 2
    assert ("oom\\_host" if format == "latex" else "oom_host") in text


def test_a_failed_seed_beside_good_ones_is_told(make: Make) -> None:
    rows = make(seeds=(0, 1))
    rows[0] |= {"status": "diverged", "reason": "loss is NaN at step 7", "P@1": None}
    quality, _ = build_tables(rows_to_frame(rows))
    found = one(read(to_csv(quality)), method="full_softmax")
    assert (found["n_seeds"], found["status"]) == ("1", "diverged")
    assert "1 of 2" in to_markdown(quality)
    assert "diverged (diverged): loss is NaN at step 7 (seed 0)" in to_markdown(quality)


def test_no_status_column_when_nothing_failed(make: Make) -> None:
    quality, cost = build_tables(rows_to_frame(make(failure=False)))
    assert "status" not in [head.name for head in quality.heads + cost.heads]


def test_sizes_relative_to_full_softmax_by_hand(rows: Rows) -> None:
    _, cost = build_tables(rows_to_frame(rows))
    found = one(read(to_csv(cost)), B=1024, R=16)
    assert int(found["params_output"]) == 16 * 1024 * 257
    assert float(found["params_output_relative"]) == pytest.approx(16 * 1024 / 46_881)
    whole = 16 * (24_082 * 256 + 256 + 1024 * 257) / (24_082 * 256 + 256 + 46_881 * 257)
    assert float(found["params_total_relative"]) == pytest.approx(whole)
    assert one(read(to_csv(cost)), B=16384, R=16)["params_output"] == str(16 * 16384 * 257)  # known though it failed


def test_not_measured_is_a_dash_in_words_and_empty_in_csv(rows: Rows) -> None:
    _, cost = build_tables(rows_to_frame(rows))
    derived = next(r for r in read(to_csv(cost)) if r["B"] == "256" and r["R"] != "16")
    assert derived["peak_host_bytes"] == derived["load_s"] == ""
    text = to_markdown(cost)
    assert "– = not measured" in text
    assert "GPU memory was not measured" in text
    rows[0]["peak_gpu_allocated_bytes"] = 2**20
    _, cost = build_tables(rows_to_frame(rows))
    assert "peak GPU allocated (MiB)" in to_markdown(cost)
    assert "GPU memory was not measured" not in to_markdown(cost)


def test_without_full_softmax_there_is_nothing_to_refer_to(rows: Rows) -> None:
    _, cost = build_tables(rows_to_frame([r for r in rows if r["method"] != "full_softmax"]))
    assert all(row["params_output_relative"] == "" for row in read(to_csv(cost)))
    assert "No row of full_softmax" in to_markdown(cost)


def test_swept_settings_get_a_column_and_their_own_rows(rows: Rows) -> None:
    more = [rows[0] | {"train.lr": lr, "P@1": lr} for lr in (0.1, 0.2)]
    quality, _ = build_tables(rows_to_frame(more))
    assert [(r["train.lr"], r["P@1"]) for r in read(to_csv(quality))] == [("0.1", "0.1"), ("0.2", "0.2")]


def test_same_seed_trained_and_derived_counts_once(rows: Rows) -> None:
    trained = next(r for r in rows if r.get("B") == 256 and r["R"] == 16)
    twice = trained | {
        "run_id": "longer@R16",
        "derived_from": "longer",
        "peak_host_bytes": None,
        "methods.mach.R": 32,
    }
    _, cost = build_tables(rows_to_frame([*rows, twice]))
    found = one(read(to_csv(cost)), B=256, R=16)
    assert (found["n_seeds"], found["peak_host_bytes"]) == ("1", str(trained["peak_host_bytes"]))


def test_csv_of_render_table_is_one_table(rows: Rows) -> None:
    text = render_table(rows_to_frame(rows), "csv")
    assert len({line.count(",") for line in text.splitlines()}) == 1
    assert {"P@1", "fit_s"} <= set(read(text)[0])


def test_unknown_format_suggests_one(rows: Rows) -> None:
    with pytest.raises(InputError, match="did you mean 'latex'"):
        render_table(rows_to_frame(rows), "latx")


def test_empty_results_give_empty_tables() -> None:
    for format in ("md", "csv", "latex"):
        assert render_table(rows_to_frame([]), format)


def test_special_characters_are_escaped() -> None:
    hostile = "a_b & 100% #1 $x$ {y} ~ ^ \\ <b> | `c`\nline"
    table = Table("t", hostile, [Head("m", "m", number=False)], [[Cell(hostile, hostile)]], [("", hostile)])
    latex = to_latex(table)
    wanted = r"a\_b \& 100\% \#1 \$x\$ \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{}"
    assert latex.count(wanted) == 3
    assert escape_latex("±") == "$\\pm$"
    row = to_markdown(table).splitlines()[4]
    assert row.count("|") - row.count("\\|") == 2
    assert "\\<b>" in row
    assert read(to_csv(table))[0]["m"] == hostile
