"""Own values against published ones: verdicts at the edges of the tolerance, missing cells, wrong files."""

from __future__ import annotations

import csv
import io
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.common.errors import InputError
from bench.common.paths import config_root
from bench.common.text_table import Table, to_csv, to_markdown
from bench.config.experiment import load_experiment
from bench.config.paper import KEPT, read_paper
from bench.report.tables import further_tables, write_tables
from bench.report.tables.reproduction import build_reproduction, reproduction_table, verdict
from bench.results.kept_inputs import keep_paper
from bench.results.table import rows_to_frame

Rows = list[dict[str, Any]]
Make = Callable[..., Rows]

PAPER: dict[str, Any] = {
    "title": "A made-up paper",
    "source": "nowhere",
    "metrics": "P@k as usual",
    "tolerance": {"P@1": 1.0, "P@3": 0.5},
    "differences": ["another network"],
    "results": [
        {
            "dataset": "made-up",
            "rows": {"method": "mach", "B": 1024, "R": 16},
            "values": {"P@1": 86.9, "P@3": 60.0},
            "verified": True,
        }
    ],
}


def changed(**changes: Any) -> dict[str, Any]:
    """The paper with keys of its one result changed."""
    return PAPER | {"results": [PAPER["results"][0] | changes]}


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Table]:
    def _table(rows: Rows, content: dict[str, Any] = PAPER) -> Table:
        path = tmp_path / "paper.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return build_reproduction(rows_to_frame(rows), read_paper(path))

    return _table


def read(table: Table) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(table))))


def split(rows: Rows, splits: int) -> Rows:
    """The rows once for each random split, P@1 and P@3 rising by 0.001 from split to split."""
    return [
        row
        | {"run_id": f"{row['run_id']}-{at}", "dataset.split": at, "data_fingerprint": f"{at:08x}"}
        | {name: row[name] + 0.001 * at for name in ("P@1", "P@3") if row.get(name) is not None}
        for at in range(splits)
        for row in rows
    ]


@pytest.mark.parametrize(
    ("ours", "theirs", "word"),
    [
        (70.0, 70.0, "reproduced"),
        (71.0, 70.0, "reproduced"),
        (69.0, 70.0, "reproduced"),
        (100 * 0.513, 50.3, "reproduced"),  # 1.000000000000007 apart in floating point
        (71.001, 70.0, "above"),
        (68.999, 70.0, "below"),
    ],
)
def test_a_difference_up_to_the_tolerance_is_reproduced(ours: float, theirs: float, word: str) -> None:
    assert verdict(ours, theirs, 1.0) == word


def test_mean_spread_and_verdict_over_splits_by_hand(make: Make, table: Callable[..., Table]) -> None:
    rows = split(make(failure=False), 4)
    own = [row for row in rows if row["method"] == "mach" and (row["B"], row["R"]) == (1024, 16)]
    found = read(table(rows))
    assert [row["metric"] for row in found] == ["P@1", "P@3"]
    for row, word in zip(found, ("reproduced", "above"), strict=True):
        values = [100 * r[row["metric"]] for r in own]
        assert float(row["ours"]) == pytest.approx(statistics.mean(values))
        assert float(row["ours_sd"]) == pytest.approx(statistics.stdev(values))
        assert float(row["difference"]) == pytest.approx(statistics.mean(values) - float(row["theirs"]))
        assert (row["n"], row["B"], row["R"], row["verdict"]) == ("4", "1024", "16", word)
    text = to_markdown(table(rows))
    for words in ("nowhere", "P@k as usual", "Otherwise than theirs: another network", "86.75 ± 0.13"):
        assert words in text


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"dataset": "elsewhere"}, "not run"),
        ({"dataset": "elsewhere", "missing": "its files are not here"}, "not run: its files are not here"),
        ({"rows": {"method": "mach", "B": 64}}, "not run with method mach, B 64"),
        ({"rows": {"method": "mach", "R": 16}}, "3 configurations fit; the paper's rows must say which B"),
        ({"rows": {"method": "mach", "B": 16384, "R": 16}}, "no run finished: 1 of 1 runs failed (out of host memory)"),
        ({"verified": False}, "published value not verified"),
    ],
)
def test_a_missing_cell_has_a_reason(
    make: Make, table: Callable[..., Table], change: dict[str, Any], word: str
) -> None:
    found = read(table(make(), changed(**change)))
    assert [row["verdict"] for row in found] == [word] * 2
    assert all(row["difference"] == "" for row in found)
    unverified = "verified" in change
    assert all((row["theirs"] == "") is unverified and (row["ours"] == "") is not unverified for row in found)


