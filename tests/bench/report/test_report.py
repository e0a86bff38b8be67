from __future__ import annotations

import html
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bench.common.errors import InputError
from bench.report.groups import grouped
from bench.report.html import write_report
from bench.report.verdict import verdict
from bench.results.kept_inputs import DESCRIPTION, keep_description
from bench.results.table import rows_to_frame

Rows = list[dict[str, Any]]
Write = Callable[[Path, Rows], Path]
VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Collects ids, addresses and text; fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src", "xlink:href", "srcset", "action", "data"):
                self.addresses.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data


def said(rows: Rows) -> str:
    return " ".join(verdict(grouped(rows_to_frame(rows))))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, make: Callable[..., Rows], write: Write) -> Path:
    return write_report(write(tmp_path_factory.mktemp("report"), make()))


def test_page_is_complete_and_loads_nothing_from_the_network(written: Path) -> None:
    text = written.read_text()
    page = Page(text)
    assert written.name == "report.html"
    assert len(page.ids) == len(set(page.ids)), "ids are unique although several pictures share the page"
    assert page.tags.count("svg") == 9
    for address in page.addresses:
        assert address.startswith("#"), address
        assert address[1:] in page.ids, address
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttp", text)
    for name in re.findall(r"url\(#([^)]+)\)", text):
        assert name in page.ids


def test_sections_numbers_failures_and_environment(written: Path) -> None:
    text = " ".join(Page(written.read_text()).text.split())
    for words in (
        "The highest P@1 is 88.00 %, by mach (B = 4,096",
        "out of host memory (oom_host)",
        "killed at 2.9 GiB of 3.0 GiB allowed",
        "7 runs, 1 without a result",
        "48,236",
        "0f1e2d3c",
        "made-up CPU, 2 cores",
        "packages.numpy",
        "machbench report synthetic",
        "figures/p1_against_bytes.csv; drawn again by machbench figure synthetic --only p1_against_bytes.",
        "Cost on made-up",
    ):
        assert words in text


def test_written_twice_equal_bytes(written: Path) -> None:
    first = written.read_bytes()
    assert write_report(written.parent).read_bytes() == first


def test_hostile_names_stay_text(tmp_path: Path, rows: Rows, write: Write) -> None:
    evil = "<script>alert('x')</script>&\"_"
    hostile = [row | {"method": evil} if row["method"] == "sampled_softmax" else row for row in rows]
    hostile[-1] |= {"reason": evil, "dataset": evil}
    experiment = write(tmp_path, [row for row in hostile if row["method"] != evil])
    write_frame = rows_to_frame(hostile)
    write_frame.to_csv(experiment / "table.csv", index=False, lineterminator="\n")
    text = write_report(experiment).read_text()
    page = Page(text)
    assert page.tags.count("script") == 1
    assert evil in page.text
    assert html.escape("<script>alert") in text


def test_win_and_cost_by_hand(rows: Rows) -> None:
    text = said(rows)
    assert "points above full_softmax (87.20 %)" in text
    least = min((r["params_output"], r["R"], r["B"]) for r in rows if r.get("B") and r.get("P@1", 0) >= 0.872)
    assert f"The smallest output layer to reach full_softmax is mach (B = {least[2]:,}, R = {least[1]})" in text or (
        f"by mach (B = {least[2]:,}, R = {least[1]})" in text
    )
    assert f"{least[0] / (46_881 * 257):.3g} times its output parameters" in text
    assert "One seed was run" in text


def test_it_can_say_that_hashing_loses(rows: Rows) -> None:
    worse = [row | {"P@1": row["P@1"] - 0.1} if row.get("B") and row["status"] == "ok" else row for row in rows]
    worse = [row for row in worse if row.get("P@1", 1) >= 0]
    text = said(worse)
    assert "The highest P@1 is 87.20 %, by full_softmax" in text
    assert "points below full_softmax" in text
    assert "hashing loses in accuracy" in text


def test_difference_within_the_spread_is_said(make: Callable[..., Rows]) -> None:
    rows = make(seeds=(0, 1, 2))
    for row in rows:
        if row["method"] == "full_softmax":
            row["P@1"] += 0.0078
    assert "0.02 points above full_softmax" in said(rows)
    assert "less than the two spreads together" in said(rows)


def test_without_full_softmax_or_without_hashing(rows: Rows) -> None:
    assert "was not run" in said([r for r in rows if r["method"] != "full_softmax"])
    failed = [r | {"status": "timeout", "P@1": None} if r["method"] == "full_softmax" else r for r in rows]
    assert "full_softmax gave no result: out of time" in said(failed)
    assert "nothing to compare" in said([r for r in rows if not r.get("B")])
    assert said([rows[-1]]) == "No run on this dataset has finished with a result."


def test_pages_of_few_results(tmp_path: Path, rows: Rows, write: Write) -> None:
    empty = write(tmp_path / "empty", [])
    assert "no run has finished" in Page(write_report(empty).read_text()).text
    failed = write(tmp_path / "failed", [rows[-1]])
    page = Page(write_report(failed).read_text())
    assert "Not drawn" in page.text
    assert "svg" not in page.tags


def test_environment_that_is_absent_or_broken(tmp_path: Path, rows: Rows, write: Write) -> None:
    experiment = write(tmp_path, rows[-1:])
    env = experiment.parent / "env" / "e1a2b3.json"
    env.write_text("[1, 2]")
    with pytest.raises(InputError, match=r"e1a2b3\.json.*list.*JSON object"):
        write_report(experiment)
    env.write_text('{"cpu": ')
    with pytest.raises(InputError, match=r"e1a2b3\.json.*no JSON"):
        write_report(experiment)
    env.unlink()
    assert "not beside these results" in Page(write_report(experiment).read_text()).text


def test_the_description_of_the_experiment_is_shown(tmp_path: Path, rows: Rows, write: Write) -> None:
    folder = write(tmp_path, rows)
    keep_description("Is <small> enough?\nSeconds only.", folder)
    first, second = "Is <small> enough?\nSeconds only.", "output layer"
    text = Page(write_report(folder).read_text()).text
    assert 0 < text.index(first) < text.index(second, text.index(first))
    keep_description("", folder)
    assert first not in Page(write_report(folder).read_text()).text
    (folder / DESCRIPTION).write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"description\.txt: not readable as UTF-8 text"):
        write_report(folder)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        write_report(tmp_path / "nothing")
