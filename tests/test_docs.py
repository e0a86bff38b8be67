"""What the documents ask of a reader is done here, word for word."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from bench.check import check_method
from bench.check.outcome import PASSED
from bench.common.text_table import to_csv
from bench.config.experiment import load_experiment
from bench.report.columns_page import page
from bench.report.tables.reproduction import reproduction_table
from bench.results.table import load_results

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md")), ROOT / "results" / "README.md"]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / "docs" / document).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


@pytest.mark.slow
@pytest.mark.soak
def test_the_method_of_the_documentation_runs(tmp_path: Path) -> None:
    layer, _, _ = blocks("add_a_method.md", "python")
    settings, experiment = blocks("add_a_method.md", "yaml")
    commands = "".join(blocks("add_a_method.md", "bash")).splitlines()
    assert [command.split()[:2] for command in commands] == [["machbench", "check"], ["machbench", "run"]]
    for name, text in {"narrow.py": layer, "narrow.yaml": settings, "mine.yaml": experiment}.items():
        (tmp_path / name).write_text(text)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for command in commands:
        arguments = [sys.executable, "-m", "bench", *command.split()[1:]]
        done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        if "check" in command:
            assert "narrow.yaml: 15 passed, 6 not applicable" in done.stdout
    table = load_results(tmp_path / "results" / "mine")
    assert table["status"].tolist() == ["ok"] * 3
    ranks = table[table["method"] == "narrow"]
    assert ranks["methods.narrow.rank"].tolist() == [4, 16]
    assert ranks["params_output"].tolist() == [rank * 32 + rank * 500 + 500 for rank in (4, 16)]


def test_the_documented_method_leaves_pairs_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, excluding, _ = blocks("add_a_method.md", "python")
    settings, _ = blocks("add_a_method.md", "yaml")
    (tmp_path / "excluding.py").write_text(layer + excluding)
    (tmp_path / "excluding.yaml").write_text(settings.replace("narrow.Narrow", "excluding.Excluding"))
    monkeypatch.syspath_prepend(str(tmp_path))
    outcomes = check_method(str(tmp_path / "excluding.yaml"))
    outcome = next(outcome for outcome in outcomes if outcome.check == "excluded")
    assert outcome.status == PASSED, outcome.detail


def test_the_tuning_of_the_documentation_unfolds(tmp_path: Path) -> None:
    (text,) = blocks("tuning.md", "yaml")
    (commands,) = blocks("tuning.md", "bash")
    path = tmp_path / Path(commands.split()[2]).name
    path.write_text(text)
    experiment = load_experiment(str(path))
    assert f"results/{experiment.name}/chosen.yaml" in commands
    trials = [run.method for run in experiment.runs]
    assert [trials.count(name) for name in experiment.config["methods"]] == [1, 6, 6]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_between_documents_lead_somewhere(page: Path) -> None:
    """Every relative link resolves, and every anchor is a heading of the page that it leads to."""
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text()):
        found = (page.parent / target).resolve() if target else page
        assert found.exists(), f"links to {target}"
        assert not anchor or anchor in anchors(found.read_text()), f"links to {target}#{anchor}"


def anchors(text: str) -> set[str]:
    """The anchors of the headings of a Markdown page, as GitHub makes them."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=name_of)
def test_paths_and_modules_in_documents_exist(page: Path) -> None:
    text = page.read_text()
    paths = re.findall(r"(?<![\w./-])((?:bench|mach|baselines|configs|docs|notebooks|tests)/[\w./*-]*)", text)
    missing = [path for path in paths if not list(ROOT.glob(path.rstrip("./")))]
    names = re.findall(r"(?<![\w./-])((?:bench|mach|baselines)(?:\.\w+)+)", text)
    assert not missing + [name for name in names if not is_defined(name)]


def is_defined(dotted: str) -> bool:
    """Whether a dotted name is a module, or a name that occurs in the module before it."""
    names = dotted.split(".")
    for n in range(len(names), 0, -1):
        stem = ROOT.joinpath(*names[:n])
        if file := next((f for f in (stem.with_suffix(".py"), stem / "__init__.py") if f.exists()), None):
            return n == len(names) or bool(re.search(rf"\b{names[n]}\b", file.read_text()))
    return False


def test_a_name_that_is_not_there_is_noticed() -> None:
    assert is_defined("bench.run.train.batches")
    assert is_defined("mach.layer.MachOutput")
    assert not is_defined("bench.execute")
    assert not is_defined("bench.run.train.worlds")


def test_the_index_lists_every_page_once() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    listed = sorted(re.findall(r"\]\((\w+\.md)\)", index))
    assert listed == sorted(page.name for page in ROOT.glob("docs/*.md") if page.name != "README.md")
    assert "docs/README.md" in README


PROSE = [
    *PAGES,
    *sorted(ROOT.glob("notebooks/*.py")),
    *sorted(ROOT.glob("docs/figures/*.py")),
    *sorted(ROOT.glob("configs/**/*.yaml")),
]


@pytest.mark.parametrize("page", PROSE, ids=name_of)
def test_documents_use_the_words_of_the_field(page: Path) -> None:
    private = (
        r"told|tells?|worlds?(?! size)|followers?|meetings?|orders|asked|at hand|want of|of a run in several processes"
    )
    assert not re.findall(rf"(?<![\w`/])(?:{private})\b(?!`)", page.read_text(), flags=re.IGNORECASE)


def test_the_readmes_table_is_the_reference_result() -> None:
    table = load_results(ROOT / "results" / "reference" / "quickstart")
    own = table[table["derived_from"].isna()]
    shown = re.findall(r"^\| (\w+) \| ([\d–]+) \| [\d–]+ \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", README, re.MULTILINE)
    assert len(shown) == len(own)
    for (method, B, *quality), row in zip(shown, own.to_dict("records"), strict=True):
        assert method == row["method"]
        assert ("–" if pd.isna(row["B"]) else str(int(row["B"]))) == B
        assert quality == [f"{100 * row[name]:.2f}" for name in ("P@1", "P@3", "P@5")]