def test_several_settings_are_named(make: Make, table: Callable[..., Table]) -> None:
    rows = make(failure=False)
    rows += [row | {"run_id": f"{row['run_id']}-b", "decoder": "mean"} for row in rows if row["method"] == "mach"]
    words = "2 configurations fit; the paper's rows must say which decoder"
    assert {row["verdict"] for row in read(table(rows))} == {words}
    narrowed = changed(rows={"method": "mach", "B": 1024, "R": 16, "decoder": "mean"})
    assert read(table(rows, narrowed))[0]["verdict"] == "reproduced"


def test_an_unmeasured_metric_and_failed_splits(make: Make, table: Callable[..., Table]) -> None:
    rows = split(make(failure=False), 3)
    own = [row for row in rows if row["method"] == "mach" and (row["B"], row["R"]) == (1024, 16)]
    for row in own:
        del row["P@3"]
    del own[2]["P@1"]
    own[2] |= {"status": "timeout", "reason": "killed", "device": None}  # it ended before it knew
    result = table(rows)
    first, second = read(result)
    assert (first["n"], first["verdict"]) == ("2", "reproduced")
    assert (second["n"], second["ours"], second["verdict"]) == ("", "", "not measured")
    assert "1 of 3 runs failed (out of time)" in to_markdown(result)


def test_written_where_the_experiment_names_a_paper(make: Make, tmp_path: Path) -> None:
    df = rows_to_frame(make())
    assert reproduction_table(df, tmp_path) is None
    source = tmp_path / "mine.yaml"
    source.write_text(yaml.safe_dump(PAPER))
    keep_paper(source, tmp_path)
    paths = write_tables(df, tmp_path / "tables", further_tables(df, tmp_path))
    assert {p.name for p in paths} >= {"reproduction.md", "reproduction.csv", "reproduction.tex"}
    keep_paper(None, tmp_path)  # the experiment no longer names one
    assert "reproduction" not in [table.name for table in further_tables(df, tmp_path)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (PAPER | {"tolerence": {}}, "did you mean 'tolerance'"),
        (PAPER | {"source": ""}, "key source: found ''"),
        (PAPER | {"results": []}, "key results: found []"),
        (PAPER | {"results": ["x"]}, "results[0]: found 'x'"),
        (PAPER | {"tolerance": {"P@1": 1.0}}, "no tolerance for 'P@3'"),
        (PAPER | {"tolerance": {"P@1": True, "P@3": 1}}, "tolerance, key P@1: found True"),
        (changed(verified="yes"), "key verified: found 'yes'"),
        (changed(values={"P@1": 101.0}), "key P@1: found 101.0; expected a number from 0 to 100"),
        (changed(values={"P@1": "71"}), "key P@1: found '71'"),
        (changed(values={"P@2": 1.0}), "unknown key 'P@2'"),
        (changed(rows={"bb": 3}), "unknown key 'bb'"),
        (changed(rows=None), "rows: found None"),
        (changed(dataset=3), "key dataset: found 3"),
        (["x"], "found ['x']; expected keys and values"),
    ],
)
def test_a_wrong_file_is_an_error_with_its_key_and_is_not_kept(tmp_path: Path, content: Any, words: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError) as caught:
        keep_paper(path, tmp_path)
    assert words in str(caught.value)
    assert "mine.yaml" in str(caught.value)
    assert not (tmp_path / KEPT).exists()


def test_broken_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / KEPT).write_text("title: [")
    with pytest.raises(InputError, match=r"paper\.yaml: not readable as YAML"):
        reproduction_table(rows_to_frame([]), tmp_path)


