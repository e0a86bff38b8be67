"""External methods: files in, rankings out, and every failure in between; no library is installed here."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from baselines.external import environments, external_method, napkinxc_child
from baselines.external.child import ranked
from baselines.external.external_method import ExternalMethod, unit_rows, work_folder
from baselines.external.napkinxc_plt import NapkinxcPLT
from baselines.external.omikuji_trees import OmikujiTrees, xmc_lines
from baselines.external.pecos_xrlinear import PecosXRLinear
from bench.common import code_hash

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "method"
PEERS = {
    "omikuji_parabel": OmikujiTrees,
    "omikuji_bonsai": OmikujiTrees,
    "napkinxc_plt": NapkinxcPLT,
    "pecos_xrlinear": PecosXRLinear,
}
REFUSED = {
    "PIP_CONFIG_FILE": os.devnull,
    "PIP_FIND_LINKS": "",
    "PIP_EXTRA_INDEX_URL": "",
    "PIP_INDEX_URL": "http://127.0.0.1:9/simple",  # nobody listens there
    "PIP_RETRIES": "1",
}

FIRST_LABELS = """
import json, numpy as np

def fit(folder, job, clock):
    clock.seconds += 1.5
    (folder / "model").mkdir()
    (folder / "model" / "weights").write_bytes(bytes(100))

def predict(folder, job, clock):
    clock.seconds += 0.25
    n = int((folder / "test").read_text())
    settings = job["settings"]
    yield [settings["n"]] * n, list(range(settings["n"])) * n, [1.0] * settings["n"] * n

def parameters(folder):
    return 7
