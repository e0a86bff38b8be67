"""Which room may import which, and which rooms load heavy packages."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {"mach": ("bench", "baselines"), "baselines": ("bench",), "bench": ("mach", "baselines")}
SHARED = "mach.kernels"  # the one room of mach that baselines may import

ORDER = [
    "common",
    "columns",
    "interface",
    "config",
    "data",
    "metrics",
    "results",
    "process",
    "model",
    "plan",
    "run",
    "launch",
]
READERS = {"report": {"common", "columns", "config", "data", "metrics", "results"}}
TOOLS = {"check": ORDER[: ORDER.index("run") + 1], "speed": ORDER}  # ``__init__`` and ``__main__`` may import all
MACH = ["kernels", "hashing", "theory", "decode", "layer", "speed"]

# Heavy packages that importing every module of a room may load, in a fresh process.
HEAVY = ("torch", "pandas", "matplotlib", "numba", "ray", "scipy", "omegaconf")
LOADS = {
    "common": set(),
    "columns": set(),
    "config": {"omegaconf"},
    "process": {"omegaconf"},
    "report": {"pandas", "matplotlib", "scipy", "omegaconf", "numba"},
}


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, with the line; ``from a import b`` gives both a and a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            yield node.module or "", node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def room_of(name: str) -> str | None:
    """The room of ``bench`` or ``mach`` that a module is in; None for the package itself and for its names."""
    package, *rest = name.split(".")
    if not rest:
        return None
    found = ROOT / package / rest[0]
    return rest[0] if found.is_dir() or found.with_suffix(".py").exists() else None


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_packages_keep_to_themselves(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        for name, line in imports(path):
            assert name.partition(".")[0] not in FORBIDDEN[package], f"{path.relative_to(ROOT)}, line {line}"
            if package == "baselines" and name.partition(".")[0] == "mach":
                assert f"{name}.".startswith(f"{SHARED}."), f"{path.relative_to(ROOT)}, line {line}: {name}"


def allowed(room: str) -> set[str]:
    if room in ORDER:
        return set(ORDER[: ORDER.index(room) + 1])
    return READERS.get(room, set(TOOLS.get(room, ()))) | {room}


@pytest.mark.parametrize("room", [*ORDER, *READERS, *TOOLS])
def test_rooms_of_bench_import_those_before_them(room: str) -> None:
    place = ROOT / "bench" / room
    files = list(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    assert files
    wrong = [
        f"{path.relative_to(ROOT)}, line {line}: imports bench.{other}"
        for path in files
        for name, line in imports(path)
        if name.startswith("bench.") and (other := room_of(name)) and other not in allowed(room)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("room", MACH)
def test_rooms_of_mach_import_those_before_them(room: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}, line {line}: imports mach.{other}"
        for path in (ROOT / "mach" / room).rglob("*.py")
        for name, line in imports(path)
        if name.startswith("mach.") and (other := room_of(name)) and other not in MACH[: MACH.index(room) + 1]
    ]
    assert not wrong, "\n".join(wrong)


def loaded_by(modules: list[str]) -> set[str]:
    """Heavy packages that a fresh process has loaded after it imported the modules."""
    program = f"import sys, {', '.join(modules)}; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


@pytest.mark.parametrize("room", sorted(LOADS))
def test_rooms_load_what_they_need_and_no_more(room: str) -> None:
    place = ROOT / "bench" / room
    paths = place.rglob("*.py") if place.is_dir() else [place.with_suffix(".py")]
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths]
    assert loaded_by(modules) <= LOADS[room]


def test_the_launcher_loads_neither_torch_nor_pandas_nor_matplotlib() -> None:
    """``bench.launch`` imports all that runs an experiment on this machine."""
    assert not loaded_by(["bench.launch"]) & {"torch", "pandas", "matplotlib"}
    program = "import sys, bench.launch; print('bench.launch.run_one' in sys.modules, bench.launch.run_experiment)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.startswith("True <function run_experiment")


def test_a_ray_cluster_is_used_by_one_module_alone() -> None:
    """Outside of its folder only ``bench.launch.ray.cluster`` is imported."""
    room, door = "bench.launch.ray", "bench.launch.ray.cluster"
    wrong = [
        f"{path.relative_to(ROOT)}, line {line}: {name}"
        for path in (ROOT / "bench").rglob("*.py")
        if ROOT / "bench" / "launch" / "ray" not in path.parents
        for name, line in imports(path)
        if name.startswith(f"{room}.") and not f"{name}.".startswith(f"{door}.")
    ]
    assert not wrong, "\n".join(wrong)


def test_the_process_of_a_run_loads_neither_pandas_nor_matplotlib_nor_omegaconf() -> None:
    assert not loaded_by(["bench.run.execute"]) & {"pandas", "matplotlib", "omegaconf"}


@pytest.mark.parametrize("package", ["bench", "mach", "baselines"])
def test_folders_and_files_stay_small(package: str) -> None:
    """A folder or a file past these sizes is two rooms; every room says in one line what it is for."""
    for folder in [ROOT / package, *(p for p in (ROOT / package).rglob("*") if p.is_dir() and p.name != "__pycache__")]:
        files = sorted(folder.glob("*.py"))
        if not files:
            continue
        most = 6 if folder == ROOT / "bench" else 14
        assert len(files) <= most, f"{folder.relative_to(ROOT)}: {len(files)} files"
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder
        for path in files:
            assert len(path.read_text().splitlines()) <= 400, path.relative_to(ROOT)


def test_files_of_tests_stay_small_too() -> None:
    for path in (ROOT / "tests").rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 400, path.relative_to(ROOT)
