"""Functions of the room that executes a run stay short and take few arguments; words are those of the field."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST_LINES, MOST_PARAMETERS = 60, 6


def functions(folder: Path) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """All functions and methods of a folder's files, nested ones included, with a name for messages."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path.relative_to(ROOT)}, line {node.lineno}, {node.name}", node


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    arguments = node.args
    named = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return [name for name in named if name not in ("self", "cls")]


def test_functions_of_a_run_are_short_and_take_few_arguments() -> None:
    found = list(functions(ROOT / "bench" / "run"))
    assert len(found) > 100
    for where, node in found:
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        assert lines <= MOST_LINES, f"{where}: {lines} lines"
        assert len(parameters(node)) <= MOST_PARAMETERS, f"{where}: {len(parameters(node))} parameters"


PRIVATE = r"(?<![a-z])(?:told|tells|worlds?(?!_size| size)|followers?|meetings?|(?<!label_)orders)(?![a-z])"


def test_code_uses_the_words_of_the_field() -> None:
    """Repetitions, reports, peers and options have one name each, in code as in the pages (`tests/test_docs.py`)."""
    for package in ("bench", "mach", "baselines", "tests"):
        for path in (ROOT / package).rglob("*.py"):
            if path.name not in ("test_style.py", "test_docs.py"):
                found = re.findall(PRIVATE, path.read_text(), flags=re.IGNORECASE)
                assert not found, f"{path.relative_to(ROOT)}: {found}"
