"""A table as data, and the same table as Markdown, CSV and LaTeX (booktabs)."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass, field

MISSING = "–"
FITS = 10  # columns that fit a page as they are


@dataclass(frozen=True)
class Head:
    """A column: ``name`` is the CSV's (file units); ``label`` with ``unit`` is what people read."""

    name: str
    label: str
    unit: str = ""
    latex: str = ""
    number: bool = True

    @property
    def shown(self) -> str:
        return f"{self.label} ({self.unit})" if self.unit else self.label


@dataclass(frozen=True)
class Cell:
    """``text`` is read by people; ``value`` (file unit) goes to the CSV, and with it, where a column has them, ``sd``
    and ``half`` (spread over seeds) and ``p`` (test against the best); ``mark`` points at a note."""

    text: str = MISSING
    value: float | int | str | None = None
    sd: float | None = None
    half: float | None = None
    p: float | None = None
    best: bool = False
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """``rules``: indices of rows that start a new block (a method); ``notes``: (mark or "", text)."""

    name: str
    title: str
    heads: list[Head]
    rows: list[list[Cell]]
    notes: list[tuple[str, str]] = field(default_factory=list)
    rules: frozenset[int] = frozenset()


def to_markdown(table: Table) -> str:
    """GitHub-flavoured Markdown, padded so that it also reads in a terminal; best values are bold."""
    body = [[_md_cell(cell) for cell in row] for row in table.rows]
    head = [_md(h.shown) for h in table.heads]
    width = [max(map(len, column)) for column in zip(head, *body, strict=True)]

    def line(cells: list[str]) -> str:
        padded = [c.rjust(w) if h.number else c.ljust(w) for c, w, h in zip(cells, width, table.heads, strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * (w - 1) + (":" if h.number else "-") for w, h in zip(width, table.heads, strict=True)]
    notes = [f"- {f'[{mark}] ' if mark else ''}{_md(text)}" for mark, text in table.notes]
    parts = [f"**{_md(table.title)}**", "\n".join([line(head), line(rule), *map(line, body)])]
    return "\n\n".join(parts + (["\n".join(notes)] if notes else [])) + "\n"


def to_csv(table: Table) -> str:
    """The table's values in the units of ``table.csv``. Behind a column, where some cell has it: ``<name>_sd`` and
    ``<name>_t95`` (standard deviation over seeds, half width of the t interval of the mean) and ``<name>_p``."""
    columns: list[tuple[str, list[float | int | str | None]]] = []
    for i, head in enumerate(table.heads):
        cells = [row[i] for row in table.rows]
        columns.append((head.name, [cell.value for cell in cells]))
        more = {"sd": [c.sd for c in cells], "t95": [c.half for c in cells], "p": [c.p for c in cells]}
        for suffix, values in more.items():
            if any(value is not None for value in values):
                columns.append((f"{head.name}_{suffix}", list(values)))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(name for name, _ in columns)
    writer.writerows(["" if v is None else v for v in line] for line in zip(*(v for _, v in columns), strict=True))
    return out.getvalue()


def to_latex(table: Table) -> str:
    """A ``table`` environment; needs the packages booktabs and, to fit many columns on a page, graphicx."""
    fit = ("\\resizebox{\\linewidth}{!}{%\n", "}") if len(table.heads) > FITS else ("", "")
    lines = [
        f"% needs \\usepackage{{booktabs{',graphicx' if fit[0] else ''}}}",
        "\\begin{table}",
        "\\centering\\footnotesize\\setlength{\\tabcolsep}{4pt}",
        f"\\caption{{{escape_latex(table.title)}}}",
        f"\\label{{tab:{table.name}}}",
        f"{fit[0]}\\begin{{tabular}}{{{''.join('r' if h.number else 'l' for h in table.heads)}}}",
        "\\toprule",
        " & ".join(_latex_head(h) for h in table.heads) + " \\\\",
        "\\midrule",
    ]
    for i, row in enumerate(table.rows):
        if i and i in table.rules:
            lines.append("\\midrule")
        lines.append(" & ".join(map(_latex_cell, row)) + " \\\\")
    lines += ["\\bottomrule", f"\\end{{tabular}}{fit[1]}"]
    if table.notes:
        notes = [f"{f'{_latex_mark(mark)} ' if mark else ''}{escape_latex(text)}" for mark, text in table.notes]
        lines += ["", "\\smallskip\\parbox{\\linewidth}{" + "\\\\\n".join(notes) + "}"]
    return "\n".join([*lines, "\\end{table}"]) + "\n"


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
    "≈": "$\\approx$",
    **{c: f"\\{c}" for c in "&%$#_{}"},
}


def escape_latex(text: str) -> str:
    """Text that LaTeX sets as written; line ends become spaces."""
    return "".join(_LATEX.get(c, c) for c in " ".join(text.split()))


def _latex_head(head: Head) -> str:
    label = head.latex or escape_latex(head.label)
    return f"{label} ({escape_latex(head.unit)})" if head.unit else label


def _latex_cell(cell: Cell) -> str:
    text = escape_latex(cell.text)
    text = f"\\textbf{{{text}}}" if cell.best else text
    return f"{text}{_latex_mark(cell.mark)}" if cell.mark else text


def _latex_mark(mark: str) -> str:
    return f"$^{{{mark.replace('≈', chr(92) + 'approx')}}}$"


def _md_cell(cell: Cell) -> str:
    text = _md(cell.text)
    text = f"**{text}**" if cell.best else text
    return f"{text} [{cell.mark}]" if cell.mark else text


def _md(text: str) -> str:
    """Escape what would change the table or the type; an underscore inside a word is only an underscore."""
    text = " ".join(text.split()).replace("\\", "\\\\")
    text = re.sub(r"([|`*<\[\]])", r"\\\1", text)
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
