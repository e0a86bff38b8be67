"""`machbench check`: every method of ours passes, and a method that breaks one rule fails the check of that rule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from typer.testing import CliRunner

from bench.__main__ import app
from bench.check import check_method
from bench.check.outcome import DOES_NOT_APPLY, FAILED, PASSED, UNSUPPORTED, Failed, Outcome
from bench.check.rankings import begins, well_formed
from bench.check.subject import emptied
from bench.common.errors import InputError
from bench.common.paths import config_root

ROOT = Path(__file__).resolve().parents[3]
METHODS = sorted(path.stem for path in (config_root() / "method").glob("*.yaml"))
QUICK = {"label_frequency", "mach"}  # of every method the check takes minutes

LAYER = """
import numpy as np
import torch
from torch import nn

class Layer(nn.Module):
    def __init__(self, *, n_labels, hidden, train_labels, seeds, scale, mode):
        super().__init__()
        if mode != "plain":
            raise ValueError(f"mode: found {mode!r}; expected plain")
        generator = torch.Generator().manual_seed(seeds["initialisation"])
        self.out = nn.Linear(hidden, n_labels)
        with torch.no_grad():
            self.out.weight.uniform_(-0.1, 0.1, generator=generator)
            self.out.bias.zero_()

    @staticmethod
    def parameter_count(*, n_labels, hidden, **_):
        return n_labels * (hidden + 1)

    def loss(self, hidden, labels):
        target = torch.from_numpy(labels.toarray())
        target = target / target.sum(1, keepdim=True).clamp(min=1)
        return -(target * self.out(hidden).log_softmax(1)).sum() / len(hidden)

    def topk(self, hidden, k):
        scores = self.out(hidden)
        order = (-scores).argsort(dim=1, stable=True)[:, :k]
        return scores.gather(1, order).numpy(), order.numpy().astype("int32")
"""

CLASSIFIER = """
import numpy as np

class Layer:
    def __init__(self, scale, mode):
        if mode != "plain":
            raise ValueError(f"mode: found {mode!r}; expected plain")

    def fit(self, X, Y):
        self.weights = (X.T @ Y).toarray().astype(np.float32)

    def topk(self, X, k):
        scores = np.asarray(X @ self.weights)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, order, 1).astype(np.float32), order.astype(np.int32)