@pytest.mark.parametrize("path", sorted((config_root() / "paper").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_paper_is_readable_and_all_its_values_verified(path: Path) -> None:
    assert all(published.verified for published in read_paper(path).results)


NAMES = {"delicious-983": "Delicious", "wikipedia-500k": "LF-Wikipedia-500K / Wikipedia-500K"}
PUBLISHED_AS = {  # by paper file and method: the name in the list, and what its source column holds
    ("mach-pytorch", "mach"): ("MACH (MACH-Pytorch reproduction)", "Odaimoko/MACH-Pytorch"),
    ("mach-official", "mach"): ("MACH", "arXiv 1810.04254"),
    ("mach-official", "one_vs_all"): ("OAA", "arXiv 1810.04254"),
    ("xml-repository-mach", "mach"): ("MACH", "XML Repository"),
    ("xml-repository-peers", "omikuji_parabel"): ("Parabel", "XML Repository"),
    ("xml-repository-peers", "omikuji_bonsai"): ("Bonsai", "XML Repository"),
    ("xml-repository-peers", "nearest_neighbours"): ("kNN", "XML Repository"),
    ("omikuji", "omikuji_parabel"): ("Omikuji (balanced,k=2)", "tomtung/omikuji"),
    ("omikuji", "omikuji_bonsai"): ("Omikuji (unbalanced,k=100,depth3)", "tomtung/omikuji"),
    ("pecos", "pecos_xrlinear"): ("XR-Linear", "amzn/pecos"),
}
METRICS = {"ODP": {"accuracy_best": "P@1", "accuracy": "P@1"}}


@pytest.mark.parametrize("path", sorted((config_root() / "paper").glob("*.yaml")), ids=lambda path: path.stem)
def test_published_values_are_those_on_record(path: Path) -> None:
    """Against the list of published numbers, where it is kept beside the checkout."""
    listed = config_root().parent.parent / "shared" / "published.csv"
    if not listed.is_file():
        pytest.skip("no list of published numbers beside the checkout")
    with listed.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for published in read_paper(path).results:
        name, source = PUBLISHED_AS[(path.stem, published.rows["method"])]
        dataset = NAMES.get(published.dataset, published.dataset)
        known: dict[str, set[float]] = {}
        for row in rows:
            here = row["dataset"].lower() == dataset.lower() and source in row["source"]
            if here and row["method"].removesuffix(" (default)") == name:
                metric = METRICS.get(row["dataset"], {}).get(row["metric"], row["metric"])
                known.setdefault(metric, set()).add(row["value"])
        for metric, value in published.values.items():
            assert value is None or value in {float(found) for found in known[metric]}, (published.dataset, metric)


def test_every_paper_that_an_experiment_names_is_there() -> None:
    named = {}
    for path in (config_root() / "experiment").glob("*.yaml"):
        paper = load_experiment(path.stem).paper
        if paper is not None:
            named[path.stem] = read_paper(paper)
    assert {"reproduce_mach_pytorch", "reproduce_peers", "official_recipes"} <= set(named)
    for experiment, paper in named.items():
        runs = {(run.dataset, run.method) for run in load_experiment(experiment).runs}
        assert runs & {(published.dataset, published.rows["method"]) for published in paper.results}


def test_a_value_that_was_not_read_is_no_blank(make: Make, table: Callable[..., Table]) -> None:
    content = changed(values={"P@1": 86.9, "P@3": None}, missing="the table could not be read")
    result = table(make(failure=False), content)
    first, second = read(result)
    assert first["verdict"] == "reproduced"
    assert (second["theirs"], second["difference"]) == ("", "")
    assert second["verdict"] == "no published value: the table could not be read"
    assert second["ours"] != ""
    with pytest.raises(InputError, match="expected the key missing to say why"):
        table(make(), changed(values={"P@1": None}))


def test_rows_behind_ours_are_named(make: Make, table: Callable[..., Table]) -> None:
    rows = make(seeds=(0, 1), failure=False)
    own = [row["run_id"] for row in rows if row["method"] == "mach" and (row["B"], row["R"]) == (1024, 16)]
    assert {line["run_ids"] for line in read(table(rows))} == {";".join(own)}
    assert {line["run_ids"] for line in read(table(rows, changed(dataset="elsewhere")))} == {""}


def test_readers_need_no_torch() -> None:
    code = "import sys, bench.report.tables.reproduction, bench.report.tables; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