def test_the_readmes_table_of_a_million_labels_is_the_reference_result() -> None:
    table = load_results(ROOT / "results" / "reference" / "scaling_in_k")
    own = table[table["derived_from"].isna() & (table["n_labels"] == 1_000_000)]
    lines = README[README.index("| at 1,000,000 labels |") :].splitlines()[2:]
    shown = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[: len(own)]]
    assert not lines[len(own)].startswith("|")
    for cells, row in zip(shown, own.to_dict("records"), strict=True):
        B = "" if pd.isna(row["B"]) else f", B = {int(row['B']):,}"
        numbers = [f"{row['params_output'] / 1e6:.2f} M", f"{row['peak_host_bytes'] / 1e6:,.0f}", f"{row['fit_s']:.1f}"]
        assert cells == [row["method"] + B, *numbers, f"{1e3 * row['predict_s'] / row['n_test']:.2f}"]


def measured(experiment: str, dataset: str) -> list[list[str]]:
    """Cells of a table of reference results: a row for each setting, best P@1 first; ± is the deviation of seeds."""
    table = load_results(ROOT / "results" / "reference" / experiment)
    own = table[table["derived_from"].isna() & (table["dataset"] == dataset) & (table["status"] == "ok")]
    found = []
    for (method, B), rows in own.astype({"B": float}).groupby(["method", "B"], dropna=False):
        quality = [100 * rows[name].astype(float) for name in ("P@1", "P@3", "P@5", "PSP@5")]
        scatter = [f"{q.mean():.2f}" + (f" ± {q.std():.2f}" if len(q) > 1 else "") for q in quality]
        sizes = [rows[name].iloc[0] for name in ("params_output", "params_total")]
        cells = [method + ("" if pd.isna(B) else f", B = {int(B):,}"), *scatter]
        cells += ["–" if pd.isna(size) or size == 0 else f"{size / 1e6:,.2f} M" for size in sizes]
        cells += [f"{rows['peak_host_bytes'].mean() / 1e6:,.0f}", f"{rows['fit_s'].mean():,.1f}"]
        cells += [f"{1e3 * (rows['predict_s'] / rows['n_test']).mean():.2f}"]
        found.append((quality[0].mean(), cells))
    return [cells for _, cells in sorted(found, reverse=True)]


@pytest.mark.parametrize(
    ("experiment", "dataset"), [("sweep_b_r", "icd10cm"), ("sweep_b_r", "moby"), ("gene_pubmed", "gene-pubmed")]
)
def test_the_tables_of_results_are_the_reference_results(experiment: str, dataset: str) -> None:
    text = (ROOT / "docs" / "results.md").read_text()
    lines = text[text.index(f"| on {dataset} |") :].splitlines()[2:]
    shown = [[cell.strip().strip("*") for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    expected = measured(experiment, dataset)
    assert shown[: len(expected)] == expected
    assert not lines[len(expected)].startswith("|")


@pytest.mark.parametrize(("experiment", "labels"), [("amazon670k_gpu", "670,091"), ("amazon3m_gpu", "2,812,281")])
def test_the_tables_of_a_gpu_are_the_reference_results(experiment: str, labels: str) -> None:
    text = (ROOT / "docs" / "results.md").read_text()
    lines = text[text.index(f"| {labels} labels, ") :].splitlines()[2:]
    table = load_results(ROOT / "results" / "reference" / experiment)
    own = table[table["derived_from"].isna() & (table["method"] != "label_frequency")].sort_values("fit_s")
    assert not lines[len(own)].startswith("|")
    for line, row in zip(lines, own.to_dict("records"), strict=False):
        sizes = [f"{row[name] / 1e6:,.2f} M" for name in ("params_output", "params_total")]
        memory = [f"{row[f'peak_gpu_{kind}_bytes'] / 1e9:.2f}" for kind in ("allocated", "process")]
        times = [
            f"{row['fit_s']:.1f}",
            f"{1e3 * row['step_p50_s']:.1f}",
            f"{1e3 * row['predict_s'] / row['n_test']:.3f}",
        ]
        name = row["method"] + ("" if pd.isna(row["B"]) else f", B = {int(row['B']):,}")
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        assert cells == [name, f"{100 * row['P@1']:.2f}", *sizes, *memory, *times]


def test_the_reproductions_table_is_the_reference_result() -> None:
    text = (ROOT / "docs" / "reproduction.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "± " in line]
    shown = [row for row in rows if len(row) == 8]
    folder = ROOT / "results" / "reference" / "reproduce_mach_pytorch"
    found = pd.read_csv(folder / "tables" / "reproduction.csv")
    assert len(shown) == len(found) == 6
    for row, own in zip(shown, found.to_dict("records"), strict=True):
        ours = f"{own['ours']:.2f} ± {own['ours_sd']:.2f}"
        difference = f"{own['difference']:+.2f}".replace("-", "−")
        values = [own["metric"], ours, str(own["n"]), f"{own['theirs']:.2f}", difference, own["verdict"]]
        assert row == [own["dataset"], str(own["B"]), *values]
    # and the table is what the reader makes of the reference rows
    table = reproduction_table(load_results(folder), folder)
    assert table is not None
    assert to_csv(table) == (folder / "tables" / "reproduction.csv").read_text()


def test_the_columns_are_those_of_the_code() -> None:
    assert (ROOT / "docs" / "columns.md").read_text() == page(), "python -m bench.report.columns_page > docs/columns.md"
