"""A hash of the code that a run executes, so that results of edited code are never taken for results of the new."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from functools import cache
from pathlib import Path

from bench.errors import InputError

ENTRIES = ("bench.execute", "bench.follow")


def code_hash(target: str) -> str:
    """Hex digest over the sources reached by imports from the executing modules and from a method's class.

    Only modules of the harness's packages and of the method's own top-level package count; nothing is imported.
    Raises InputError when the target's module cannot be found, or a source is no Python.
    """
    module = target.rpartition(".")[0]
    packages = {"bench", module.partition(".")[0]}
    sources: dict[str, Path] = {}
    waiting = [*ENTRIES, module]
    while waiting:
        name = waiting.pop()
        path = _source(name)
        if name in sources or path is None:
            continue
        sources[name] = path
        imported = _imports(path.read_bytes(), str(path))
        waiting += [found for found in imported if found.partition(".")[0] in packages]
    if module not in sources:
        raise InputError(f"method target {target!r}: module {module!r} not found on the Python path")
    digest = hashlib.sha256()
    for name in sorted(sources):
        digest.update(name.encode() + b"\0" + sources[name].read_bytes() + b"\0")
    return digest.hexdigest()


def find_users_own() -> None:
    """Let a method of the user's own be imported from the working folder, after everything that is installed.

    Last, so that a file of theirs called like some package does not take its place.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))


def _source(name: str) -> Path | None:
    """The file of a module, found through its top-level package without importing it."""
    top, _, rest = name.partition(".")
    find_users_own()
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        return None
    origin = Path(spec.origin)
    if not rest:
        return origin
    path = origin.parent.joinpath(*rest.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@cache
def _imports(source: bytes, path: str) -> frozenset[str]:
    """Dotted names that a file imports absolutely; ``from a import b`` names both a and a.b."""
    found: set[str] = set()
    try:
        tree = ast.parse(source, path)
    except (SyntaxError, ValueError) as error:
        raise InputError(f"{path}, line {getattr(error, 'lineno', '?')}: not readable as Python: {error}") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(found)