"""

# What is changed in the sound layer, which check then fails, and what it says.
BROKEN_LAYERS = {
    "count": ("n_labels * (hidden + 1)", "n_labels * hidden", "parameter_count", "16,000 declared; expected the 16,"),
    "vector": (".sum() / len(hidden)", ".sum(1)", "loss", "shape (64,); expected a scalar"),
    "infinite": (".clamp(min=1)", "", "loss", "nan; expected a finite number"),
    "one": ("target = torch.from", "assert len(hidden) > 1; target = torch.from", "loss_of_one_point", "Assertion"),
    "detached": ("self.out(hidden).log", "self.out(hidden.detach()).log", "gradients", "no gradient of hidden"),
    "row_sparse": (
        "self.out.bias.zero_()",
        "self.out.bias.zero_(); self.out.row_sparse = ('weight',)",
        "gradients",
        "a dense gradient of out.weight, which is in row_sparse",
    ),
    "int64": ('.astype("int32")', "", "topk", "labels of int64; expected a numpy array of int32"),
    "worst": ("(-scores)", "scores", "topk", "a worse score before a better one; expected best first"),
    "narrow": ("[:, :k]", "[:, :3]", "topk", "scores of shape (64, 3) for k = 10; expected (64, 10)"),
    "batch": ("scores = self.out(hidden)", "scores = self.out(hidden / len(hidden))", "topk_of_one_point", "alone"),
    "too_many": ("scores = self.out(hidden)", "scores = self.out(hidden); assert k <= 500", "topk_of_all", "Assertion"),
    "ties": (
        "(-scores).argsort(dim=1, stable=True)",
        "(499 - (-scores).flip(1).argsort(dim=1, stable=True))",
        "ties",
        "labels [499, 498] in this order at equal scores; expected ties by lowest label id",
    ),
    "no_learning": (".log_softmax(1)", ".log_softmax(1) * 1e-9", "beats_the_floor", "label frequencies"),
    "own_stream": (
        "return -(target",
        "self.noise = getattr(self, 'noise', None) or np.random.default_rng(0); "
        "return (1 + self.noise.random()) * -(target",
        "resumes",
        "differ after a stop; expected none; a layer saves random streams of its own by get_extra_state",
    ),
    "state_no_json": (
        "    def loss",
        "    def get_extra_state(self): return {1, 2}\n    def loss",
        "resumes",
        "a run that started over (checkpoint not written: TypeError",
    ),
    "excluded": (
        "    def topk(self, hidden, k):",
        "    takes_excluded = True\n    def topk(self, hidden, k, excluded=None):",
        "excluded",
        "topk without some labels and all without them apart; expected the same ranking",
    ),
    "keeps": ("self.out = nn", "KEPT.append(self); self.out = nn", "frees_its_memory", "the method (Layer)"),
}


def write(folder: Path, code: str, name: str = "mine") -> str:
    (folder / f"{name}.py").write_text("KEPT = []\n" + code)
    (folder / f"{name}.yaml").write_text(
        f"target: {name}.Layer\nsettings: {{scale: 1, mode: plain}}\ntrain: {{lr: 0.02}}\n"
    )
    return str(folder / f"{name}.yaml")


def check(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str, name: str, upto: str = "") -> dict[str, Outcome]:
    """Outcomes by check, up to one of them; every module has a name of its own, because imported modules stay."""
    monkeypatch.syspath_prepend(str(folder))
    outcomes = {}
    for outcome in check_method(write(folder, code, name)):
        outcomes[outcome.check] = outcome
        if outcome.check == upto:
            break
    return outcomes


@pytest.mark.parametrize(
    "method", [name if name in QUICK else pytest.param(name, marks=pytest.mark.soak) for name in METHODS]
)
def test_every_method_passes(method: str) -> None:
    outcomes = list(check_method(method))
    unsupported = [outcome.detail for outcome in outcomes if outcome.status == UNSUPPORTED]
    if unsupported:
        pytest.skip(unsupported[0])
    assert [outcome.line() for outcome in outcomes if outcome.status == FAILED] == []
    assert sum(outcome.status == PASSED for outcome in outcomes) >= 8


@pytest.mark.parametrize("code", [LAYER, CLASSIFIER], ids=["layer", "classifier"])
def test_a_sound_method_passes_and_the_rest_does_not_apply(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    outcomes = check(tmp_path, monkeypatch, code, f"sound_{len(code)}")
    status = {name: outcome.status for name, outcome in outcomes.items()}
    absent = {name for name, found in status.items() if found == DOES_NOT_APPLY}
    assert absent == (
        {"prefixes", "parts", "labels_apart", "excluded", "facts"}
        if code == LAYER
        else {"excluded", "facts", "resumes"}
    )
    assert {found for name, found in status.items() if name not in absent} == {PASSED}


@pytest.mark.parametrize("fault", BROKEN_LAYERS)
def test_a_broken_rule_fails_its_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    before, after, name, says = BROKEN_LAYERS[fault]
    assert before in LAYER
    outcome = check(tmp_path, monkeypatch, LAYER.replace(before, after), f"broken_{fault}", name)[name]
    assert outcome.status == FAILED
    assert says in outcome.detail


BROKEN_CLASSIFIERS = {
    "input": ("self.weights =", "X.data *= 2; self.weights =", "fit", "read-only"),
    "error": ("self.weights =", "raise RuntimeError('no tree'); self.weights =", "fit", "RuntimeError: no tree"),
    "empty": ("scores = np", "assert np.diff(X.indptr).all(); scores = np", "topk", "AssertionError"),
    "wide": ("scores = np", "k = 500; scores = np", "topk", "scores of shape (64, 500) for k = 10"),
    "order": ("np.argsort(-scores, axis", "np.argsort(scores, axis", "topk", "expected best first"),
    "excluded": (
        "def topk(self, X, k):",
        "takes_excluded = True\n    def topk(self, X, k, excluded=None):",
        "excluded",
        "topk without some labels and all without them apart",
    ),
    "luck": ("scores = np", "X = X * np.random.default_rng().random(); scores = np", "deterministic", "scores differ"),
    "silent": ('if mode != "plain"', "if False", "fails_with_a_reason", "finished with mode: no-such-choice"),
    "mute": ('ValueError(f"mode: found {mode!r}; expected plain")', "ValueError", "fails_with_a_reason", "names the"),
    "keeps": ("self.weights =", "KEPT.append(self); self.weights =", "frees_its_memory", "weights (ndarray)"),
}


@pytest.mark.parametrize("fault", BROKEN_CLASSIFIERS)
def test_a_broken_classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    before, after, name, says = BROKEN_CLASSIFIERS[fault]
    assert before in CLASSIFIER
    code = CLASSIFIER.replace(before, after)
    outcome = check(tmp_path, monkeypatch, code, f"classifier_{fault}", name)[name]
    assert outcome.status == FAILED
    assert says in outcome.detail


UNFIT = {
    "name": ("def topk", "def fact(self): ...\n    def topk", "interface", "found `fact`; expected `facts`"),
    "unknown": ("scale, mode", "scale, mood", "constructor", "unknown setting 'mode'"),
    "missing": ("scale, mode", "scale, mode, more", "constructor", "setting more: found none"),
    "type": ("scale, mode", "scale: str, mode", "constructor", "setting scale: found 1; expected text"),
    "method": ("def fit", "def train", "interface", "found an output layer without loss"),
}


@pytest.mark.parametrize("fault", UNFIT)
def test_names_and_settings_are_checked_where_a_run_checks_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    before, after, name, says = UNFIT[fault]
    assert before in CLASSIFIER
    outcomes = check(tmp_path, monkeypatch, CLASSIFIER.replace(before, after), f"unfit_{fault}")
    assert list(outcomes)[-1] == name
    assert outcomes[name].status == FAILED
    assert says in outcomes[name].detail


def test_what_cannot_be_had_here_is_unsupported_and_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        CLASSIFIER
        + "\n    def prepare(self, seed, threads):\n        raise NotImplementedError('no wheel for this Python')\n"
    )
    outcomes = check(tmp_path, monkeypatch, code, "unsupported_peer")
    assert [o.status for o in outcomes.values()] == [PASSED, UNSUPPORTED]
    assert outcomes["constructor"].detail == "no wheel for this Python"


def test_a_method_may_declare_that_it_is_not_deterministic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = "scores = np.random.default_rng().random((X.shape[0], 500)) * 1e-6 + np"
    code = CLASSIFIER.replace("scores = np", noise).replace("def fit", "reproducible = False\n    def fit")
    outcome = check(tmp_path, monkeypatch, code, "no_seed", "deterministic")["deterministic"]
    assert (outcome.status, outcome.detail) == (DOES_NOT_APPLY, "declared not to be reproducible")


def test_exit_status_and_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    found = runner.invoke(app, ["check", "label_frequency"])
    assert found.exit_code == 0
    assert "label_frequency: 9 passed, 4 not applicable" in found.output
    (tmp_path / "gone.yaml").write_text("target: no_such_module.Layer\n")
    found = runner.invoke(app, ["check", "gone.yaml"])
    assert found.exit_code == 1
    assert "FAILED" in found.output
    assert "No module named 'no_such_module'" in found.output
    with pytest.raises(InputError, match=r"unknown method 'mahc'; did you mean 'mach'\?"):
        list(check_method("mahc"))


def ranking(scores: list[float], labels: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([scores], np.float32), np.array([labels], np.int32)


@pytest.mark.parametrize(
    ("scores", "labels", "says"),
    [
        ([2, 1, 0], [4, 4, 1], "a label twice among"),
        ([2, 1, 0], [5, 3, 1], "label [5]; expected 0 to 4"),
        ([2, 1, 0], [1, 2, -1], "label -1 and score -inf apart"),
        ([2, np.nan, 0], [1, 2, 3], "NaN among the scores"),
        ([2, 1, 1], [0, 3, 2], "labels [3, 2] in this order at equal scores"),
        ([2, 1], [0, 1], "scores of shape (1, 2) for k = 3"),
    ],
)
def test_rankings_that_are_none(scores: list[float], labels: list[int], says: str) -> None:
    with pytest.raises(Failed) as failed:
        well_formed(ranking(scores, labels), 1, 3, 5)
    assert says in str(failed.value)


def test_rankings_that_are_some() -> None:
    well_formed(ranking([2, 1, 1], [4, 0, 3]), 1, 3, 5)
    padded = well_formed(ranking([2, -np.inf, -np.inf], [1, -1, -1]), 1, 3, 2)
    well_formed(ranking([2, 1], [1, 0]), 1, 3, 2)  # a k above the number of labels
    begins(ranking([2], [1]), padded)
    with pytest.raises(Failed, match="the first to begin the second"):
        begins(ranking([2], [0]), padded)


def test_emptied_rows_hold_nothing_and_the_others_what_they_held() -> None:
    matrix = sp.random(6, 5, density=0.7, format="csr", dtype=np.float32, rng=np.random.default_rng(0))
    found = emptied(matrix, [1, 4])
    assert np.diff(found.indptr)[[1, 4]].tolist() == [0, 0]
    keep = [0, 2, 3, 5]
    np.testing.assert_array_equal(found.toarray()[keep], matrix.toarray()[keep])
    assert found.dtype == np.float32


BROKEN_PARTS = {
    "number": ("parts", '"first": first + repetitions.start', '"first": first', "attribute first 0"),
    "size": ("parts", '"R": len(repetitions)', '"R": 1', "a part of 1 repetitions"),
    "settings": ("parts", 'if name != "estimator"', 'if name != "B"', "kernel of repetition 1 apart"),
    "loss": ("parts", 'if name != "estimator"', 'if name != "loss"', "expected"),
    "labels": ("labels_apart", "self.B, labels.start)", "self.B)", "alone and among all, point 0"),
}


@pytest.mark.parametrize("fault", BROKEN_PARTS)
def test_a_part_that_is_not_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    check, before, after, says = BROKEN_PARTS[fault]
    source = (ROOT / "mach" / "layer" / "output.py").read_text()
    assert before in source
    required = 'B: Annotated[int, ">= 1"],'
    assert required in source  # with a default, a part without B is found by its parameters and not by its settings
    source = source.replace(before, after).replace(required, required.removesuffix(",") + " = 8,")
    name = f"parted_{fault}"
    (tmp_path / f"{name}.py").write_text(source)
    settings = "{B: 16, R: 3, loss: softmax, hash: universal, bias: zero, estimator: logit_sum}"
    (tmp_path / f"{name}.yaml").write_text(f"target: {name}.MachOutput\nsettings: {settings}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    outcome = next(found for found in check_method(str(tmp_path / f"{name}.yaml")) if found.check == check)
    assert outcome.status == FAILED
    assert says in outcome.detail
