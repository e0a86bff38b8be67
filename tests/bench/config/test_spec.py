from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.common import code_hash as code
from bench.common.code_hash import code_hash
from bench.common.errors import InputError
from bench.common.paths import config_root
from bench.config.experiment import load_experiment
from bench.config.spec import RunSpec, TrainSettings, derive_seed

EXPERIMENT = """
description: a test
dataset: tiny
seeds: [0, 1]
train: {epochs: 2}
methods:
  label_frequency: {}
  mach: {B: [8, 16], R: 2, lr: 0.1}
"""


@pytest.fixture
def experiment(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(EXPERIMENT)
    return str(path)


def test_seeds_are_the_outer_loop(experiment: str) -> None:
    runs = load_experiment(experiment).runs
    assert [(r.seed, r.method, r.settings.get("B")) for r in runs] == [
        (0, "label_frequency", None),
        (0, "mach", 8),
        (0, "mach", 16),
        (1, "label_frequency", None),
        (1, "mach", 8),
        (1, "mach", 16),
    ]
    assert all(r.train.epochs == 2 for r in runs)
    assert runs[1].train.lr == 0.1
    assert runs[1].swept == {"methods.mach.B": 8}


def test_overrides_set_and_sweep(experiment: str) -> None:
    chosen = load_experiment(
        experiment,
        ["seeds=0", "methods.mach.B=4", "methods.mach.hidden=8-4,16", "train.epochs=1,3", "dataset=tiny"],
    )
    runs = [r for r in chosen.runs if r.method == "mach"]
    found = {(r.train.hidden, r.train.epochs) for r in runs}
    assert found == {("8-4", 1), ("8-4", 3), ("16", 1), ("16", 3)}
    assert runs[0].train.hidden_sizes() == [8, 4]
    assert set(runs[0].swept) == {"train.epochs", "methods.mach.hidden"}


def test_the_experiment_overrules_the_methods_file(tmp_path: Path) -> None:
    method = tmp_path / "mine.yaml"
    method.write_text("target: some.module.Layer\nsettings: {width: 3}\ntrain: {lr: 0.5, epochs: 9}\n")
    path = tmp_path / "e.yaml"
    path.write_text(
        "dataset: tiny\ntrain: {epochs: 2}\nmethods:\n"
        f"  a: {{method: {method}, width: 4}}\n  b: {{method: {method}}}\n"
    )
    a, b = load_experiment(str(path)).runs
    assert (a.settings, b.settings) == ({"width": 4}, {"width": 3})
    assert (a.train.lr, a.train.epochs, a.target) == (0.5, 2, "some.module.Layer")


def test_dataset_parameters(experiment: str) -> None:
    run = load_experiment(experiment, ["dataset.scale=0.5"]).runs[0]
    assert (run.dataset, run.dataset_overrides) == ("tiny", {"scale": 0.5})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("methods.mach.BB=4", r"unknown key 'BB' in .*small.yaml, methods.mach; did you mean 'B'\?"),
        ("methods.mahc.B=4", r"unknown method 'mahc'; did you mean 'mach'\?"),
        ("trian.epochs=4", r"unknown key 'trian' in override .*; did you mean 'train'\?"),
        ("train.epoch=4", r"unknown key 'epoch' in .*, train; did you mean 'epochs'\?"),
        ("train.epochs=many", r"epochs|many"),
        ("train.epochs=0", r"epochs: found 0; expected at least 1"),
        ("train.hidden=12-x", r"hidden: found '12-x'; expected widths"),
        ("train.lr=-1", r"lr: found -1.0; expected a positive"),
        ("train.lr_schedule=cosin", r"unknown lr_schedule 'cosin'"),
        ("train.optimiser=adagrad", r"unknown optimiser 'adagrad'; did you mean 'rowwise_adagrad'"),
        ("train.precision=fp16", r"unknown precision 'fp16'"),
        ("seeds=zero", r"key seeds: found 'zero'; expected whole numbers"),
        ("methods.mach", r"expected key=value"),
        ("seeds.x=1", r"seeds is a value and has no keys"),
    ],
)
def test_wrong_overrides_say_what_was_expected(experiment: str, override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_experiment(experiment, [override])


def test_unknown_experiment_suggests_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown experiment 'quickstrat'; did you mean 'quickstart'\?"):
        load_experiment("quickstrat")


@pytest.mark.parametrize("text", ["methods: [", "- 1\n- 2\n", "dataset: tiny\n", "methods: {mach: {}}\n"])
def test_malformed_files_are_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"broken\.yaml"):
        load_experiment(str(path))


