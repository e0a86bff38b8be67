"""The columns of ``table.csv`` as a page of the documentation, from the list in `bench.columns`.

python -m bench.report.columns_page > docs/columns.md
"""

from __future__ import annotations

from bench.columns import COLUMNS, STATUS_WORDS, Column

INTRODUCTION = """# Columns of table.csv

Written by `python -m bench.report.columns_page` from [bench/columns.py](../bench/columns.py), the list with which the
table is written and checked; a test compares. [results/README.md](../results/README.md) says what each column means.

UTF-8, comma-separated, with a header line; a value that was not measured is empty, never 0. Columns marked "always"
are in every table; the others only where some row has a value. Every swept key is one more column, after the settings,
dotted as in the override (`methods.mach.B`, `train.lr`, `dataset.n_labels`).
"""


def page() -> str:
    """docs/columns.md."""
    groups = list(dict.fromkeys(column.group for column in COLUMNS))
    parts = [INTRODUCTION, *(_section(group) for group in groups)]
    words = "\n".join(f"| `{status}` | {shown} |" for status, shown in STATUS_WORDS.items())
    parts.append(f"## Values of `status`\n\n| value | in tables and figures |\n|---|---|\n{words}\n")
    return "\n".join(parts)


def _section(group: str) -> str:
    lines = [_line(column) for column in COLUMNS if column.group == group]
    heads = "| column | kind | unit | better | called in tables and figures | always |\n|---|---|---|---|---|---|\n"
    return f"## {group.capitalize()}\n\n{heads}" + "\n".join(lines) + "\n"


def _line(column: Column) -> str:
    cells = (f"`{column.name}`", column.kind, column.unit, column.better, column.label, "always" * column.required)
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    print(page(), end="")
