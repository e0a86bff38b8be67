"""The report page as a browser shows it: sorting, filtering, narrow windows, contrast, names, nothing from outside."""

from __future__ import annotations

import html
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.report.html import write_report

Rows = list[dict[str, Any]]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium or google-chrome on the PATH"),
    pytest.mark.soak,
]

FIRST = "<script>window.errors = []; addEventListener('error', e => errors.push(String(e.message)));</script>"

# What a visitor does, and what they find; the answers go into the page's last element.
VISIT = r"""
const seen = {};
const table = document.querySelector("table.sortable");
const column = [...table.tHead.rows[0].cells].findIndex(c => c.textContent.startsWith("P@1"));
const values = () => [...table.tBodies[0].rows].map(r => r.cells[column].dataset.value ?? null);
const button = table.tHead.rows[0].cells[column].querySelector("button");
button.click();
seen.up = values(); seen.sort_up = button.parentElement.getAttribute("aria-sort");
button.click();
seen.down = values(); seen.sort_down = button.parentElement.getAttribute("aria-sort");
const input = document.querySelector(".filter input");
input.value = "mach 4,096"; input.dispatchEvent(new Event("input"));
seen.shown = [...table.tBodies[0].rows].filter(r => !r.hidden).map(r => r.textContent);
input.value = ""; input.dispatchEvent(new Event("input"));
seen.all_back = [...table.tBodies[0].rows].every(r => !r.hidden);
seen.loaded = performance.getEntriesByType("resource").map(e => e.name);
const name = e => (e.getAttribute("aria-label") || e.textContent || "").trim()
  || (e.getAttribute("aria-labelledby") && document.getElementById(e.getAttribute("aria-labelledby"))?.textContent)
  || [...(e.labels ?? [])].map(l => l.textContent.trim()).join("");
seen.nameless = [...document.querySelectorAll("button, input, a, [role=region], svg[role=img]")]
  .filter(e => !name(e)).map(e => e.outerHTML.slice(0, 80));
seen.headings = [...document.querySelectorAll("h1, h2, h3")].map(h => Number(h.tagName[1]));
const rgb = text => (text.match(/[\d.]+/g) ?? []).map(Number);
const light = text => rgb(text).slice(0, 3).map(v => v / 255)
  .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
  if (rgb(c)[3] !== 0) return c; } return "rgb(255, 255, 255)"; };
seen.faint = [];
for (const e of document.querySelectorAll("body *")) {
  if (e.closest("svg, script, pre#seen") || !e.checkVisibility()) continue;
  if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
  const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < 4.5) seen.faint.push(`${e.tagName} ${ratio.toFixed(2)}: ${e.textContent.slice(0, 40)}`);
}
seen.errors = window.errors;
"""
REPORT = "const out = document.createElement('pre'); out.id = 'seen'; out.textContent = JSON.stringify(seen); "
REPORT += "document.body.append(out);"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, make: Callable[..., Rows], write: Callable[..., Path]) -> str:
    return write_report(write(tmp_path_factory.mktemp("browser"), make())).read_text()


def visit(folder: Path, page: str) -> dict[str, Any]:
    """The output of the last script of the page; chromium gets the page as a file, without network."""
    path = folder / "page.html"
    path.write_text(page)
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=5000",
        f"--user-data-dir={folder}/profile",
    ]
    command = [str(CHROMIUM), *options, "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert '<pre id="seen">' in done.stdout, done.stderr[-2000:]
    seen = done.stdout.rpartition('<pre id="seen">')[2].partition("</pre>")[0]
    found: dict[str, Any] = json.loads(html.unescape(seen))
    return found


def with_visit(page: str) -> str:
    return page.replace("<head>", f"<head>{FIRST}", 1).replace("</body>", f"<script>{VISIT}{REPORT}</script></body>")


def test_sorts_filters_and_loads_nothing(tmp_path: Path, page: str) -> None:
    seen = visit(tmp_path, with_visit(page))
    measured = [float(value) for value in seen["up"] if value is not None]
    assert len(measured) > 3
    assert measured == sorted(measured)
    assert [float(v) for v in seen["down"] if v is not None] == sorted(measured, reverse=True)
    assert seen["up"][len(measured) :] == [None] * (len(seen["up"]) - len(measured)), "what has no value comes last"
    assert (seen["sort_up"], seen["sort_down"]) == ("ascending", "descending")
    assert seen["shown"]
    assert all("mach" in row and "4,096" in row for row in seen["shown"])
    assert len(seen["shown"]) < len(seen["up"])
    assert seen["all_back"]
    assert seen["loaded"] == []
    assert seen["errors"] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_names_headings_and_contrast(tmp_path: Path, page: str, scheme: str) -> None:
    if scheme == "dark":
        assert page.count("(prefers-color-scheme: dark)") == 1
        page = page.replace("(prefers-color-scheme: dark)", "all")
    seen = visit(tmp_path, with_visit(page))
    assert seen["nameless"] == []
    assert seen["headings"][0] == 1
    assert all(b - a <= 1 for a, b in zip(seen["headings"], seen["headings"][1:], strict=False)), "no level is skipped"
    assert seen["faint"] == [], "WCAG 2 AA requires a contrast of 4.5 : 1"


@pytest.mark.parametrize("width", [360, 1280])
def test_fits_the_window(tmp_path: Path, page: str, width: int) -> None:
    """The page does not scroll sideways; wide tables and figures scroll in their own frames."""
    style = f"border:0;width:{width}px;height:800px"
    frame = f'<iframe id="f" style="{style}" srcdoc="{html.escape(page, quote=True)}"></iframe>'
    script = (
        "addEventListener('load', () => { const d = document.getElementById('f').contentDocument.documentElement;"
        f"const seen = {{inner: d.clientWidth, wide: d.scrollWidth}}; {REPORT} }});"
    )
    seen = visit(tmp_path, f"<!doctype html><html><body>{frame}<script>{script}</script></body></html>")
    assert seen["inner"] in range(width - 20, width + 1)  # less a scroll bar
    assert seen["wide"] <= seen["inner"]
