"""Who may import whom: the algorithm and the baselines know nothing of the harness, and it knows them by path only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {"mach": {"bench", "baselines"}, "baselines": {"bench", "mach"}, "bench": {"mach", "baselines"}}


@pytest.mark.parametrize("room", sorted(FORBIDDEN))
def test_rooms_keep_to_themselves(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            tops = {name.partition(".")[0] for name in names}
            assert not tops & FORBIDDEN[room], f"{path.relative_to(ROOT)}, line {node.lineno}"
