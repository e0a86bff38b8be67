"""Experiment files of a wrong shape: one line that names file, key, found and expected; and what they may hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.common.errors import InputError
from bench.config.conditions import check_conditions, hold, read_conditions
from bench.config.experiment import experiment_name, load_experiment

RIGHT = {"dataset": "tiny", "seeds": "[0]", "train": "{epochs: 1}", "methods": "{label_frequency: {}}"}


def load(folder: Path, overrides: tuple[str, ...] = (), **keys: str | None) -> object:
    path = folder / "small.yaml"
    path.write_text("".join(f"{key}: {text}\n" for key, text in (RIGHT | keys).items() if text is not None))
    return load_experiment(str(path), overrides)


@pytest.mark.parametrize(
    ("key", "text", "found"),
    [
        ("methods", "[mach]", r"\['mach'\]"),
        ("methods", "mach", "'mach'"),
        ("methods", "5", "5"),
        ("methods", "{}", "nothing"),
        ("methods", None, "nothing"),
        ("methods", "{1: {}}", "1"),
        ("methods", "{'': {}}", "''"),
        ("methods", "{a/b: {method: mach}}", "'/'"),
        ("methods", '{"a\\nb": {method: mach}}', r"'\\n'"),
        ("methods", "{..: {method: mach}}", r"'\.\.'"),
        ("dataset", "5", "5"),
        ("dataset", "no", "False"),
        ("dataset", "[]", "nothing"),
        ("dataset", "[tiny, 5]", "5"),
        ("dataset", "{name: [tiny, moby]}", r"\['tiny', 'moby'\]"),
        ("dataset", "{name: tiny, n_labels: []}", r"\[\]"),
        ("train", "fast", "'fast'"),
        ("train", "5", "5"),
        ("train", "[epochs]", r"\['epochs'\]"),
        ("train", "{lr: .inf}", "inf"),
        ("train", "{epochs: 0}", "0"),
        ("train", "{batch_size: 1.5}", "'1.5'"),
        ("seeds", "[]", r"\[\]"),
        ("seeds", "[-1]", "-1"),
        ("seeds", "[1.5]", "1.5"),
        ("seeds", "{a: 1}", "{'a': 1}"),
        ("seeds", "'3'", "'3'"),
        ("seeds", "true", "True"),
        ("name", "../up", r"'\.\./up'"),
        ("name", "''", "''"),
    ],
)
def test_a_wrong_shape_names_file_key_and_value(tmp_path: Path, key: str, text: str | None, found: str) -> None:
    with pytest.raises(InputError, match=found) as caught:
        load(tmp_path, **{key: text})
    (line,) = str(caught.value).splitlines()
    assert line.startswith(str(tmp_path / "small.yaml"))
    assert key in line


def test_a_sweep_over_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"B of mach: found \[\]"):
        load(tmp_path, methods="{mach: {B: []}}")


@pytest.mark.parametrize("text", ["- a\n- b\n", "5\n", "a: 1\na: 2\n", "\tx: 1\n", "--- {}\n--- {}\n", "x: [\n"])
def test_yaml_that_cannot_be_read_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"small\.yaml") as caught:
        load_experiment(str(path))
    assert "\n" not in str(caught.value)


def test_numbers_are_what_people_mean(tmp_path: Path) -> None:
    small = load(tmp_path, ("train.epochs=1e1",), seeds="[1e1]", train="{lr: '1e-3', batch_size: 1e2}")
    (run,) = small.runs  # type: ignore[attr-defined]
    assert (run.seed, run.train.lr, run.train.batch_size, run.train.epochs) == (10, 1e-3, 100, 10)
    assert isinstance(run.seed, int)
    small = load(tmp_path, ("methods.mach.R=1:30",), methods="{mach: {B: 010}}")
    (run,) = small.runs  # type: ignore[attr-defined]
    assert (run.settings["B"], run.settings["R"]) == ("010", "1:30")  # not 8 and 90: the method refuses text


def test_names_with_dots_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exp.v1.yaml").write_text("".join(f"{key}: {text}\n" for key, text in RIGHT.items()))
    assert load_experiment("exp.v1.yaml").name == "exp.v1"
    for given in ("exp.v1.yaml", "exp.v1", "results/exp.v1"):
        assert experiment_name(given) == "exp.v1"
    with pytest.raises(InputError, match="experiment: found"):
        experiment_name("..")


def test_run_ids_are_safe_names_and_say_which_method(tmp_path: Path) -> None:
    found = load(
        tmp_path, methods="{'cost $5: a b': {method: label_frequency}, 'cost $5: a_b': {method: label_frequency}}"
    )
    first, second = found.runs  # type: ignore[attr-defined]
    ids = [run.run_id("code", "data") for run in (first, second)]
    assert first.method == "cost $5: a b"
    assert ids[0] != ids[1]
    for run_id in ids:
        assert run_id.startswith("cost__5__a_b-tiny-s0-")


def test_conditions() -> None:
    row = {"method": "a,b", "B": 1024, "lr": 1e-3, "holdout": True, "R": None}
    for text in (
        "method=a,b",
        "B=1024",
        "B=64,1024",
        "B=1024.0",
        "B=1e3,1024",
        "lr=0.001",
        "holdout=true",
        "R=",
        "B=,1024",
    ):
        assert hold(read_conditions([text]), row), text
    for text in ("method=c", "B=64", "B=", "R=1", "B=nope"):
        assert not hold(read_conditions([text]), row), text
    assert not hold(read_conditions(["B=1024", "method=c"]), row)
    with pytest.raises(InputError, match="key=value"):
        read_conditions(["B"])
    with pytest.raises(InputError, match="did you mean 'method'"):
        check_conditions(read_conditions(["metod=mach"]), row)
