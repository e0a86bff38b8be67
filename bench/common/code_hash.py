"""A hash of the code that a run executes: results of other code are recognised as stale."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from functools import cache
from pathlib import Path

from bench.common.errors import InputError

ENTRIES = ("bench.run.__main__", "bench.run.execute", "bench.run.ranks.peer_main")  # modules that execute a run
PROJECT = ("bench", "mach", "baselines")  # packages of this project, which import one another


def code_hash(target: str) -> str:
    """Hex digest over the sources reached by imports from the executing modules and from a method's class.

    Only modules of this project's packages and of the method's own top-level package count, each with the packages
    that hold it; nothing is imported. Raises InputError when the target's module or an executing module cannot be
    found, or a source is not valid Python.
    """
    module = target.rpartition(".")[0]
    packages = {*PROJECT, module.partition(".")[0]}
    for entry in ENTRIES:
        if _source(entry) is None:
            raise InputError(f"code hash: module {entry!r} that executes runs not found; expected a file of that name")
    if _source(module) is None:
        raise InputError(f"method target {target!r}: module {module!r} not found on the Python path")
    sources: dict[str, Path] = {}
    waiting = [*ENTRIES, module]
    while waiting:
        name = waiting.pop()
        path = _source(name)
        if name in sources or path is None:
            continue
        sources[name] = path
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        imported = _imports(path.read_bytes(), str(path), package)
        waiting += [found for found in imported if found.partition(".")[0] in packages]
        waiting += _parents(name)
    digest = hashlib.sha256()
    for name in sorted(sources):
        digest.update(name.encode() + b"\0" + sources[name].read_bytes() + b"\0")
    return digest.hexdigest()


def find_users_own() -> None:
    """Let a method of the user's own be imported from the working folder, after everything that is installed.

    Last, so that a file of the user's with the name of a package does not replace the package.
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


def _parents(name: str) -> list[str]:
    """The packages that hold a module: importing it executes them."""
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]


@cache
def _imports(source: bytes, path: str, package: str) -> frozenset[str]:
    """Dotted names that a file of ``package`` imports; ``from a import b`` names both a and a.b."""
    found: set[str] = set()
    try:
        tree = ast.parse(source, path)
    except (SyntaxError, ValueError) as error:
        raise InputError(f"{path}, line {getattr(error, 'lineno', '?')}: not readable as Python: {error}") from None
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse  # the body is never executed
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                parts = package.split(".")
                module = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [module])])
            found.add(module)
            found.update(f"{module}.{alias.name}" for alias in node.names)
    return frozenset(found)
