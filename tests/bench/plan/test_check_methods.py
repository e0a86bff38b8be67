"""Methods and settings of an experiment are checked in a process of its own, before anything is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import machbench, write_experiment

from bench.common.code_hash import code_hash
from bench.common.errors import InputError
from bench.config.experiment import Experiment, load_experiment
from bench.config.spec import RunSpec
from bench.plan import check_methods
from bench.plan.check_methods import answer, checked
from bench.results.store import Store

TEXT = """
dataset: tiny
methods:
  mach: {B: 32, R: 2}
  adaptive_softmax: {div_value: 2.0}
"""


def load(folder: Path, text: str = TEXT, *overrides: str) -> Experiment:
    return load_experiment(str(folder / write_experiment(folder, text)), overrides)


def test_1e3_is_1000_before_ids_are_made_and_floats_stay(tmp_path: Path) -> None:
    given = load(tmp_path, TEXT, "methods.mach.B=1e3,64", "methods.mach.R=2")
    assert [run.settings["B"] for run in given.runs if run.method == "mach"] == [1000.0, 64]
    found = checked(given, Store(tmp_path / "results" / "small"))
    assert not (tmp_path / "results").exists()
    first, second, third = found.runs
    assert json.dumps(first.settings["B"]) == json.dumps(first.swept["methods.mach.B"]) == "1000"
    assert (second, third) == given.runs[1:]  # a whole float stays one where a float is expected
    right = load(tmp_path, TEXT, "methods.mach.B=1000,64", "methods.mach.R=2")
    assert [run.canonical() for run in found.runs] == [run.canonical() for run in right.runs]


def test_every_error_is_a_line_and_one_process_finds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    ask = check_methods._ask
    monkeypatch.setattr(check_methods, "_ask", lambda pairs: (calls.append(pairs), ask(pairs))[1])
    wrong = load(tmp_path, TEXT, "methods.mach.B=16.5,32", "methods.adaptive_softmax.bias=piror", "seeds=0,1")
    with pytest.raises(InputError) as error:
        checked(wrong, Store(tmp_path / "results" / "small"))
    mach, adaptive = str(error.value).splitlines()
    words = "method mach.layer.MachOutput, setting B: found 16.5; expected a whole number of at least 1"
    assert mach == f"{tmp_path / 'small.yaml'}: {words}"
    assert adaptive.endswith("AdaptiveSoftmax, setting bias: found 'piror'; expected one of prior, zero")
    assert [len(pairs) for pairs in calls] == [3]  # seeds ask nothing new
    assert not (tmp_path / "results").exists()


def finish(store: Store, spec: RunSpec, code: str, status: str = "ok") -> None:
    folder = store.runs / f"{spec.method}-{status}-{code[:6]}"
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps({"status": status}))
    (folder / "spec.json").write_text(json.dumps(json.loads(spec.to_json()) | {"code": code, "asked": ""}))


def test_finished_runs_of_the_same_code_are_not_checked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    question: list[Any] = []
    monkeypatch.setattr(check_methods, "_ask", lambda pairs: (question.extend(pairs), [{}] * len(pairs))[1])
    experiment, store = load(tmp_path), Store(tmp_path / "results" / "small")
    mach, adaptive = experiment.runs
    finish(store, mach, code_hash(mach.target))
    finish(store, adaptive, code_hash(adaptive.target), "crashed")
    finish(store, adaptive, "other code")
    (store.runs / "torn").mkdir()
    (store.runs / "torn" / "record.json").write_text("{")
    assert checked(experiment, store) == experiment
    assert [target for target, _ in question] == [adaptive.target]
    finish(store, adaptive, code_hash(adaptive.target))
    question.clear()
    assert checked(experiment, store) is experiment
    assert question == []


def test_what_cannot_be_imported_here_is_left_to_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "needs_more.py").write_text("import no_such_library\nclass Layer: ...\n")
    (tmp_path / "misspelt.py").write_text(
        "class Layer:\n    def fit(self): ...\n    def topk(self): ...\n    fact = 1\n"
    )
    assert answer("needs_more.Layer", {}) == {}
    assert "has no attribute 'Lyaer'" in answer("misspelt.Lyaer", {})["error"]
    assert answer("misspelt.Layer", {})["error"].startswith("method misspelt.Layer: found `fact`; expected `facts`")
    assert answer("baselines.nearest_neighbours.NearestNeighbours", {"neighbours": 5.0}) == {
        "settings": {"neighbours": 5}
    }


@pytest.mark.parametrize(
    ("target", "settings", "says"),
    [
        ("mach.layer.MachOutput", {"B": 8, "R": 2, "estimator": "foo"}, "setting estimator: unknown estimator 'foo'"),
        ("mach.layer.MachOutput", {"B": 8, "R": 2, "estimator": "mean+mean"}, "names one twice"),
        ("mach.layer.MachOutput", {"B": 1, "R": 2, "estimator": "unbiased"}, "expected at least 2 buckets"),
        ("mach.layer.MachOutput", {"B": 8, "R": 2, "share_encoder": True, "feature_hash": 9}, "a shared encoder"),
        ("baselines.adaptive_softmax.AdaptiveSoftmax", {"cutoffs": "0.4-0.1"}, "setting cutoffs: found '0.4-0.1'"),
        ("baselines.adaptive_softmax.AdaptiveSoftmax", {"cutoffs": "1.5-9"}, "setting cutoffs: found '1.5-9'"),
        ("baselines.sampled_softmax.SampledSoftmax", {"sampler": "foo"}, "setting sampler: found 'foo'"),
    ],
)
def test_settings_that_only_the_method_can_judge(target: str, settings: dict[str, Any], says: str) -> None:
    assert says in answer(target, settings)["error"]


def test_a_process_that_ends_without_an_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_methods, "python", lambda _: (["false"], {}))
    with pytest.raises(InputError, match="the process that checks methods ended with exit status 1"):
        check_methods._ask([("a.B", {})])


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("methods.mach.B=16.5", "setting B: found 16.5; expected a whole number of at least 1"),
        ("methods.mach.share_encoder=1", "setting share_encoder: found 1; expected true or false"),
    ],
)
def test_a_run_with_a_bad_setting_starts_nothing_and_writes_nothing(tmp_path: Path, override: str, says: str) -> None:
    name, cache = write_experiment(tmp_path, TEXT), tmp_path / "cache"
    done = machbench("run", name, override, cwd=tmp_path, check=2, MACHBENCH_CACHE=str(cache))
    (line,) = done.stderr.strip().splitlines()
    assert line.endswith(f"method mach.layer.MachOutput, {says}")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_misspelt_capability_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "class Mine:\n    def fit(self, X, Y): ...\n    def topk(self, X, k): ...\n    def prepares(self): ...\n"
    )
    (tmp_path / "mine.yaml").write_text("target: mine.Mine\n")
    name = write_experiment(tmp_path, "dataset: tiny\nmethods: {mine: {method: mine.yaml}}\n")
    done = machbench("run", name, cwd=tmp_path, check=2)
    assert "method mine.Mine: found `prepares`; expected `prepare`" in done.stderr
    assert not (tmp_path / "results").exists()
    plan = machbench("plan", name, cwd=tmp_path, check=2)
    assert "found `prepares`; expected `prepare`" in plan.stderr
