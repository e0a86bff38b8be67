"""What the documents tell a reader to do is done here, word for word."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from bench.frame import load_results

ROOT = Path(__file__).resolve().parents[1]
README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / "docs" / document).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


@pytest.mark.slow
def test_the_method_of_the_documentation_runs(tmp_path: Path) -> None:
    layer, _ = blocks("add_a_method.md", "python")
    settings, experiment = blocks("add_a_method.md", "yaml")
    (command,) = blocks("add_a_method.md", "bash")
    for name, text in {"narrow.py": layer, "narrow.yaml": settings, "mine.yaml": experiment}.items():
        (tmp_path / name).write_text(text)
    words = command.split()
    assert words[0] == "machbench"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-m", "bench", *words[1:]]
    done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    table = load_results(tmp_path / "results" / "mine")
    assert table["status"].tolist() == ["ok"] * 3
    ranks = table[table["method"] == "narrow"]
    assert ranks["methods.narrow.rank"].tolist() == [4, 16]
    assert ranks["params_output"].tolist() == [rank * 32 + rank * 500 + 500 for rank in (4, 16)]


def test_links_between_documents_lead_somewhere() -> None:
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "results" / "README.md"]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_readmes_table_is_the_reference_result() -> None:
    table = load_results(ROOT / "results" / "reference" / "quickstart")
    own = table[table["derived_from"].isna()]
    shown = re.findall(r"^\| (\w+) \| ([\d–]+) \| [\d–]+ \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", README, re.MULTILINE)
    assert len(shown) == len(own)
    for (method, B, *quality), row in zip(shown, own.to_dict("records"), strict=True):
        assert method == row["method"]
        assert ("–" if pd.isna(row["B"]) else str(int(row["B"]))) == B
        assert quality == [f"{100 * row[name]:.2f}" for name in ("P@1", "P@3", "P@5")]