def spec(**changes: object) -> RunSpec:
    content = {
        "method": "mach",
        "target": "mach.layer.output.MachOutput",
        "settings": {"B": 8, "R": 2},
        "train": TrainSettings(),
        "dataset": "tiny",
        "dataset_overrides": {},
        "seed": 0,
    }
    return RunSpec(**{**content, **changes})  # type: ignore[arg-type]


def test_identity_is_spec_code_and_data() -> None:
    run_id = spec().run_id("code", "data")
    assert run_id.startswith("mach-tiny-B8-R2-s0-")
    assert run_id == spec(swept={"methods.mach.B": 8}).run_id("code", "data")
    others = [
        spec(seed=1).run_id("code", "data"),
        spec(train=TrainSettings(lr=0.1)).run_id("code", "data"),
        spec().run_id("edited", "data"),
        spec().run_id("code", "other"),
    ]
    assert len({run_id, *others}) == 5


def test_a_spec_is_equal_after_json() -> None:
    assert RunSpec.from_json(spec().to_json()) == spec()


def test_seeds_differ_by_axis_and_are_fixed() -> None:
    assert derive_seed(0, "data order") != derive_seed(0, "hashing") != derive_seed(1, "hashing")
    assert all(0 <= derive_seed(5, "encoder", r) < 2**31 for r in range(100))
    # sha256("0/hashing") by hand: results must not change between versions unless the changelog says so
    digest = hashlib.sha256(b"0/hashing").hexdigest()
    assert derive_seed(0, "hashing") == int(digest[:8], 16) // 2