"""


class Toy(ExternalMethod):
    """An external method in this interpreter, whose script the test writes."""

    library, requirements, reproducible = "numpy", (), True

    def __init__(self, folder: Path, script: str, **settings: Any) -> None:
        super().__init__(settings)
        path = folder / "script.py"
        path.write_text(script)
        self.script = str(path)

    def write_points(self, folder: Path, split: str, X: sp.csr_matrix) -> None:
        (folder / split).write_text(str(X.shape[0]))

    def write_labels(self, folder: Path, X: sp.csr_matrix, Y: sp.csr_matrix) -> None:
        (folder / "labels").write_text(f"{X.shape[0]} {Y.shape[1]}")


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MACHBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(external_method, "python_of", lambda *_: Path(sys.executable))

    def make(script: str, **chosen: Any) -> Toy:
        made = Toy(tmp_path, script, **chosen)
        made.prepare(seed=3, threads=1)
        return made

    return make


X, Y = sp.csr_matrix((4, 5), dtype=np.float32), sp.csr_matrix((4, 6), dtype=np.float32)

POINT = st.lists(st.tuples(st.integers(0, 9), st.sampled_from([0.0, 0.25, 0.5, 1.0])), max_size=8)


@settings(deadline=None)
@given(st.lists(st.lists(POINT, max_size=4), max_size=3), st.integers(1, 6))
def test_rankings_are_those_of_a_plain_sort(parts: list[list[list[tuple[int, float]]]], k: int) -> None:
    flat = []
    for part in parts:
        pairs = [pair for point in part for pair in point]
        flat.append(([len(point) for point in part], [label for label, _ in pairs], [score for _, score in pairs]))
    scores, labels = ranked(flat, k)
    assert scores.dtype == np.float32
    assert labels.dtype == np.int32
    points = [point for part in parts for point in part]
    assert scores.shape == labels.shape == (len(points), k)
    for n, point in enumerate(points):
        best = sorted(point, key=lambda pair: (-pair[1], pair[0]))[:k]
        assert labels[n].tolist() == [label for label, _ in best] + [-1] * (k - len(best))
        assert scores[n].tolist() == [score for _, score in best] + [-np.inf] * (k - len(best))


def test_text_holds_every_value_and_leaves_out_empty_points() -> None:
    rng = np.random.default_rng(0)
    features = sp.random(30, 8, 0.3, format="csr", dtype=np.float32, random_state=1)
    labels = sp.csr_matrix((rng.random((30, 5)) < 0.2).astype(np.float32))
    head, *lines = xmc_lines(features, labels)
    kept = [n for n in range(30) if features[n].nnz or labels[n].nnz]
    assert 0 < len(kept) < 30
    assert head == f"{len(kept)} 8 5\n"
    for n, line in zip(kept, lines, strict=True):
        assert line.endswith("\n")
        assert not line.endswith(" \n")  # omikuji's reader refuses it
        ids, _, rest = line.rstrip("\n").partition(" ")
        assert [int(label) for label in ids.split(",") if label] == labels[n].indices.tolist()
        pairs = [pair.split(":") for pair in rest.split()]
        assert [int(feature) for feature, _ in pairs] == features[n].indices.tolist()
        assert [np.float32(value) for _, value in pairs] == features[n].data.tolist()


def test_rows_are_scaled_to_length_one_and_sorted() -> None:
    rows = sp.csr_matrix((np.float32([3, 4, 2]), [2, 0, 1], [0, 2, 2, 3]), shape=(3, 4))
    scaled = unit_rows(rows)
    np.testing.assert_allclose(scaled.toarray(), [[0.8, 0, 0.6, 0], [0, 0, 0, 0], [0, 1, 0, 0]], rtol=1e-6)
    assert scaled.indices.tolist() == [0, 2, 1]
    assert scaled.dtype == np.float32
    assert rows.data.tolist() == [3, 4, 2]


def test_an_external_method_reports_what_its_child_measured(toy: Any) -> None:
    made = toy(FIRST_LABELS, n=3)
    made.fit(X, Y)
    scores, labels = made.topk(X[:2], 5)
    assert labels.tolist() == [[0, 1, 2, -1, -1]] * 2
    assert scores[0].tolist() == [1, 1, 1, -np.inf, -np.inf]
    facts = made.facts()
    assert facts["fit_s"] == 1.5  # the library's own clock, not that of the child or of its files
    assert facts["predict_s"] == 0.25
    assert facts["model_bytes"] == 100
    assert facts["params_output"] == facts["params_total"] == 7
    assert facts["library"] == f"numpy {np.__version__}"
    assert facts["reproducible"] == "yes"
    assert facts["peak_host_bytes"] >= facts["baseline_host_bytes"] > 0


def test_an_external_method_cleans_up_after_itself(toy: Any, tmp_path: Path) -> None:
    made = toy(FIRST_LABELS, n=3)
    made.fit(X, Y)
    assert len(list((tmp_path / "cache" / "peers").glob("run-*"))) == 2  # the folder and its lock
    del made
    gc.collect()
    assert not list((tmp_path / "cache" / "peers").glob("run-*"))


def test_what_a_killed_run_left_is_removed_by_the_next_and_a_living_one_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MACHBENCH_CACHE", str(tmp_path))
    killed = tmp_path / "peers" / "run-killed"
    killed.mkdir(parents=True)
    (killed / "model").write_text("large")
    killed.with_name("run-killed.lock").touch()

    class Owner: ...

    first, second = Owner(), Owner()
    living, other = work_folder(first), work_folder(second)
    assert not killed.exists()
    assert living.is_dir()
    assert other.is_dir()


@pytest.mark.parametrize(
    ("line", "kind", "words"),
    [
        ("raise ValueError('no such loss')", RuntimeError, "numpy, fit: exit status 1: ValueError: no such loss"),
        ("import os; os.kill(os.getpid(), 9)", RuntimeError, "killed by signal 9; the kernel does that when memory"),
        ("import os; os.kill(os.getpid(), 11)", RuntimeError, "numpy, fit: killed by signal 11"),
        ("raise MemoryError('8 GiB')", MemoryError, "numpy, fit: MemoryError: 8 GiB"),
    ],
)
def test_a_failed_child_says_why(toy: Any, line: str, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match="numpy, fit") as raised:
        toy(f"def fit(folder, job, clock):\n    {line}\n").fit(X, Y)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_rankings_of_another_shape_are_refused(toy: Any) -> None:
    made = toy(FIRST_LABELS.replace('[settings["n"]] * n', '[settings["n"]] * (n - 1)'), n=0)
    made.fit(X, Y)
    with pytest.raises(RuntimeError, match=r"found rankings \(3, 2\); expected \(4, 2\)"):
        made.topk(X, 2)


def test_labels_that_are_none_are_refused(toy: Any) -> None:
    made = toy(FIRST_LABELS, n=8)
    made.fit(X, Y)
    with pytest.raises(RuntimeError, match="found label ids from 0 to 7; expected 0 to 5"):
        made.topk(X, 8)


@pytest.mark.parametrize("own_pip", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_without_a_reachable_index_an_external_method_is_unsupported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_pip: bool
) -> None:
    monkeypatch.setattr(environments, "has_pip", lambda: own_pip)
    monkeypatch.setenv("MACHBENCH_CACHE", str(tmp_path))
    for name, value in REFUSED.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(NotImplementedError) as raised:
        environments.python_of(OmikujiTrees.library, OmikujiTrees.requirements)
    assert str(raised.value) == (
        "the environment of omikuji cannot be made here: No matching distribution found for omikuji==0.5.2 "
        "(a package index could not be reached)"
    )
    assert [path.suffix for path in (tmp_path / "environments").iterdir()] == [".lock"]  # nothing half-built stays


def test_the_last_error_is_quoted() -> None:
    assert environments._why("ERROR: first\nERROR: second\n\nnotice\n") == "second"
    assert environments._why("ensurepip is not available\n") == "ensurepip is not available"
    assert environments._why("") == "no output"


def test_an_environment_sees_only_its_own_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MACHBENCH_CACHE", str(tmp_path))
    python = environments.python_of("empty", ())
    script = "import sys, importlib.util as u; print(sys.prefix, u.find_spec('numpy'))"
    done = subprocess.run([python, "-I", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(python.parents[1]), "None"]
    built = python.lstat().st_mtime_ns
    assert environments.python_of("empty", ()) == python
    assert python.lstat().st_mtime_ns == built


def test_one_builds_while_others_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MACHBENCH_CACHE", str(tmp_path))
    built: list[Path] = []

    def build(name: str, folder: Path, requirements: tuple[str, ...]) -> None:
        assert (name, requirements) == ("tool", ("a==1",))
        built.append(folder)
        (folder / "bin").mkdir(parents=True, exist_ok=True)
        (folder / "bin" / "python").symlink_to(sys.executable)

    monkeypatch.setattr(environments, "_build", build)
    threads = [threading.Thread(target=environments.python_of, args=("tool", ("a==1",))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    (built[0] / "bin" / "python").unlink()
    (built[0] / "bin" / "python").symlink_to(tmp_path / "an interpreter that has gone")
    monkeypatch.setattr(environments, "_build", lambda *_: built.append(_[1]))
    environments.python_of("tool", ("a==1",))
    assert len(built) == 2  # its interpreter has gone: built again


def test_other_requirements_are_another_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MACHBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(environments, "_build", lambda *_: None)
    assert environments.python_of("tool", ("a==1",)) != environments.python_of("tool", ("a==2",))


@pytest.mark.parametrize("name", sorted(PEERS))
def test_requirements_are_exact(name: str) -> None:
    assert all(requirement.count("==") == 1 for requirement in PEERS[name].requirements)
    assert PEERS[name].requirements[0].startswith(f"{PEERS[name].library}==")


def configured(name: str, **chosen: Any) -> Any:
    config: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{name}.yaml"))
    assert config["target"].endswith(PEERS[name].__name__)
    return PEERS[name](**{**config["settings"], **chosen})


@pytest.mark.parametrize(
    ("name", "chosen", "words"),
    [
        ("omikuji_parabel", {"loss": "softmax"}, "loss: found 'softmax'; expected one of hinge, log"),
        ("omikuji_bonsai", {"n_trees": 0}, "n_trees: found 0; expected at least 1"),
        ("omikuji_bonsai", {"linear_c": 0}, "linear_c: found 0; expected a positive number"),
        ("napkinxc_plt", {"optimizer": "adam"}, "optimizer: found 'adam'; expected one of liblinear, adagrad, sgd"),
        ("napkinxc_plt", {"arity": 1}, "arity: found 1; expected at least 2"),
        ("pecos_xrlinear", {"negative_sampling": "all"}, "negative_sampling: found 'all'; expected one of tfn, man"),
        ("pecos_xrlinear", {"cost": -1.0}, "cost: found -1.0; expected a positive number"),
    ],
)
def test_settings_are_checked(name: str, chosen: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        configured(name, **chosen)


def test_which_are_reproducible_is_said() -> None:
    assert [configured(name).reproducible for name in PEERS] == [False, False, False, True]
    assert configured("napkinxc_plt", optimizer="adagrad").reproducible


def node(values: list[float], sparse: bool) -> bytes:
    filled = sum(value != 0 for value in values)
    head = np.int32([2, 0, 0]).tobytes() + np.uint64([len(values), filled] * 2).tobytes() + bytes([sparse])
    pairs = [(at, value) for at, value in enumerate(values) if value]
    kind = np.dtype([("index", "<i4"), ("value", "<f4")])
    return head + (np.array(pairs, kind).tobytes() if sparse else np.float32(values).tobytes()) + b"\0"


def test_napkinxc_weights_are_counted_and_an_unknown_layout_is_not(tmp_path: Path) -> None:
    constant = np.int32([1, 1, 0]).tobytes()
    content = np.int32([3]).tobytes() + node([0, 1.5, 2.0], False) + constant + node([0, 0, 0, 4.0], True)
    path = tmp_path / "model" / "member_0" / "weights.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert napkinxc_child.parameters(tmp_path) == 3
    for broken in (content[:-1], content + b"\0", content[:20], content[:-1] + b"\1", content[:-30]):
        path.write_bytes(broken)
        assert napkinxc_child.parameters(tmp_path) is None


@pytest.mark.parametrize("name", sorted(PEERS))
def test_an_edit_of_the_childs_script_is_other_code(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = f"{PEERS[name].__module__}.{PEERS[name].__name__}"
    source = code_hash._source

    before = code_hash.code_hash(target)
    edited = tmp_path / "edited.py"
    edited.write_text(Path(PEERS[name].script).read_text() + "\n# edited\n")
    script = Path(PEERS[name].script).stem
    monkeypatch.setattr(code_hash, "_source", lambda found: edited if found.endswith(f".{script}") else source(found))
    assert code_hash.code_hash(target) != before
