"""A table as data, and the same table as Markdown, CSV and LaTeX (booktabs)."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.common.files import write_atomic

MISSING = "–"
FITS, LONGEST = 10, 95  # columns, and characters of a line with its gaps, that fit a page unscaled


@dataclass(frozen=True)
class Head:
    """A column: ``name`` in the CSV (file units); ``label`` with ``unit`` elsewhere. ``panel``: see `Table`."""

    name: str
    label: str
    unit: str = ""
    latex: str = ""
    number: bool = True
    panel: str = ""

    @property
    def shown(self) -> str:
        return f"{self.label} ({self.unit})" if self.unit else self.label


@dataclass(frozen=True)
class Cell:
    """``text`` is shown; ``value`` (file unit) goes to the CSV, with ``sd`` and ``half`` (spread over seeds) and ``p``
    (test against the best) where a column has them; ``mark`` refers to a note."""

    text: str = MISSING
    value: float | int | str | None = None
    sd: float | None = None
    half: float | None = None
    p: float | None = None
    best: bool = False
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """``rules``: indices of rows that start a new block (a method); ``notes``: (mark or "", text).

    Each ``panel`` of columns is set below the previous one, together with the columns without a panel, so that a wide
    table fits a page. ``sources``: for each row the run ids of the rows of table.csv that its numbers are computed
    from; the CSV has them in its last column, ``run_ids``, joined by ';'.
    """

    name: str
    title: str
    heads: list[Head]
    rows: list[list[Cell]]
    notes: list[tuple[str, str]] = field(default_factory=list)
    rules: frozenset[int] = frozenset()
    sources: list[tuple[str, ...]] = field(default_factory=list)

    def panels(self) -> list[tuple[str, list[int]]]:
        """(name, columns) of each panel; the name is empty where there is only one."""
        names = list(dict.fromkeys(head.panel for head in self.heads if head.panel))
        if len(names) < 2:
            return [("", list(range(len(self.heads))))]
        return [(name, [i for i, head in enumerate(self.heads) if head.panel in ("", name)]) for name in names]


def to_markdown(table: Table) -> str:
    """GitHub-flavoured Markdown, padded so that it is also readable in a terminal; best values are bold."""
    parts = [f"**{_md(table.title)}**"]
    for name, columns in table.panels():
        parts += [f"*{_md(name)}*"] if name else []
        parts.append(_md_grid([table.heads[i] for i in columns], [[row[i] for i in columns] for row in table.rows]))
    notes = [f"- {f'[{mark}] ' if mark else ''}{_md(text)}" for mark, text in table.notes]
    return "\n\n".join(parts + (["\n".join(notes)] if notes else [])) + "\n"


def _md_grid(heads: list[Head], rows: list[list[Cell]]) -> str:
    lines = [[_md(h.shown) for h in heads], *([_md_cell(cell) for cell in row] for row in rows)]
    width = [max(2, *map(len, column)) for column in zip(*lines, strict=True)]  # one colon alone is no rule
    rule = ["-" * (w - 1) + (":" if h.number else "-") for w, h in zip(width, heads, strict=True)]
    lines.insert(1, rule)
    padded = [
        [c.rjust(w) if h.number else c.ljust(w) for c, w, h in zip(line, width, heads, strict=True)] for line in lines
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def to_csv(table: Table) -> str:
    """The table's values in the units of ``table.csv``. After a column, where some cell has it: ``<name>_sd`` and
    ``<name>_t95`` (standard deviation over seeds, half width of the t interval of the mean) and ``<name>_p``; last,
    where they are known, ``run_ids``."""
    columns: list[tuple[str, list[float | int | str | None]]] = []
    for i, head in enumerate(table.heads):
        cells = [row[i] for row in table.rows]
        columns.append((head.name, [cell.value for cell in cells]))
        more = {"sd": [c.sd for c in cells], "t95": [c.half for c in cells], "p": [c.p for c in cells]}
        for suffix, values in more.items():
            if any(value is not None for value in values):
                columns.append((f"{head.name}_{suffix}", list(values)))
    if table.sources:
        columns.append(("run_ids", [";".join(runs) for runs in table.sources]))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(name for name, _ in columns)
    writer.writerows(["" if v is None else v for v in line] for line in zip(*(v for _, v in columns), strict=True))
    return out.getvalue()


def to_latex(table: Table) -> str:
    """A ``table`` environment; needs the packages booktabs and, to fit many columns on a page, graphicx."""
    panels = table.panels()
    wide = any(_too_wide(table, columns) for _, columns in panels)
    lines = [
        f"% needs \\usepackage{{booktabs{',graphicx' if wide else ''}}}",
        *([f"% the rows of table.csv behind each row: column run_ids of {table.name}.csv"] if table.sources else []),
        "\\begin{table}",
        "\\centering\\footnotesize\\setlength{\\tabcolsep}{4pt}",
        f"\\caption{{{escape_latex(table.title)}}}",
        f"\\label{{tab:{table.name}}}",
    ]
    for at, (name, columns) in enumerate(panels):
        lines += ["", "\\medskip"] if at else []
        lines += [f"\\emph{{{escape_latex(name)}}}\\par\\smallskip"] if name else []
        lines += _tabular(table, columns)
    if table.notes:
        notes = [f"{f'{_latex_mark(mark)} ' if mark else ''}{escape_latex(text)}" for mark, text in table.notes]
        lines += ["", "\\smallskip\\parbox{\\linewidth}{" + "\\\\\n".join(notes) + "}"]
    return "\n".join([*lines, "\\end{table}"]) + "\n"


def _too_wide(table: Table, columns: list[int]) -> bool:
    longest = [max(len(table.heads[i].shown), *(len(row[i].text) for row in table.rows), 0) for i in columns]
    return len(columns) > FITS or sum(longest) + 2 * len(columns) > LONGEST


def _tabular(table: Table, columns: list[int]) -> list[str]:
    fit = ("\\resizebox{\\linewidth}{!}{%\n", "}") if _too_wide(table, columns) else ("", "")
    heads = [table.heads[i] for i in columns]
    lines = [
        f"{fit[0]}\\begin{{tabular}}{{{''.join('r' if h.number else 'l' for h in heads)}}}",
        "\\toprule",
        " & ".join(_latex_head(h) for h in heads) + " \\\\",
        "\\midrule",
    ]
    for i, row in enumerate(table.rows):
        if i and i in table.rules:
            lines.append("\\midrule")
        lines.append(" & ".join(_latex_cell(row[at]) for at in columns) + " \\\\")
    return [*lines, "\\bottomrule", f"\\end{{tabular}}{fit[1]}"]


_LATEX = {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    "±": "$\\pm$",
    "×": "$\\times$",
    "·": "$\\cdot$",
    "²": "$^2$",
    "–": "--",
    "÷": "$\\div$",
    "−": "$-$",
    "≤": "$\\le$",
    "≥": "$\\ge$",
    "→": "$\\to$",
    "†": "\\dag{}",
    "…": "\\ldots{}",
    "[": "{[}",  # behind the end of a row it would begin an argument
    "]": "{]}",
    "*": "{*}",
    "≈": "$\\approx$",
    **{c: f"\\{c}" for c in "&%$#_{}"},
}


def escape_latex(text: str) -> str:
    """Text that LaTeX sets as written; line ends become spaces."""
    text = " ".join(text.split())
    pairs = zip(text, text[1:] + " ", strict=True)  # two hyphens in a row would become a dash
    return "".join("-{}" if c == after == "-" else _LATEX.get(c, c) for c, after in pairs)


def _latex_head(head: Head) -> str:
    label = head.latex or escape_latex(head.label)
    return f"{label} ({escape_latex(head.unit)})" if head.unit else label


def _latex_cell(cell: Cell) -> str:
    text = escape_latex(cell.text)
    text = f"\\textbf{{{text}}}" if cell.best else text
    return f"{text}{_latex_mark(cell.mark)}" if cell.mark else text


def _latex_mark(mark: str) -> str:
    for symbol, command in (("≈", "\\approx"), ("†", "\\dagger"), ("‡", "\\ddagger")):
        mark = mark.replace(symbol, command)
    return f"$^{{{mark}}}$"


def _md_cell(cell: Cell) -> str:
    text = _md(cell.text)
    text = f"**{text}**" if cell.best else text
    return f"{text} [{cell.mark}]" if cell.mark else text


def _md(text: str) -> str:
    """Escape what Markdown would interpret; an underscore inside a word needs no escape."""
    text = " ".join(text.split()).replace("\\", "\\\\")
    text = re.sub(r"([|`*<\[\]$~]|&(?=#?\w+;))", r"\\\1", text)
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)


FORMATS: dict[str, tuple[str, Callable[[Table], str]]] = {
    "md": (".md", to_markdown),
    "csv": (".csv", to_csv),
    "latex": (".tex", to_latex),
}


def write_each(tables: Sequence[Table], out_dir: Path | str) -> list[Path]:
    """Write tables into ``out_dir``, each as .md, .csv and .tex; returns the paths."""
    return [
        write_atomic(Path(out_dir) / f"{table.name}{suffix}", render(table))
        for table in tables
        for suffix, render in FORMATS.values()
    ]