def test_code_hash_follows_the_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edit of a method's own helper changes the hash; an edit of a module it does not import does not."""
    package = tmp_path / "mypackage"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "layer.py").write_text("from mypackage import helper\nclass Layer: ...\n")
    (package / "helper.py").write_text("x = 1\n")
    (package / "other.py").write_text("y = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = code_hash("mypackage.layer.Layer")
    (package / "other.py").write_text("y = 2\n")
    assert code_hash("mypackage.layer.Layer") == before
    (package / "helper.py").write_text("x = 2\n")
    assert code_hash("mypackage.layer.Layer") != before
    with pytest.raises(InputError, match="not found on the Python path"):
        code_hash("mypackage.absent.Layer")


def test_code_hash_follows_relative_imports_and_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "relative_package" / "inner"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("")
    (package.parent / "helper.py").write_text("x = 1\n")
    (package / "__init__.py").write_text("")
    (package / "beside.py").write_text("x = 1\n")
    (package / "layer.py").write_text(
        "from . import beside\nfrom ..helper import x\nif TYPE_CHECKING:\n    from . import never\nclass Layer: ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = {code_hash("relative_package.inner.layer.Layer")}
    for edited in (package / "beside.py", package.parent / "helper.py", package / "__init__.py"):
        edited.write_text("x = 2\n")
        found.add(code_hash("relative_package.inner.layer.Layer"))
    assert len(found) == 4
    (package / "never.py").write_text("x = 2\n")
    assert code_hash("relative_package.inner.layer.Layer") in found


def test_code_hash_refuses_an_executing_module_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise edits of the training loop would change no run's identity after a careless rename."""
    monkeypatch.setattr("bench.common.code_hash.ENTRIES", ("bench.run.execute", "bench.no_such_module"))
    with pytest.raises(InputError, match=r"'bench\.no_such_module'.*not found"):
        code_hash("mach.layer.output.MachOutput")


@pytest.mark.parametrize(
    "edited", ["bench/run/train.py", "mach/layer/loss.py", "bench/run/ranks/peer_main.py", "bench/run/__main__.py"]
)
def test_code_hash_changes_with_what_a_run_executes(edited: str, tmp_path: Path) -> None:
    root = Path(code.__file__).resolve().parents[2]
    for package in code.PROJECT:
        shutil.copytree(root / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    program = "from bench.common.code_hash import code_hash; print(code_hash('mach.layer.output.MachOutput'))"

    def hash_now() -> str:
        command, env = [sys.executable, "-P", "-c", program], os.environ | {"PYTHONPATH": str(tmp_path)}
        return subprocess.run(command, env=env, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    before = hash_now()
    with (tmp_path / edited).open("a") as file:
        file.write("# edited\n")
    assert hash_now() != before


def test_a_dataset_is_swept_and_brings_settings_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(
        "seeds: [0, 1]\ntrain: {epochs: 2, hidden: 8}\nmethods: {mach: {B: 8, lr: 0.5}, label_frequency: {}}\n"
        "dataset:\n- tiny\n- {name: tiny, seed: [3, 4], train: {epochs: 7}, methods: {mach: {B: [16, 32]}}}\n"
    )
    runs = load_experiment(str(path)).runs
    found = [(r.seed, r.dataset_overrides, r.settings["B"], r.train.epochs) for r in runs if r.method == "mach"]
    each = [({}, 8, 2), ({"seed": 3}, 16, 7), ({"seed": 3}, 32, 7), ({"seed": 4}, 16, 7), ({"seed": 4}, 32, 7)]
    assert found == [(seed, *rest) for seed in (0, 1) for rest in each]
    assert {(r.train.lr, r.train.hidden) for r in runs if r.method == "mach"} == {(0.5, "8")}
    assert [r.swept for r in runs if r.method == "label_frequency"][:3] == [
        {},
        {"dataset.seed": 3},
        {"dataset.seed": 4},
    ]
    assert [r.swept for r in runs][2:4] == [
        {"dataset.seed": 3, "methods.mach.B": 16},
        {"dataset.seed": 3, "methods.mach.B": 32},
    ]


def test_a_dataset_swept_by_override(experiment: str) -> None:
    runs = load_experiment(experiment, ["dataset.seed=3,4", "seeds=0", "methods.mach.B=4"]).runs
    assert [(r.method, r.dataset_overrides["seed"]) for r in runs] == [
        ("label_frequency", 3),
        ("mach", 3),
        ("label_frequency", 4),
        ("mach", 4),
    ]


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ("methods: {mahc: {B: 3}}", r"unknown method 'mahc' in .*dataset tiny, methods; did you mean 'mach'\?"),
        ("methods: {mach: {BB: 3}}", r"unknown key 'BB'"),
        ("methods: {mach: 3}", r"dataset tiny, methods.mach: found 3; expected keys and values"),
        ("train: {epoch: 3}", r"unknown key 'epoch'"),
        ("train: 3", r"dataset tiny, train: found 3; expected keys and values"),
    ],
)
def test_wrong_settings_of_a_dataset(tmp_path: Path, own: str, message: str) -> None:
    path = tmp_path / "e.yaml"
    path.write_text(f"dataset: {{name: tiny, {own}}}\nmethods: {{mach: {{}}}}\n")
    with pytest.raises(InputError, match=message):
        load_experiment(str(path))


def test_the_paper_must_exist(experiment: str) -> None:
    with pytest.raises(InputError, match=r"unknown paper 'mach-pytroch'; did you mean 'mach-pytorch'\?"):
        load_experiment(experiment, ["paper=mach-pytroch"])
    paper = load_experiment(experiment, ["paper=mach-pytorch"]).paper
    assert paper is not None
    assert paper.name == "mach-pytorch.yaml"


@pytest.mark.parametrize("name", sorted(path.stem for path in (config_root() / "experiment").glob("*.yaml")))
def test_every_experiment_unfolds(name: str) -> None:
    experiment = load_experiment(name)
    assert len({run.canonical() + run.method for run in experiment.runs}) == len(experiment.runs) > 0


def test_the_reproduction_runs_both_datasets_over_ten_splits() -> None:
    runs = load_experiment("reproduce_mach_pytorch").runs
    found = [(run.dataset, run.settings["B"], run.dataset_overrides["split"]) for run in runs]
    assert found == [(name, B, split) for name, B in (("delicious-983", 200), ("bibtex", 100)) for split in range(10)]
