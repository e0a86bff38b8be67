from __future__ import annotations

import csv
import io
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.common.errors import InputError
from bench.common.text_table import FORMATS, Cell, Head, Table, escape_latex, to_csv, to_latex, to_markdown
from bench.report.tables import build_tables, further_tables, render_table, write_tables
from bench.report.tables.by_dataset import comparison_table
from bench.report.tables.cost import PEAKS
from bench.results.table import load_results, rows_to_frame, write_table

ROOT = Path(__file__).resolve().parents[3]
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


def test_a_hashed_method_is_recognised_by_b_and_r_and_not_by_name(rows: Rows) -> None:
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
    assert text.count("out of host memory") == 7  # two panels and three, and a note of each table
    assert text.count("killed at 2.9 GiB of 3.0 GiB allowed") == 2
    assert ("oom\\_host" if format == "latex" else "oom_host") in text


def test_a_failed_seed_beside_good_ones_is_reported(make: Make) -> None:
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


@pytest.mark.parametrize(
    ("name", "markdown", "latex"),
    [
        ("cost $5 to $9", r"cost \$5 to \$9", r"cost \$5 to \$9"),
        ("[z] *", r"\[z\] \*", "{[}z{]} {*}"),  # in LaTeX an argument or a star of the end of the row before
        ("~~old~~ &lt; a&b", r"\~\~old\~\~ \&lt; a&b", None),
        ("_x_ a_b", r"\_x\_ a_b", r"\_x\_ a\_b"),
    ],
)
def test_names_of_methods_are_text(name: str, markdown: str, latex: str | None) -> None:
    table = Table("t", "T", [Head("m", "m", number=False)], [[Cell(name, name)]])
    assert f"| {markdown} |" in to_markdown(table)
    if latex:
        assert f"\n{latex} \\\\\n" in to_latex(table)


def several(make: Make) -> Rows:
    """Three seeds on one dataset, one on another, where a method ran out of memory and one was not run."""
    rows = make(seeds=(0, 1, 2))
    other = [row | {"dataset": "elsewhere", "run_id": f"e-{row['run_id']}"} for row in make()]
    other = [row for row in other if row["method"] != "label_frequency"]
    for row in other:
        if row["method"] == "sampled_softmax":
            row |= {"status": "oom_host", "reason": "killed & gone"}
            for name in [key for key in row if "@" in key]:
                del row[name]
    return rows + other


def test_every_number_is_computed_from_the_rows_that_its_line_names(make: Make, tmp_path: Path) -> None:
    """All tables against the rows of table.csv that `run_ids` names, by plain means."""
    write_table(rows_to_frame(several(make)), tmp_path / "table.csv")
    df = load_results(tmp_path)
    with (tmp_path / "table.csv").open() as file:
        known = {row["run_id"]: row for row in csv.DictReader(file)}
    checked = 0
    for table in (*build_tables(df), *further_tables(df, tmp_path)):
        for line in read(to_csv(table)):
            runs = [known[name] for name in line["run_ids"].split(";") if name]
            for name, shown in line.items():
                own, metric = runs, name
                for run in runs:  # a column of the comparison is about one dataset
                    if name.startswith(f"{run['dataset']} "):
                        own = [r for r in runs if r["dataset"] == run["dataset"]]
                        metric = name.removeprefix(f"{run['dataset']} ")
                if not (
                    shown and metric in df.columns and ("@" in metric or metric.endswith(("_s", "_bytes", "_total")))
                ):
                    continue
                values = [float(r[metric]) for r in own if r[metric] and (r["status"] == "ok" or "@" not in metric)]
                wanted = max(values) if metric in PEAKS else statistics.fmean(values)
                assert shown == "out of host memory" or float(shown) == pytest.approx(wanted, rel=1e-6), metric
                checked += 1
    assert checked > 300


def test_bytes_of_a_model_are_counted_where_no_file_was_measured(rows: Rows) -> None:
    peer = rows[2] | {"method": "peer", "run_id": "peer", "params_total": 5_000, "model_bytes": 77_777}
    _, cost = build_tables(rows_to_frame([*rows, peer]))
    found = read(to_csv(cost))
    hashed = one(found, B=1024, R=16)
    assert int(hashed["model_bytes"]) == 4 * int(hashed["params_total"]) + int(hashed["index_bytes"])
    assert one(found, method="peer")["model_bytes"] == "77777"
    at = [head.name for head in cost.heads].index("model_bytes")
    marks = {row[0].text: row[at].mark for row in cost.rows}
    assert (marks["mach"], marks["peer"], marks["label_frequency"]) == ("†", "", "")
    assert float(hashed["model_bytes_relative"]) == pytest.approx(
        int(hashed["model_bytes"]) / int(one(found, method="full_softmax")["model_bytes"])
    )


def test_time_and_memory_are_divided_within_one_environment_only(rows: Rows) -> None:
    _, cost = build_tables(rows_to_frame(rows))
    found = one(read(to_csv(cost)), method="sampled_softmax")
    assert float(found["fit_s_relative"]) == pytest.approx(38 / 61)
    assert float(found["predict_s_relative"]) == pytest.approx(38 / 61)
    assert float(found["peak_host_bytes_relative"]) == 1.0
    for change in ({"env_id": "another"}, {"device": "cuda"}):
        moved = [row | change if row["method"] == "sampled_softmax" else row for row in rows]
        _, cost = build_tables(rows_to_frame(moved))
        found = one(read(to_csv(cost)), method="sampled_softmax")
        assert found["fit_s_relative"] == found["peak_host_bytes_relative"] == ""
        assert found["params_output_relative"] != ""
        assert "another environment or on another device than the reference: sampled_softmax" in to_markdown(cost)


def test_methods_by_datasets(make: Make) -> None:
    rows = several(make)
    assert comparison_table(rows_to_frame([row for row in rows if row["dataset"] == "made-up"])) is None
    table = comparison_table(rows_to_frame(rows))
    assert table is not None
    found = read(to_csv(table))
    assert [row["method"] for row in found] == ["full_softmax", "sampled_softmax", "label_frequency", "mach"]
    assert one(found, method="label_frequency")["elsewhere P@1"] == "not run"
    assert one(found, method="sampled_softmax")["elsewhere PSP@3"] == "out of host memory"
    values = [row["P@1"] for row in rows if row["dataset"] == "made-up" and row["method"] == "full_softmax"]
    assert float(one(found, method="full_softmax")["made-up P@1"]) == pytest.approx(statistics.fmean(values))
    text = to_markdown(table)
    assert text.count("out of host memory [a]") == 8  # every column about that dataset
    assert "[a] out of host memory (oom_host): killed & gone (seed 0)." in text
    assert "mach on elsewhere: B = 4096" in text
    at = [head.name for head in table.heads].index("elsewhere P@1")
    best = [row[0].text for row in table.rows if row[at].best]
    assert best == ["mach"]
    assert " ± " in text
    assert [name for name, _ in table.panels()] == ["P@k", "PSP@k", "minP@k"]


def all_tables(make: Make, folder: Path) -> list[Table]:
    df = rows_to_frame(several(make))
    return [*build_tables(df), *further_tables(df, folder)]


def test_latex_is_well_formed(make: Make, tmp_path: Path) -> None:
    """Balanced groups and environments, as many cells per line as columns, nothing left to escape."""
    tables = all_tables(make, tmp_path)
    assert {"quality", "cost", "comparison", "matched_parameters"} <= {table.name for table in tables}
    for table in tables:
        check_latex(to_latex(table), len(table.panels()))


def check_latex(text: str, tabulars: int) -> None:
    text = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    bare = text.replace("\\\\", " ").replace("{!}{%\n", "{!}{\n")  # line breaks; the one comment that eats a newline
    escaped = re.sub(r"\\[&%$#_{}]", "", bare)
    assert escaped.count("{") == escaped.count("}")
    assert escaped.count("$") % 2 == 0
    assert "%" not in escaped
    assert "#" not in escaped
    open_environments: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            open_environments.append(name)
        else:
            assert open_environments.pop() == name
    assert not open_environments
    math = re.sub(r"\$[^$]*\$", "", escaped)
    assert not re.search(r"[\^_<>|~]", re.sub(r"\\label\{[^}]*\}", "", math))
    found = re.findall(r"\\begin\{tabular\}\{([lr]+)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL)
    assert len(found) == tabulars
    for columns, body in found:
        lines = [line for line in body.splitlines() if not re.fullmatch(r"\\(top|mid|bottom)rule", line)]
        assert len(lines) > 1
        for line in lines:
            assert line.endswith(" \\\\")
            assert len(re.findall(r"(?<!\\)&", line)) == len(columns) - 1


def test_the_check_of_latex_sees_what_is_wrong(rows: Rows) -> None:
    text = to_latex(build_tables(rows_to_frame(rows))[0])
    check_latex(text, 2)
    for old, new in (
        (" & 1 &", " & 1 & &"),
        ("label\\_f", "label_f"),
        ("5\\_000", "5\\_000 %"),
        ("\\end{tabular}", ""),
    ):
        assert old in text
        with pytest.raises(AssertionError):
            check_latex(text.replace(old, new, 1), 2)


def test_markdown_is_a_table_to_github(make: Make, tmp_path: Path) -> None:
    """Every grid: equally many cells per line, and a rule of at least one hyphen per column."""
    for table in all_tables(make, tmp_path):
        grids = re.findall(r"(?:^\|.*\|$\n?)+", to_markdown(table), re.MULTILINE)
        assert len(grids) == len(table.panels())
        for grid in grids:
            lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in grid.splitlines()]
            assert len({len(line) for line in lines}) == 1
            assert all(re.fullmatch(r" -+:? ", cell) for cell in lines[1])


def test_columns_that_no_table_knows_break_nothing(rows: Rows) -> None:
    more = [row | {"notes.anything": 3, "something_new": 1.5} for row in rows]
    for format in FORMATS:
        assert render_table(rows_to_frame(more), format)


def test_tables_import_no_torch() -> None:
    modules = "bench.report.tables, bench.report.tables.reproduction, bench.report.best_configuration"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_reference_tables_compile_and_fit_a_page(tmp_path: Path) -> None:
    tables = sorted((ROOT / "results" / "reference").glob("*/tables/*.tex"))
    assert len(tables) > 30
    start = r"\documentclass{article}\usepackage[margin=2cm]{geometry}\usepackage{booktabs,graphicx}\begin{document}"
    pages = [rf"\clearpage\input{{{path}}}" for path in tables]
    (tmp_path / "all.tex").write_text("\n".join([start, *pages, r"\end{document}"]))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
